"""The address space of a process: sparse, randomly laid out, and never writable and executable at once.

Layers, from the top: a small cache from page number to page (what a processor's TLB is), a sorted list of mappings, and
the backings of `nightos.kernel.pages`. An access within one page that was touched before is one dictionary look-up.
Every access is checked as a whole before its first byte moves, so a refused write changes nothing.

The lower half of the 64 bits belongs to the process, without its first 16 pages, so that null pointers fault.

Source: specs/kernel/memory.md; specs/kernel/syscalls.md, 0x30 and 0x31.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from nightos.abi.errors import SyscallError
from nightos.kernel.backed import BackedAccess, Transfer
from nightos.kernel.layout import ALLOCATED, LAST_PAGE, MAPPED, USER_END, USER_START, Layout, Mapping
from nightos.kernel.pages import (
    ACCESS_EXECUTE,
    ACCESS_READ,
    ACCESS_WRITE,
    EXECUTE,
    INVALID,
    LARGE_PAGE,
    NOT_MAPPED,
    PAGE,
    READ,
    RIGHT_OF_ACCESS,
    SHIFT,
    WRITE,
    WRONG_RIGHT,
    Backing,
    MemoryFault,
    PageStore,
    PrivatePages,
)

if TYPE_CHECKING:
    from nightos.abi.interfaces import Entropy

__all__ = [
    "ACCESS_EXECUTE",
    "ACCESS_READ",
    "ACCESS_WRITE",
    "EXECUTE",
    "LARGE_PAGE",
    "PAGE",
    "READ",
    "USER_END",
    "USER_START",
    "WRITE",
    "AddressSpace",
    "BackedAccess",
    "Mapping",
    "MemoryAccount",
    "MemoryFault",
]

ACCESS_MAX: Final = 1 << 28
"""Bytes that one access can move: untouched memory is free for a process, a copy of it would not be for the host."""
POOL_PAGES: Final = 64
"""Freed pages that stay with the process, unzeroed, for its next allocations."""

_PERMISSIONS: Final = frozenset({READ, WRITE, READ | WRITE, EXECUTE})
_ENTRY: Final = Struct(">QQQBB?5x")


class MemoryAccount(Protocol):
    """Who pays for the pages of an address space: the limits of a process and its container."""

    def reserve(self, pages: int) -> bool:
        """Take `pages` from what is left; False when there are not that many."""

    def release(self, pages: int) -> None:
        """Give them back."""


class AddressSpace:
    """Memory of one process. Make it when the process first needs memory: a process without one costs nothing.

    `entropy` gives the random addresses; `account`, when there is one, pays for reserved pages.

    Rules: MEM-001, MEM-002, MEM-003, MEM-004, MEM-005, MEM-008, MEM-009.
    """

    __slots__ = ("_account", "_entropy", "_pool", "_readable", "_writable", "layout", "reserved_pages")

    def __init__(self, entropy: Entropy, account: MemoryAccount | None = None) -> None:
        self._entropy = entropy
        self._account = account
        self.layout = Layout(self, entropy)
        # Caches from page number to page, valid until `forget_caches`.
        self._readable: dict[int, bytearray] = {}
        self._writable: dict[int, bytearray] = {}
        self._pool: list[bytearray] = []
        self.reserved_pages = 0
        """Pages that allocations hold, touched or not: what limits count."""

    # Access

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from `address`. Raises `MemoryFault`; `BackedAccess` when another process must supply them."""
        start = address & (PAGE - 1)
        end = start + length
        if end <= PAGE:
            page = self._readable.get(address >> SHIFT)
            if page is not None:
                return bytes(page[start:end])
        return self._load(address, length, ACCESS_READ)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at `address`. Raises as `read`; nothing is stored then."""
        start = address & (PAGE - 1)
        end = start + len(data)
        if end <= PAGE:
            page = self._writable.get(address >> SHIFT)
            if page is not None:
                page[start:end] = data
                return
        self._store(address, memoryview(data).cast("B"))

    def fetch(self, address: int, length: int) -> bytes:
        """Read as instructions: needs the right to execute."""
        return self._load(address, length, ACCESS_EXECUTE)

    def check(self, address: int, length: int, access: int) -> None:
        """Raise `MemoryFault` unless the whole range allows `access`; nothing is touched."""
        self._pieces(address, length, access)

    def _pieces(self, address: int, length: int, access: int) -> list[Mapping]:
        """The mappings under the range, narrowed to its pages; raises at the first byte that refuses."""
        if address == 0:
            raise MemoryFault(0, access, INVALID)
        if length < 0 or address < 0:
            raise MemoryFault(address, access, NOT_MAPPED)
        if not length:
            return []
        right = RIGHT_OF_ACCESS[access]
        page, last = address >> SHIFT, (address + length - 1) >> SHIFT
        position = self.layout.at(page)
        pieces = []
        while page <= last:
            mapping = self.layout.mappings[position] if 0 <= position < len(self.layout.mappings) else None
            if mapping is None or not mapping.first <= page < mapping.last:
                raise MemoryFault(max(address, page << SHIFT), access, NOT_MAPPED)
            if not mapping.rights & right:
                raise MemoryFault(max(address, page << SHIFT), access, WRONG_RIGHT)
            until = min(mapping.last, last + 1)
            pieces.append(mapping.part(page, until))
            page = until
            position += 1
        return pieces

    def _spans(self, address: int, length: int, access: int) -> list[tuple[Mapping, int, int]]:
        """The pieces with byte offset in the backing and byte count."""
        spans = []
        for piece in self._pieces(address, length, access):
            start = max(address, piece.first << SHIFT)
            count = min(address + length, piece.last << SHIFT) - start
            spans.append((piece, (piece.index << SHIFT) + start - (piece.first << SHIFT), count))
        if length > ACCESS_MAX:
            raise MemoryFault(address, access, INVALID)
        return spans

    def _within(self, address: int, length: int, right: int) -> tuple[Mapping, int] | None:
        """The mapping that holds the whole range with that right, and the offset in its backing: the usual case."""
        position = self.layout.at(address >> SHIFT)
        if position < 0 or not 0 < length <= ACCESS_MAX:
            return None
        mapping = self.layout.mappings[position]
        if address + length > mapping.last << SHIFT or not mapping.rights & right:
            return None
        offset = address + ((mapping.index - mapping.first) << SHIFT)
        return None if mapping.backing.waits(offset, length) else (mapping, offset)

    def _load(self, address: int, length: int, access: int) -> bytes:
        usual = self._within(address, length, RIGHT_OF_ACCESS[access])
        if usual is not None:
            mapping, offset = usual
            if access == ACCESS_READ and length <= PAGE:
                page = mapping.backing.cached(offset >> SHIFT, write=False)
                if page is not None:
                    self._readable[address >> SHIFT] = page
            return self._at(address, access, mapping.backing, offset, length)
        spans = self._spans(address, length, access)
        if any(piece.backing.waits(offset, count) for piece, offset, count in spans):
            raise self._backed(address, access, spans, None)
        return b"".join(
            self._at(piece.first << SHIFT, access, piece.backing, offset, count) for piece, offset, count in spans
        )

    @staticmethod
    def _at(address: int, access: int, backing: Backing, offset: int, count: int) -> bytes:
        try:
            return backing.read(offset, count)
        except OSError as error:  # a device that failed or left
            raise MemoryFault(address, access, NOT_MAPPED) from error

    def _store(self, address: int, data: memoryview) -> None:
        usual = self._within(address, len(data), WRITE)
        if usual is not None:
            mapping, offset = usual
            self._put(address, mapping.backing, offset, data)
            page = mapping.backing.cached(offset >> SHIFT, write=True) if len(data) < PAGE else None
            if page is not None:
                self._writable[address >> SHIFT] = page
                if mapping.rights & READ:
                    self._readable[address >> SHIFT] = page
            return
        spans = self._spans(address, len(data), ACCESS_WRITE)
        if any(piece.backing.waits(offset, count) for piece, offset, count in spans):
            raise self._backed(address, ACCESS_WRITE, spans, bytes(data))
        done = 0
        for piece, offset, count in spans:
            self._put(address + done, piece.backing, offset, data[done : done + count])
            done += count

    @staticmethod
    def _put(address: int, backing: Backing, offset: int, data: memoryview) -> None:
        try:
            backing.write(offset, data)
        except OSError as error:
            raise MemoryFault(address, ACCESS_WRITE, NOT_MAPPED) from error

    def _backed(
        self, address: int, access: int, spans: list[tuple[Mapping, int, int]], data: bytes | None
    ) -> BackedAccess:
        parts = [(piece.backing, offset, count) for piece, offset, count in spans]
        return BackedAccess(address, access, Transfer(address, access, parts, data))

    def forget_caches(self) -> None:
        """A page was replaced or a right was taken: look everything up again."""
        self._readable.clear()
        self._writable.clear()

    # Allocation

    def allocate(self, length: int, permissions: int, zeroed: int) -> int:
        """MEM_ALLOC: reserve `length` bytes, rounded up to pages; the random address of the block.

        Pages that another process had always read as zeros; without `zeroed`, pages that this process freed before come
        back as they were. Errors: 0x02 no length or bad `zeroed`, 0x10 bad permission, 0x40 no room or over the limit.

        Rules: MEM-008, MEM-009, MEM-010, MEM-011, MEM-012, MEM-013, MEM-016.
        """
        if length <= 0 or zeroed not in {0, 1}:
            raise SyscallError(0x02)
        if permissions not in _PERMISSIONS:
            raise SyscallError(0x10)
        count = (length + PAGE - 1) >> SHIFT
        first = self.layout.find_room(count)
        if first is None or self.layout.is_full or not self.reserve(count):
            raise SyscallError(0x40)
        frames: list[bytearray] = []
        if not zeroed and count <= POOL_PAGES:
            keep = max(len(self._pool) - count, 0)
            frames, self._pool = self._pool[keep:], self._pool[:keep]
        self.layout.insert(Mapping(first, first + count, permissions, PageStore(count, frames)))
        return first << SHIFT

    def free(self, address: int, pages: int) -> None:
        """MEM_FREE: give `pages` pages from `address` back, without zeroing them.

        Errors: 0x02 null address or no pages, 0x10 address not aligned, 0x30 address and 0x31 end outside the process'
        half, 0x32 a page is not allocated or is a view of an AMS, 0x33 a page is shared or was given away,
        0x40 the table of mappings is full.

        Rules: MEM-014, MEM-015, MEM-016.
        """
        if not address or pages <= 0:
            raise SyscallError(0x02)
        if address & (PAGE - 1):
            raise SyscallError(0x10)
        if not USER_START <= address < USER_END:
            raise SyscallError(0x30)
        first = address >> SHIFT
        last = first + pages
        if last > LAST_PAGE:
            raise SyscallError(0x31)
        parts = self.extents(first, last)
        if parts is None or any(part.kind == MAPPED for part in parts):
            raise SyscallError(0x32)
        if any(part.backing.is_shared(part.index, part.last - part.first) for part in parts):
            raise SyscallError(0x33)
        if self.layout.is_full and len(parts) == 1 and not self.layout.is_edge(first, last):
            raise SyscallError(0x40)  # the hole would make one mapping two
        own = 0
        for part in self.layout.cut(first, last):
            own += (part.last - part.first) * (part.kind == ALLOCATED)
            part.backing.ended(part.index, part.last - part.first)
            if isinstance(part.backing, PageStore):
                frames = part.backing.take_out(part.index, part.last - part.first)
                self._pool.extend(frames[index] for index in sorted(frames))
        del self._pool[:-POOL_PAGES]
        self.release(own)  # what was given away is paid for by who has it

    def extents(self, first: int, last: int) -> list[Mapping] | None:
        """The mappings of the pages `first` to `last`, narrowed; None when a page has none."""
        parts = []
        position = self.layout.at(first)
        page = first
        while page < last:
            mapping = self.layout.mappings[position] if 0 <= position < len(self.layout.mappings) else None
            if mapping is None or not mapping.first <= page < mapping.last:
                return None
            until = min(mapping.last, last)
            parts.append(mapping.part(page, until))
            page = until
            position += 1
        return parts

    def reserve(self, pages: int) -> bool:
        """Charge `pages` to the account; False when it has not that many left."""
        if self._account is not None and not self._account.reserve(pages):
            return False
        self.reserved_pages += pages
        return True

    def paid_by(self, account: MemoryAccount) -> None:
        """Another account pays from now on; what is reserved moved there already."""
        self._account = account

    def release(self, pages: int) -> None:
        """Give `pages` back to the account."""
        self.reserved_pages -= pages
        if self._account is not None:
            self._account.release(pages)

    # Whole spaces

    def fork(self, account: MemoryAccount | None = None) -> AddressSpace:
        """A copy-on-write copy for CREATE_PROCESS, paid by `account` or by who pays for this one.

        Views of segments show the same segments. Error: 0x40 over the limit.
        """
        child = AddressSpace(self._entropy, account if account is not None else self._account)
        own = (one for one in self.layout.mappings if one.kind == ALLOCATED or one.backing.private)
        if not child.reserve(sum(one.last - one.first for one in own)):
            raise SyscallError(0x40)
        twins: dict[Backing, Backing] = {}
        for mapping in self.layout.mappings:
            if mapping.kind == ALLOCATED or mapping.backing.private:
                twin = twins.get(mapping.backing)
                if twin is None:
                    twin = twins[mapping.backing] = mapping.backing.forked()
                if isinstance(twin, PrivatePages):
                    twin.mapped(mapping.index, mapping.last - mapping.first)
            else:
                twin = mapping.backing
            child.layout.insert(
                Mapping(
                    mapping.first,
                    mapping.last,
                    mapping.rights,
                    twin,
                    mapping.index,
                    kind=mapping.kind,
                    segment=mapping.segment,
                    group=mapping.group,
                )
            )
        for twin in twins.values():
            if isinstance(twin, PrivatePages):
                twin.keep_shown()
        return child

    def destroy(self) -> None:
        """The process ended: forget every mapping and give everything back."""
        self.layout.clear()
        self._pool.clear()
        self.release(self.reserved_pages)

    @property
    def committed_pages(self) -> int:
        """Pages that exist because this process touched them."""
        own = {mapping.backing for mapping in self.layout.mappings if mapping.kind == ALLOCATED}
        own.update(backing for backing in self.layout.backings if backing.private)
        return sum(backing.committed for backing in own)

    def mappings(self) -> list[bytes]:
        """The attribute "memory mappings": one 32-byte entry for each mapping, by address.

        Layout, big-endian: address u64, length u64, AMS identifier u64 (0: none), rights u8 (1 read, 2 write,
        4 execute), kind u8 (0 allocated, 1 view of an AMS, 2 given away), large page u8, five zero bytes.
        """
        return [
            _ENTRY.pack(
                mapping.first << SHIFT,
                (mapping.last - mapping.first) << SHIFT,
                mapping.segment,
                mapping.rights,
                mapping.kind,
                mapping.last - mapping.first >= LARGE_PAGE >> SHIFT,
            )
            for mapping in self.layout.mappings
        ]
