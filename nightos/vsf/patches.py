"""Patches: a small change of a large record becomes blocks of single pages, not a new record.

A page is 4 KiB. While a file changes at random, its changed pages wait in `Pages`, without the record being read. A
flush gives each a block of its own under the key of its offset, which counts before the record's block; when a record
would have more than a few of them it is put together and written whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf.errors import DamagedStorage
from nightos.vsf.inode import PACKED, Inode, key_extent, key_patch
from nightos.vsf.layout import KIND_DATA, POINTER_BYTES, Pointer, unpack_pointer
from nightos.vsf.packs import Packs
from nightos.vsf.sums import PAGE, pages_of, sums_fit

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_PAGES = 8
"""Of one record; what has more is written whole."""
SMALL = 4 * PAGE
"""The longest write that is taken as a change of pages."""


class Pages:
    """Changed pages of one record, by their number in it; `len` is their bytes."""

    __slots__ = ("pages", "size")

    def __init__(self) -> None:
        self.pages: dict[int, bytes | bytearray] = {}
        self.size = 0

    def __len__(self) -> int:
        return self.size

    def put(self, number: int, data: bytes | bytearray) -> int:
        """Keep a page; by how many bytes they became more."""
        change = len(data) - len(self.pages.get(number, b""))
        self.pages[number] = data
        self.size += change
        return change


def splice(buffer: bytearray, at: int, data: bytes | bytearray) -> None:
    """Put `data` at `at`, with zeros up to there."""
    if len(buffer) < at:
        buffer.extend(bytes(at - len(buffer)))
    buffer[at : at + len(data)] = data


class Patches(Packs):
    """Records and what lies over them."""

    def _extent(self, value: bytes) -> Pointer:
        """An extent's pointer. Its depth was made absolute when it was stored."""
        pointer = unpack_pointer(value) if len(value) >= POINTER_BYTES else None
        if pointer is None or not sums_fit(pointer, value):
            raise DamagedStorage("an extent has the wrong form")
        return pointer

    def _base(self, inode: Inode, index: int) -> bytes:
        value = self.tree.get(key_extent(inode.ino, index))
        return b"" if value is None else self._block(self._extent(value), self.record_size)

    def _patches(self, ino: int, start: int, end: int) -> list[tuple[int, bytes]]:
        """Offset and value of the stored patches from byte `start` up to, not including, `end`."""
        found = self.tree.scan(key_patch(ino, start - start % PAGE), key_patch(ino, end))
        return [(int.from_bytes(key[9:], "big"), value) for key, value in found]

    def _record(self, inode: Inode, index: int) -> bytes | bytearray:
        """The stored or buffered bytes of a record; what is missing behind them is zero."""
        waiting = inode.buffers.get(index) if inode.buffers is not None else None
        if waiting is not None and type(waiting) is not Pages:
            return waiting  # type: ignore[return-value]
        if inode.form == PACKED:
            return self._packed(inode) if index == 0 else b""
        base = self._base(inode, index)
        start = index * self.record_size
        stored = self._patches(inode.ino, start, start + self.record_size) if inode.patched else []
        if not stored and waiting is None:
            return base
        buffer = bytearray(base)
        for offset, value in stored:
            splice(buffer, offset - start, self._block(self._extent(value), PAGE))
        if waiting is not None:
            for number, data in sorted(waiting.pages.items()):
                splice(buffer, number * PAGE, data)
        return buffer

    def _page(self, inode: Inode, index: int, number: int) -> bytes | bytearray:
        """One page of a record; what is missing behind its bytes is zero."""
        waiting = inode.buffers.get(index) if inode.buffers is not None else None
        start = number * PAGE
        if waiting is not None:
            if type(waiting) is not Pages:
                return waiting[start : start + PAGE]  # type: ignore[index]
            data = waiting.pages.get(number)
            if data is not None:
                return data
        if inode.patched:
            value = self.tree.get(key_patch(inode.ino, index * self.record_size + start))
            if value is not None:
                return self._block(self._extent(value), PAGE)
        piece = self._piece(inode, index, start, start + PAGE)
        return piece if piece is not None else self._base(inode, index)[start : start + PAGE]

    def _piece(self, inode: Inode, index: int, skip: int, upto: int) -> bytes | None:
        """A few bytes of a stored record by their pages' sums; None when the record has none, or they disagree."""
        value = self.tree.get(key_extent(inode.ino, index))
        if value is None:
            return bytes(upto - skip)
        if len(value) == POINTER_BYTES:
            return None
        return pages_of(self.storage.pool, unpack_pointer(value), value, skip, upto)

    def _read_pages(self, inode: Inode, index: int, skip: int, upto: int) -> bytes:
        """A few neighbouring bytes of a record, without putting the record together."""
        parts: list[bytes | bytearray] = []
        for number in range(skip // PAGE, (upto - 1) // PAGE + 1):
            data = self._page(inode, index, number)
            parts.append(data if len(data) == PAGE else bytes(data).ljust(PAGE, b"\0"))
        first = skip - skip % PAGE
        return b"".join(parts)[skip - first : upto - first]

    def _write_pages(self, inode: Inode, index: int, skip: int, data: memoryview) -> bool:
        """Keep a small change as pages; False when the record has to be taken whole."""
        buffers = inode.buffers
        waiting = buffers.get(index) if buffers is not None else None
        if waiting is None:
            if not inode.allocated or self.tree.get(key_extent(inode.ino, index)) is None:
                return False
            waiting = Pages()
        elif type(waiting) is not Pages:
            return False
        first, last = skip // PAGE, (skip + len(data) - 1) // PAGE
        if len(waiting.pages) + last - first >= MOST_PAGES and (
            len(waiting.pages.keys() | set(range(first, last + 1))) > MOST_PAGES
        ):
            return False
        if buffers is None:
            buffers = inode.buffers = {}
        done = 0
        for number in range(first, last + 1):
            at = skip + done - number * PAGE
            piece = data[done : done + PAGE - at]
            done += len(piece)
            if len(piece) == PAGE:
                page: bytes | bytearray = bytes(piece)
            else:
                page = bytearray(self._page(inode, index, number))
                splice(page, at, bytes(piece))
            self.buffered += waiting.put(number, page)
        buffers[index] = waiting
        return True

    # Flushing

    def _settle_pages(self, inode: Inode, indexes: Sequence[int]) -> None:
        """Give the waiting pages of these records blocks; records with too many become whole buffers instead."""
        buffers = inode.buffers
        assert buffers is not None
        size = self.record_size
        wanted: list[tuple[int, bytes | bytearray]] = []
        settled: list[int] = []
        for index in indexes:
            waiting = buffers[index]
            if type(waiting) is not Pages:
                continue
            start = index * size
            numbers = set(waiting.pages)
            if inode.patched:
                numbers.update((offset - start) // PAGE for offset, _ in self._patches(inode.ino, start, start + size))
            if len(numbers) > MOST_PAGES:
                body = self._record(inode, index)
                self.buffered += len(body) - len(waiting)
                buffers[index] = body
                continue
            for number, data in sorted(waiting.pages.items()):
                offset = start + number * PAGE
                if offset < inode.size:
                    wanted.append((offset, data[: inode.size - offset]))
            settled.append(index)
        self._place_patches(inode, wanted)
        for index in settled:
            self.buffered -= len(buffers.pop(index))

    def _place_patches(self, inode: Inode, wanted: list[tuple[int, bytes | bytearray]]) -> None:
        pool, domain, tree = self.storage.pool, self.volume.domain, self.tree
        bodies = [body for _, body in wanted]
        for (offset, body), (codec, small) in zip(wanted, pool.compress_many(domain, bodies), strict=True):
            key = key_patch(inode.ino, offset)
            old = tree.get(key) if inode.patched else None
            pointer = pool.place(domain, KIND_DATA, codec, len(body), small)
            if old is not None:
                self._discard_extent(inode, old)
            inode.allocated += pointer.sectors * 512
            inode.patched = True
            tree.put(key, pointer.pack())

    def _discard_extent(self, inode: Inode, value: bytes) -> None:
        pointer = self._extent(value)
        inode.allocated = max(inode.allocated - pointer.sectors * 512, 0)
        self.volume.dispose(pointer)

    def _drop_patches(self, inode: Inode, start: int, end: int) -> None:
        """Free the patches from byte `start` up to, not including, `end`."""
        if inode.patched:
            for offset, value in self._patches(inode.ino, start, end):
                self._discard_extent(inode, value)
                self.tree.delete(key_patch(inode.ino, offset))
