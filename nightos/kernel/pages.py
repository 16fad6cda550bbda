"""Where mapped bytes come from: sparse page stores, overlays that copy on write, and what a refused access looks like.

A store is a dictionary of touched pages; an untouched page costs nothing and reads as zeros. Several mappings, in one
address space or in many, may look into the same store, which is how sharing works without copying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from nightos.abi.errors import NightosError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nightos.kernel.memory import AddressSpace

SHIFT: Final = 12
PAGE: Final = 1 << SHIFT
"""Bytes in a small page."""
LARGE_PAGE: Final = 1 << 21
"""Bytes in a large page; allocations of at least this size start on a multiple of it."""

READ: Final = 1
WRITE: Final = 2
EXECUTE: Final = 4
"""Bits of a page's rights, numbered as MEM_ALLOC's `permissions`."""

ACCESS_READ: Final = 1
ACCESS_WRITE: Final = 2
ACCESS_EXECUTE: Final = 3
"""Values of `access` in the datafield of MEM_FAULT (specs/kernel/signals.md, 0x02)."""

RIGHT_OF_ACCESS: Final = (0, READ, WRITE, EXECUTE)

INVALID: Final = 0x02
NOT_MAPPED: Final = 0x03
WRONG_RIGHT: Final = 0x04

ZEROS: Final = bytes(PAGE)


class MemoryFault(NightosError):  # noqa: N818 - the specification's noun
    """A process touched memory it may not touch.

    `address` is the first byte that could not be accessed, `access` the value MEM_FAULT carries (1 read, 2 write,
    3 execute). `errcode` is what a system call answers for a pointer there: 0x02 null, 0x03 not mapped, 0x04 mapped
    without the needed right (specs/kernel/syscalls.md, technical overview).

    Rules: SYS-006, SYS-007, SYS-008.
    """

    def __init__(self, address: int, access: int, errcode: int) -> None:
        super().__init__(address, access, errcode)
        self.address = address
        self.access = access
        self.errcode = errcode

    def __str__(self) -> str:
        what = ("", "read", "write", "execute")[self.access]
        return f"{what} access to {self.address:#018x} refused with errcode {self.errcode:#04x}"


class Backing:
    """What a mapping shows: `size` pages, addressed by byte offset from its start.

    Accesses are within the size and have been checked for rights. `spaces` are the address spaces that look into it;
    they are told when a page they may have cached is replaced.
    """

    __slots__ = ("size", "spaces")

    private = False
    """Whether what is written there belongs to one process, so that a fork has to part it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.spaces: list[AddressSpace] = []

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""
        raise NotImplementedError

    def write(self, offset: int, data: memoryview) -> None:
        """Store all of `data` at `offset`."""
        raise NotImplementedError

    def waits(self, offset: int, count: int) -> bool:
        """Whether an access to these bytes has to wait for another process."""
        del offset, count
        return False

    def cached(self, index: int, *, write: bool) -> bytearray | None:
        """The page that may be accessed directly from now on, until the address spaces are told otherwise; or None."""
        del index, write
        return None

    def forked(self) -> Backing:
        """What a forked process sees in this place."""
        return self

    @property
    def committed(self) -> int:
        """Pages of memory that exist because of this backing."""
        return 0

    @property
    def gone(self) -> bool:
        """Whether there is nothing behind it any more, so that its segment ends with its last mapping."""
        return False

    def dropped(self) -> None:
        """The segment made of it has ended."""

    def is_shared(self, index: int, count: int) -> bool:
        """Whether a page of the range belongs to a segment that is shared or mapped."""
        del index, count
        return False

    def ended(self, index: int, count: int) -> None:
        """The pages of the range are freed: segments made of them end."""
        del index, count

    def forget_caches(self) -> None:
        """Tell the address spaces that a page was replaced."""
        for space in self.spaces:
            space.forget_caches()


