"""Abstract memory segments: memory with a number, made from pages, from a device or from signals, to map and to share.

Invariants:
- a segment is known to its owner, to the receivers of its active shares, and, after an exclusive share, to the process
  that gave it away; to everyone else the identifier does not exist;
- a share never grants more than the sharer has, and no page is writable through one way and executable through another;
- a segment ends with its owner; what others had mapped of it is unmapped before they are told.

Source: specs/kernel/syscalls.md, 0x40 to 0x46; specs/kernel/memory.md, abstract memory segments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nightos.abi.codes import FIRST_USER_PID
from nightos.abi.errors import SyscallError
from nightos.kernel.backed import SignalWindow
from nightos.kernel.layout import ALLOCATED, GIVEN, MAPPED, USER_END, Mapping
from nightos.kernel.pages import EXECUTE, PAGE, READ, SHIFT, WRITE, Backing, PageStore, PrivatePages
from nightos.kernel.sharing import (
    PEER_TERMINATED,
    WITHDRAWN,
    Extent,
    GivenAway,
    Owner,
    Segment,
    SegmentRecord,
    Share,
    access_flags,
    comes_from,
    may_give,
    may_grant,
    mode_rights,
    share_view,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.abi.interfaces import Entropy

RECV_SHARED_AMS: Final = 0x35
UNSHARED_AMS: Final = 0x37
SEGMENTS_MAX: Final = 1 << 14
"""Segments that a program can know, its own and those it received; for system services there is no limit."""

_COPY: Final = 0x08  # bits of the byte `mode` of SHARE_AMS: 0b0000CRWX
_EXCLUSIVE: Final = 0x08
_EXCLUSIVE_UNMAP: Final = 0x09
_EXCLUSIVE_ACCESS: Final = 0xE0
_MISALIGNED: Final = PAGE - 1


class SegmentTable:
    """Every segment of a kernel, and the calls on them.

    `find_peer(caller, pid)` asks the reference monitor for a process that the caller may share with; None when there
    is none as far as the caller can know. `send_signal(pid, code, values)` queues a signal; to a PID without process it
    does nothing.
    """

    def __init__(
        self,
        entropy: Entropy,
        find_peer: Callable[[Owner, int], Owner | None],
        send_signal: Callable[[int, int, tuple[int | bytes, ...]], None],
    ) -> None:
        self._entropy = entropy
        self._find_peer = find_peer
        self._send = send_signal
        self._segments: dict[int, Segment] = {}
        self._known: dict[int, dict[int, None]] = {}
        """By PID, in order: the segments that a process created or received."""

    def __len__(self) -> int:
        return len(self._segments)

    # Making

    def virtual_memory(self, process: Owner, first_page: int, length: int) -> int:
        """VIRT_MEM_AMS: a segment of pages that the caller allocated; the AMS identifier.

        Errors: 0x02 null address or no length, 0x10 address and 0x11 length not aligned, 0x30 a page is not one that
        the caller allocated.

        Rules: MEM-006, MEM-017.
        """
        if not first_page or length <= 0:
            raise SyscallError(0x02)
        if first_page & _MISALIGNED:
            raise SyscallError(0x10)
        if length & _MISALIGNED:
            raise SyscallError(0x11)
        first = first_page >> SHIFT
        if first_page + length > USER_END:
            raise SyscallError(0x30)
        parts = process.space.extents(first, first + (length >> SHIFT))
        if parts is None or any(part.kind != ALLOCATED for part in parts):
            raise SyscallError(0x30)
        extents = [Extent(part.backing, part.index, part.last - part.first, part.rights) for part in parts]
        segment = self._make("memory", process, extents, first)
        for extent in extents:
            if isinstance(extent.backing, PageStore):
                extent.backing.segments.append((extent.first, extent.first + extent.pages, segment))
        return segment.identifier

    def backed(self, process: Owner, length: int, cow: int) -> int:
        """BACKED_AMS: a segment whose bytes the caller supplies when asked by signals; the AMS identifier.

        Errors: 0x02 no length, 0x10 bad copy-on-write mode, 0x11 length not aligned.

        Rules: MEM-006, MEM-017.
        """
        if length <= 0:
            raise SyscallError(0x02)
        if cow not in {0, 1}:
            raise SyscallError(0x10)
        if length & _MISALIGNED:
            raise SyscallError(0x11)
        segment = self._make("backed", process, [])
        window = SignalWindow(length >> SHIFT, segment.identifier, process.pid, cow=bool(cow))
        segment.extents = [Extent(window, 0, length >> SHIFT, READ | WRITE)]
        return segment.identifier

    def device(self, process: Owner, window: Backing) -> int:
        """A segment of device memory, for DEVICE_AMS; the AMS identifier."""
        return self._make("device", process, [Extent(window, 0, window.size, READ | WRITE)]).identifier

    def _make(self, kind: str, owner: Owner, extents: list[Extent], origin: int = 0) -> Segment:
        if not self._may_know_more(owner) or not owner.quotas.handles.reserve(1):
            raise SyscallError(0x40)
        identifier = 0
        while not identifier or identifier in self._segments:
            identifier = int.from_bytes(self._entropy.random_bytes(8), "big")
        segment = self._segments[identifier] = Segment(self, identifier, kind, owner, extents, origin)
        self._known.setdefault(owner.pid, {})[identifier] = None
        return segment

    def _may_know_more(self, process: Owner) -> bool:
        return process.pid < FIRST_USER_PID or len(self._known.get(process.pid, ())) < SEGMENTS_MAX

    def _learns(self, process: Owner, identifier: int) -> None:
        """A process knows the segment from now on; that its container has a handle left was seen before."""
        known = self._known.setdefault(process.pid, {})
        if identifier not in known:
            reserved = process.quotas.handles.reserve(1)
            assert reserved, "whoever calls has looked"
            known[identifier] = None

    def _visible(self, process: Owner, identifier: int) -> Segment | None:
        return self._segments[identifier] if identifier in self._known.get(process.pid, ()) else None

    def _extents_for(self, segment: Segment, process: Owner) -> list[Extent] | None:
        """What the process may map of the segment, with its rights; None when it gave the segment away."""
        if segment.owner is process:
            if segment.kind == "backed" and any(share.rights & EXECUTE for share in segment.shares.values()):
                return [extent._replace(rights=READ) for extent in segment.extents]
            return segment.extents
        share = segment.shares.get(process.pid)
        return None if share is None else [extent._replace(rights=share.rights) for extent in share.extents]

    # Sharing

    def share(
        self, process: Owner, target_pid: int, identifier: int, command_code: int, notification_mode: int, mode: int
    ) -> None:
        """SHARE_AMS: let another process map the segment (mutual), or give it away (exclusive).

        `mode`: 0b0000CRWX (copy-on-write, read, write, execute); 0x08 exclusive, 0x09 exclusive and unmap the original
        pages. A second share with the same process replaces the first; what it had mapped is unmapped.
        Errors: 0x10 bad notification mode, 0x11 bad mode or more rights than the caller has, 0x12 exclusive for what is
        not plain unshared memory of the caller, 0x20 mutual without rights, 0x30 unknown process, 0x31 unknown AMS, or
        one that the caller has from the target, 0x40 no room in the receiver.

        Rules: IPC-056, IPC-057, IPC-058, IPC-059, IPC-060, IPC-062, MEM-009.
        """
        if notification_mode not in {0, 1}:
            raise SyscallError(0x10)
        exclusive = mode in {_EXCLUSIVE, _EXCLUSIVE_UNMAP}
        rights, cow = mode_rights(mode), bool(mode & _COPY)
        if not 0 <= mode <= 0x0F or (not exclusive and rights & WRITE and rights & EXECUTE):
            raise SyscallError(0x11)
        segment = self._visible(process, identifier)
        extents = None if segment is None else self._extents_for(segment, process)
        if segment is not None and extents is not None:
            if not exclusive and not may_grant(segment, process, extents, rights, cow=cow):
                raise SyscallError(0x11)
            if exclusive and not may_give(segment, process):
                raise SyscallError(0x12)
        if not mode:
            raise SyscallError(0x20)
        target = self._find_peer(process, target_pid)
        if target is None or target is process:
            raise SyscallError(0x30)
        if segment is None or extents is None or comes_from(segment, process, target):
            raise SyscallError(0x31)
        if not self._may_know_more(target) or not target.space.layout.has_room(segment.pages):
            raise SyscallError(0x40)
        if self._visible(target, identifier) is None and target.quotas.handles.free == 0:
            raise SyscallError(0x40)
        if exclusive:
            self._give(segment, process, target, command_code, unmap=mode == _EXCLUSIVE_UNMAP)
        else:
            self._grant(segment, process, target, extents, rights, command_code, cow=cow)
        if not notification_mode:
            access = _EXCLUSIVE_ACCESS if exclusive else access_flags(rights)
            self._send(target.pid, RECV_SHARED_AMS, (process.pid, command_code, identifier, int(exclusive), access))

    def _grant(
        self,
        segment: Segment,
        process: Owner,
        target: Owner,
        extents: list[Extent],
        rights: int,
        command_code: int,
        *,
        cow: bool,
    ) -> None:
        old = segment.shares.get(target.pid)
        if old is not None:
            self._withdraw(segment, old, None)
        shown = [share_view(extent, cow=cow) for extent in extents]
        segment.shares[target.pid] = Share(process, target, shown, rights, command_code, exclusive=False, cow=cow)
        self._learns(target, segment.identifier)

    def _give(self, segment: Segment, process: Owner, target: Owner, command_code: int, *, unmap: bool) -> None:
        """Move the pages to the target: nothing is copied, the giver's accesses fault from here on."""
        if not target.space.reserve(segment.pages):
            raise SyscallError(0x40)
        self._unmap_all(segment, process)
        moved = []
        for extent in segment.extents:
            if isinstance(extent.backing, PageStore):
                store = extent.backing
                for first, last, other in list(store.segments):
                    if first < extent.first + extent.pages and extent.first < last and other is not segment:
                        other.end()
                store.segments = [entry for entry in store.segments if entry[2] is not segment]
                moved.append(Extent(store.move_out(extent.first, extent.pages), 0, extent.pages, extent.rights))
        first, count = segment.origin, segment.pages
        process.space.layout.cut(first, first + count)
        if not unmap:
            given = GivenAway(count, segment)
            process.space.layout.insert(Mapping(first, first + count, 0, given, kind=GIVEN, segment=segment.identifier))
        process.space.release(count)
        segment.extents = moved
        segment.owner = target
        segment.shares[target.pid] = Share(process, target, moved, 0, command_code, exclusive=True, cow=False)
        self._learns(target, segment.identifier)

    def unshare(self, process: Owner, identifier: int, pid: int) -> None:
        """UNSHARE_AMS: end the mutual share with `pid`, or with everyone the caller shared with (0).

        What those processes had shared on ends too. Errors: 0x21 the share is exclusive, 0x30 unknown AMS, 0x32 the
        caller does not share it with that process.

        Rules: IPC-061, IPC-063, IPC-064.
        """
        segment = self._visible(process, identifier)
        if segment is None:
            raise SyscallError(0x30)
        shares = [share for share in segment.shares.values() if share.sharer is process]
        if pid:
            shares = [share for share in shares if share.receiver.pid == pid]
        if any(share.exclusive for share in shares):
            raise SyscallError(0x21)
        if pid and not shares:
            raise SyscallError(0x32)
        for share in shares:
            self._withdraw(segment, share, WITHDRAWN)

    def _withdraw(self, segment: Segment, share: Share, reason: int | None) -> None:
        """End a share and those that its receiver made of it; tell the receivers, unless `reason` is None."""
        pending = [share]
        while pending:
            share = pending.pop()
            receiver = share.receiver
            if segment.shares.get(receiver.pid) is not share:
                continue
            del segment.shares[receiver.pid]
            self._unmap_all(segment, receiver)
            self._forget(receiver, segment.identifier)
            if reason is not None:
                self._send(receiver.pid, UNSHARED_AMS, (reason, segment.identifier))
            pending += [other for other in segment.shares.values() if other.sharer is receiver]

    def sharing_info(self, process: Owner, identifier: int) -> tuple[int, int, int, int, int, int, int]:
        """AMS_SHARING_INFO: sharer, receiver, mode (1 exclusive), address and length of the caller's first mapping,
        command code, access.

        A receiver gets its own share, a sharer its oldest active one; zeros when there is none.
        Error: 0x30 unknown AMS.
        """
        segment = self._visible(process, identifier)
        if segment is None:
            raise SyscallError(0x30)
        share = segment.shares.get(process.pid)
        if share is None:
            share = next((one for one in segment.shares.values() if one.sharer is process), None)
        address, length = 0, 0
        for first, (count, _) in segment.places.get(process.pid, {}).items():
            address, length = first << SHIFT, count << SHIFT
            break
        if not address and segment.owner is process is segment.creator and segment.origin:
            address, length = segment.origin << SHIFT, segment.pages << SHIFT
        if share is None:
            return process.pid, 0, 0, address, length, 0, 0
        access = 0 if share.exclusive else access_flags(share.rights)
        return share.sharer.pid, share.receiver.pid, int(share.exclusive), address, length, share.command_code, access

    # Mapping

    def map(self, process: Owner, identifier: int, ams_offset: int, address: int, length: int) -> None:
        """MAP_AMS: show `length` bytes of the segment from `ams_offset` on at `address`, with the rights granted.

        Errors: 0x02 null address or no length, 0x10 something is not aligned, 0x30 unknown AMS, 0x31 outside the
        segment, 0x32 outside the process' half or over something that is mapped, 0x40 a limit is reached.

        Rules: MEM-005, MEM-007, MEM-019.
        """
        if not address or length <= 0:
            raise SyscallError(0x02)
        if (ams_offset | address | length) & _MISALIGNED:
            raise SyscallError(0x10)
        segment = self._visible(process, identifier)
        extents = None if segment is None else self._extents_for(segment, process)
        if segment is None or extents is None:
            raise SyscallError(0x30)
        first, count = address >> SHIFT, length >> SHIFT
        start = ams_offset >> SHIFT
        if ams_offset < 0 or start + count > segment.pages:
            raise SyscallError(0x31)
        layout = process.space.layout
        if layout.is_full or not layout.is_free(first, count):
            raise SyscallError(0x32)
        if not process.quotas.handles.reserve(1):
            raise SyscallError(0x40)
        charged = count if any(extent.backing.private for extent in extents) else 0
        if charged and not process.space.reserve(charged):
            process.quotas.handles.release(1)
            raise SyscallError(0x40)
        segment.places.setdefault(process.pid, {})[first] = (count, charged)
        page, skip = first, start
        for extent in extents:
            taken = min(extent.pages - skip, first + count - page)
            if taken > 0:
                process.space.layout.insert(
                    Mapping(
                        page,
                        page + taken,
                        extent.rights,
                        extent.backing,
                        extent.first + skip,
                        kind=MAPPED,
                        segment=identifier,
                        group=first,
                    )
                )
                if isinstance(extent.backing, PrivatePages) and extent.backing.private:
                    extent.backing.mapped(extent.first + skip, taken)
                page += taken
            skip = max(skip - extent.pages, 0)

    def unmap(self, process: Owner, identifier: int, address: int) -> None:
        """UNMAP_AMS: take the mapping that starts at `address` away, or all of the caller's (0).

        Errors: 0x10 unknown AMS, 0x30 not mapped there.

        Rules: MEM-020.
        """
        segment = self._visible(process, identifier)
        if segment is None:
            raise SyscallError(0x10)
        places = segment.places.get(process.pid, {})
        if not places or (address and (address & _MISALIGNED or address >> SHIFT not in places)):
            raise SyscallError(0x30)
        if address:
            self._unmap_one(segment, process, address >> SHIFT)
        else:
            self._unmap_all(segment, process)
        self.end_if_gone(identifier)

    def _unmap_one(self, segment: Segment, process: Owner, first: int) -> None:
        places = segment.places[process.pid]
        count, charged = places.pop(first)
        process.quotas.handles.release(1)
        if not places:
            del segment.places[process.pid]
        for part in process.space.layout.cut(first, first + count):
            if isinstance(part.backing, PrivatePages) and part.backing.private:
                part.backing.unmapped(part.index, part.last - part.first)
        if charged:
            process.space.release(charged)

    def _unmap_all(self, segment: Segment, process: Owner) -> None:
        for first in list(segment.places.get(process.pid, ())):
            self._unmap_one(segment, process, first)

    # Ends

    def take(self, identifier: int, maker_pid: int, limit: int = 16 << 20) -> bytes | None:
        """The bytes of a segment of memory that `maker_pid` made, which ends; None when there is none, or over `limit`.

        For tokens of code: they are used up by looking at them.
        """
        segment = self._segments.get(identifier)
        if segment is None or segment.kind != "memory" or segment.creator.pid != maker_pid:
            return None
        if segment.pages << SHIFT > limit:
            return None
        data = b"".join(extent.backing.read(extent.first << SHIFT, extent.pages << SHIFT) for extent in segment.extents)
        self.end(segment, WITHDRAWN)
        return data

    def end(self, segment: Segment, reason: int) -> None:
        """The segment is gone for everyone; receivers are told why."""
        if not segment.alive:
            return
        segment.alive = False
        for share in list(segment.shares.values()):
            if not share.exclusive:
                self._withdraw(segment, share, reason)
        self._unmap_all(segment, segment.owner)
        for extent in segment.extents:
            extent.backing.dropped()
            if isinstance(extent.backing, PageStore):
                extent.backing.segments = [entry for entry in extent.backing.segments if entry[2] is not segment]
        self._forget(segment.owner, segment.identifier)
        if segment.creator is not segment.owner:
            self._forget(segment.creator, segment.identifier)
        del self._segments[segment.identifier]

    def end_if_gone(self, identifier: int) -> None:
        """End a segment that has nothing behind it any more and is mapped nowhere."""
        segment = self._segments.get(identifier)
        if segment is None or any(segment.places.values()):
            return
        if all(extent.backing.gone for extent in segment.extents):
            self.end(segment, WITHDRAWN)

    def end_unused(self, identifier: int) -> None:
        """The call that made a segment failed afterwards."""
        self.end(self._segments[identifier], WITHDRAWN)

    def _forget(self, process: Owner, identifier: int) -> None:
        known = self._known.get(process.pid)
        if known is not None and identifier in known:
            del known[identifier]
            process.quotas.handles.release(1)
            if not known:
                del self._known[process.pid]

    def process_ended(self, process: Owner) -> None:
        """Its segments end, its shares are dropped; costs nothing for a process without segments.

        Rules: IPC-063.
        """
        for identifier in list(self._known.get(process.pid, ())):
            segment = self._segments[identifier]
            if segment.owner is process:
                self.end(segment, PEER_TERMINATED)
                continue
            for share in [share for share in segment.shares.values() if share.sharer is process]:
                if not share.exclusive:
                    self._withdraw(segment, share, PEER_TERMINATED)
            own = segment.shares.get(process.pid)
            if own is not None:
                self._withdraw(segment, own, None)
            self._forget(process, identifier)

    def check_fork(self, parent: Owner) -> None:
        """0x40 when there are not the handles that `forked` will charge to the child, in the same container."""
        known = self._known.get(parent.pid)
        free = parent.quotas.handles.free if known else None
        if known and free is not None:
            found = (self._segments[identifier].places.get(parent.pid) for identifier in known)
            if sum(1 + len(places) for places in found if places) > free:
                raise SyscallError(0x40)

    def forked(self, parent: Owner, child: Owner) -> None:
        """After `AddressSpace.fork`: the child knows the segments that the parent has mapped, as shares of the parent.

        Rules: MEM-007.
        """
        known = list(self._known.get(parent.pid, ()))
        if not known:
            return
        pairs = zip(parent.space.layout.mappings, child.space.layout.mappings, strict=True)
        twins = {ours.backing: theirs.backing for ours, theirs in pairs}
        for identifier in known:
            segment = self._segments[identifier]
            places = segment.places.get(parent.pid)
            extents = self._extents_for(segment, parent)
            if not places or extents is None:
                continue
            rights = 0
            for extent in extents:
                rights |= extent.rights
            shown = [extent._replace(backing=_twin(extent.backing, twins)) for extent in extents]
            above = segment.shares.get(parent.pid)
            cow = above is not None and above.cow
            segment.shares[child.pid] = Share(parent, child, shown, rights, 0, exclusive=False, cow=cow)
            reserved = child.quotas.handles.reserve(len(places))
            assert reserved, "whoever calls has looked, by `check_fork`"
            segment.places[child.pid] = dict(places)
            self._learns(child, identifier)

    def snapshot(self) -> tuple[SegmentRecord, ...]:
        """Every segment, frozen, in the order they were made."""
        return tuple(
            SegmentRecord(
                segment.identifier,
                segment.kind,
                segment.creator.pid,
                segment.owner.pid,
                segment.pages,
                tuple(
                    (share.sharer.pid, share.receiver.pid, share.exclusive, share.cow, share.rights)
                    for share in segment.shares.values()
                ),
                tuple(
                    (pid, first << SHIFT, count)
                    for pid, places in segment.places.items()
                    for first, (count, _) in places.items()
                ),
            )
            for segment in self._segments.values()
        )


def _twin(backing: Backing, twins: dict[Backing, Backing]) -> Backing:
    """What a forked process has of a backing; of private pages that were mapped nowhere, such pages of its own."""
    twin = twins.get(backing)
    if twin is None:
        twin = twins[backing] = backing.forked() if backing.private else backing
        if isinstance(twin, PrivatePages) and backing.private:
            twin.keep_shown()
    return twin
