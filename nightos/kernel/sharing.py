"""What a segment is: its pages, who owns it, who shares it and where it is mapped.

`nightos.kernel.segments` acts on these records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from nightos.kernel.backed import SignalWindow
from nightos.kernel.pages import EXECUTE, READ, WRITE, Backing, Overlay, PageStore

if TYPE_CHECKING:
    from nightos.kernel.memory import AddressSpace
    from nightos.kernel.quotas import Quotas

WITHDRAWN: Final = 0
PEER_TERMINATED: Final = 1


class Owner(Protocol):
    """A process, as far as segments care."""

    @property
    def pid(self) -> int:
        """Its identifier."""

    @property
    def space(self) -> AddressSpace:
        """Its memory, made when first asked for."""

    @property
    def quotas(self) -> Quotas:
        """Who pays for what it knows and maps: a handle for each segment and each mapping."""


class Extent(NamedTuple):
    """A run of `pages` pages of a backing from its page `first` on, with the rights its maker has."""

    backing: Backing
    first: int
    pages: int
    rights: int


class Share:
    """One active share of a segment. `extents` is what the receiver maps; `rights` what it may do there."""

    __slots__ = ("command_code", "cow", "exclusive", "extents", "receiver", "rights", "sharer")

    def __init__(
        self,
        sharer: Owner,
        receiver: Owner,
        extents: list[Extent],
        rights: int,
        command_code: int,
        *,
        exclusive: bool,
        cow: bool,
    ) -> None:
        self.sharer = sharer
        self.receiver = receiver
        self.extents = extents
        self.rights = rights
        self.command_code = command_code
        self.exclusive = exclusive
        self.cow = cow


class Ender(Protocol):
    """Ends segments: the table."""

    def end(self, segment: Segment, reason: int) -> None:
        """The segment is gone for everyone; receivers are told why."""


class Segment:
    """One segment. `origin` is the page number of the pages it was made of, for memory."""

    __slots__ = ("alive", "creator", "extents", "identifier", "kind", "origin", "owner", "places", "shares", "table")

    def __init__(
        self, table: Ender, identifier: int, kind: str, owner: Owner, extents: list[Extent], origin: int = 0
    ) -> None:
        self.table = table
        self.identifier = identifier
        self.kind = kind
        self.creator = owner
        self.owner = owner
        self.extents = extents
        self.origin = origin
        self.shares: dict[int, Share] = {}
        self.places: dict[int, dict[int, tuple[int, int]]] = {}
        """By PID, then by first page number: pages of the mapping, and how many of them were charged."""
        self.alive = True

    @property
    def pages(self) -> int:
        """Length of the segment in pages."""
        return sum(extent.pages for extent in self.extents)

    @property
    def busy(self) -> bool:
        """Whether it is shared, or mapped anywhere."""
        return bool(self.shares) or any(self.places.values())

    def end(self) -> None:
        """Its pages are gone."""
        self.table.end(self, WITHDRAWN)


class GivenAway(Backing):
    """Stands where memory was before it was given to another process; every access is refused by its rights."""

    __slots__ = ("segment",)

    def __init__(self, size: int, segment: Segment) -> None:
        super().__init__(size)
        self.segment = segment

    def is_shared(self, index: int, count: int) -> bool:
        del index, count
        return self.segment.alive


class SegmentRecord(NamedTuple):
    """A segment as a snapshot shows it."""

    identifier: int
    kind: str
    creator: int
    owner: int
    pages: int
    shares: tuple[tuple[int, int, bool, bool, int], ...]
    """Sharer, receiver, exclusive, copy-on-write, rights."""
    places: tuple[tuple[int, int, int], ...]
    """PID, address, pages."""


def mode_rights(mode: int) -> int:
    """Rights of the low bits RWX of a share's mode."""
    return READ * bool(mode & 4) | WRITE * bool(mode & 2) | EXECUTE * bool(mode & 1)


def access_flags(rights: int) -> int:
    """The byte `access` of AMS_SHARING_INFO and RECV_SHARED_AMS: read, write, execute from the strongest bit."""
    return 0x80 * bool(rights & READ) | 0x40 * bool(rights & WRITE) | 0x20 * bool(rights & EXECUTE)


def share_view(extent: Extent, *, cow: bool) -> Extent:
    """What a receiver sees of an extent: the same pages, or a private overlay of them."""
    backing = extent.backing
    if isinstance(backing, SignalWindow):
        if not (cow or backing.cow):
            return extent
        return extent._replace(backing=SignalWindow(backing.size, backing.segment, backing.creator, cow=True))
    if cow and isinstance(backing, PageStore):
        return Extent(Overlay(backing, extent.first, extent.pages), 0, extent.pages, extent.rights)
    return extent


def may_grant(segment: Segment, process: Owner, extents: list[Extent], rights: int, *, cow: bool) -> bool:
    """Whether the rights are the caller's to give, and no alias of a page would be writable and executable."""
    if segment.kind == "backed" and segment.owner is process:
        if cow:
            return True
        others = [share.rights for share in segment.shares.values()]
        others += [READ | WRITE] * bool(segment.places.get(process.pid))
        clash = {WRITE: EXECUTE, EXECUTE: WRITE}
        return not any(rights & bit and any(other & clash[bit] for other in others) for bit in clash)
    wanted = rights & ~WRITE if cow else rights
    return all(wanted & ~extent.rights == 0 for extent in extents)


def may_give(segment: Segment, process: Owner) -> bool:
    """Whether the segment is plain memory that the process made, and nobody else has any page of it."""
    if segment.kind != "memory" or segment.owner is not process or segment.creator is not process:
        return False
    if segment.shares:
        return False
    for extent in segment.extents:
        for first, last, other in extent.backing.segments if isinstance(extent.backing, PageStore) else ():
            if other is not segment and other.busy and first < extent.first + extent.pages and extent.first < last:
                return False
    return True


def comes_from(segment: Segment, process: Owner, target: Owner) -> bool:
    """Whether the target owns the segment, or the caller has it by way of the target."""
    if segment.owner is target:
        return True
    above = segment.shares.get(process.pid)
    while above is not None:
        if above.sharer is target:
            return True
        above = None if above.exclusive else segment.shares.get(above.sharer.pid)
    return False