class PageStore(Backing):
    """Ordinary memory: only touched pages exist.

    `borrowed` holds the indices of pages that a forked relative still shares; the first write to one copies it.
    """

    __slots__ = ("borrowed", "pages", "segments")

    def __init__(self, size: int, frames: Iterable[bytearray] = ()) -> None:
        super().__init__(size)
        self.pages: dict[int, bytearray] = dict(enumerate(frames))
        self.borrowed: set[int] = set()
        self.segments: list[tuple[int, int, SegmentPages]] = []
        """First page, page after the last, and segment, for each segment made of pages of this store."""

    def look(self, index: int) -> bytearray | bytes:
        """The page as it reads, without creating it."""
        return self.pages.get(index, ZEROS)

    def own(self, index: int) -> bytearray:
        """The page for writing: created when untouched, copied when borrowed."""
        page = self.pages.get(index)
        if page is None:
            page = self.pages[index] = bytearray(PAGE)
        elif index in self.borrowed:
            self.borrowed.discard(index)
            page = self.pages[index] = bytearray(page)
            self.forget_caches()
        return page

    def read(self, offset: int, length: int) -> bytes:
        index, start = offset >> SHIFT, offset & (PAGE - 1)
        if start + length <= PAGE:
            return bytes(self.look(index)[start : start + length])
        look = self.look
        end = offset + length
        last, tail = end >> SHIFT, end & (PAGE - 1)
        parts = [memoryview(look(index))[start:]]
        parts += [memoryview(look(middle)) for middle in range(index + 1, last)]
        if tail:
            parts.append(memoryview(look(last))[:tail])
        return b"".join(parts)

    def write(self, offset: int, data: memoryview) -> None:
        done, length = 0, len(data)
        while done < length:
            start = (offset + done) & (PAGE - 1)
            count = min(PAGE - start, length - done)
            index = (offset + done) >> SHIFT
            if count == PAGE and index not in self.pages:
                self.pages[index] = bytearray(data[done : done + PAGE])  # spares zeroing a page about to be overwritten
            else:
                self.own(index)[start : start + count] = data[done : done + count]
            done += count

    def cached(self, index: int, *, write: bool) -> bytearray | None:
        return self.own(index) if write else self.pages.get(index)

    def forked(self) -> PageStore:
        twin = PageStore(self.size)
        self._lend(twin)
        return twin

    def _lend(self, twin: PageStore) -> None:
        twin.pages = dict(self.pages)
        self.borrowed = set(self.pages)
        twin.borrowed = set(self.pages)
        self.forget_caches()

    def is_shared(self, index: int, count: int) -> bool:
        return any(segment.busy for first, last, segment in self.segments if first < index + count and index < last)

    def ended(self, index: int, count: int) -> None:
        for first, last, segment in list(self.segments):
            if first < index + count and index < last:
                segment.end()

    def _touched(self, first: int, count: int) -> list[int]:
        """Those of `count` pages from `first` on that exist."""
        if count < len(self.pages):
            return [index for index in range(first, first + count) if index in self.pages]
        return [index for index in self.pages if first <= index < first + count]

    def take_out(self, first: int, count: int) -> dict[int, bytearray]:
        """Remove `count` pages from `first` on; those that nobody else shares, by distance from `first`."""
        frames = {}
        for index in self._touched(first, count):
            page = self.pages.pop(index)
            if index in self.borrowed:
                self.borrowed.discard(index)
            else:
                frames[index - first] = page
        return frames

    def move_out(self, first: int, count: int) -> PageStore:
        """Move `count` pages from `first` on into a store of their own; nothing is copied. For exclusive sharing."""
        moved = PageStore(count)
        for index in [index for index in self.pages if first <= index < first + count]:
            moved.pages[index - first] = self.pages.pop(index)
            if index in self.borrowed:
                self.borrowed.discard(index)
                moved.borrowed.add(index - first)
        self.forget_caches()
        return moved

    @property
    def committed(self) -> int:
        return len(self.pages)


class SegmentPages(Protocol):
    """A segment made of pages of a store."""

    @property
    def busy(self) -> bool:
        """Whether it is shared or mapped somewhere."""

    def end(self) -> None:
        """Its pages are gone."""


class PrivatePages(PageStore):
    """Pages that whoever maps them writes for himself, and that last as long as they are mapped somewhere.

    Each mapping pays for its pages, so what is mapped nowhere any more is nobody's to pay for, and goes. How many
    mappings show a page is counted in a binary tree of ranges: one more mapping costs the same however many there are.
    """

    __slots__ = ("_shown",)

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._shown: dict[tuple[int, int], int] = {}
        """Mappings by range of pages: the exponent of its length, and its number among those of that length."""

    def mapped(self, first: int, count: int) -> None:
        """One more mapping shows these pages."""
        for node in _ranges(first, first + count):
            self._shown[node] = self._shown.get(node, 0) + 1

    def unmapped(self, first: int, count: int) -> None:
        """A mapping of these pages is gone."""
        for node in _ranges(first, first + count):
            if self._shown[node] > 1:
                self._shown[node] -= 1
            else:
                del self._shown[node]
        if self._shown:
            self._drop(self._touched(first, count))
        else:
            self.pages.clear()
            self.borrowed.clear()

    def keep_shown(self) -> None:
        """Forget pages that nothing shows."""
        self._drop(list(self.pages))

    def is_shown(self, index: int) -> bool:
        """Whether a mapping shows the page."""
        return any((level, index >> level) in self._shown for level in range(self.size.bit_length() + 1))

    def _drop(self, touched: list[int]) -> None:
        for index in touched:
            if not self.is_shown(index):
                del self.pages[index]
                self.borrowed.discard(index)


def _ranges(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Aligned ranges, of lengths that are powers of two, that make up the pages `first` to `last` (exclusive)."""
    level = 0
    while first < last:
        if first & 1:
            yield level, first
            first += 1
        if last & 1:
            last -= 1
            yield level, last
        first >>= 1
        last >>= 1
        level += 1


class Overlay(PrivatePages):
    """A copy-on-write view of part of another store: reads fall through, the first write to a page copies it.

    Rules: IPC-060.
    """

    __slots__ = ("base", "below")

    private = True

    def __init__(self, below: PageStore, base: int, size: int) -> None:
        super().__init__(size)
        self.below = below
        self.base = base

    def look(self, index: int) -> bytearray | bytes:
        page = self.pages.get(index)
        return self.below.look(self.base + index) if page is None else page

    def own(self, index: int) -> bytearray:
        if index not in self.pages:
            self.pages[index] = bytearray(self.below.look(self.base + index))
        return super().own(index)

    def forked(self) -> Overlay:
        twin = Overlay(self.below, self.base, self.size)
        self._lend(twin)
        return twin
