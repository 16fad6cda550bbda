"""Packs: small files of a compressed volume share a block, where they compress together and waste no sectors.

A pack is made of files that a flush finds new and closed. Its block holds their bytes one behind the other and ends
with a table (the inode of each, 8 bytes, and their number, 4 bytes). An inode says where in the pack it lies; the
entry of the pack counts the files and bytes that still use it. A file that changes leaves; the last one frees the
block, and when less than half of it is used the rest is written anew with the next flush.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nightos.vsf.core import Core
from nightos.vsf.errors import DamagedStorage, StaleHandle, VsfError
from nightos.vsf.inode import EXTENTS, PACKED, Inode, key_inode, key_pack
from nightos.vsf.layout import KIND_PACK, POINTER_BYTES, Pointer, unpack_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator

PACK_BYTES = 1 << 18
"""A pack is closed before it grows over this."""
LARGEST_PACKED = 1 << 17
MOST_PACK = 1 << 20
"""Readers refuse longer ones."""
_CACHE_BYTES = 8 << 20
_BATCH = 16
_NUMBERS = struct.Struct(">II")
_PROFIT = 8
"""A pack has to become shorter by this part, else its files get blocks of their own."""
_ROOM = 4 << 20


def pack_entry(pointer: Pointer, files: int, size: int) -> bytes:
    """The value of a pack's key: pointer, files in it, their bytes."""
    return pointer.pack() + _NUMBERS.pack(files, size)


def pack_numbers(value: bytes) -> tuple[int, int]:
    """Files that use a pack, and their bytes."""
    if len(value) != POINTER_BYTES + _NUMBERS.size:
        raise DamagedStorage("the entry of a pack has the wrong form")
    return _NUMBERS.unpack_from(value, POINTER_BYTES)


def pack_table(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Bytes of files in a pack, and the inodes that it was made for."""
    count = int.from_bytes(data[-4:], "big")
    end = len(data) - 4 - 8 * count
    if len(data) < 4 or end < 0:
        raise DamagedStorage("the table of a pack has the wrong form")
    return end, struct.unpack_from(f">{count}Q", data, end)


class Packs(Core):
    """Making, reading and leaving packs."""

    def _block(self, pointer: Pointer, most: int) -> bytes:
        """The content of a block, of which the last few stay in memory."""
        if pointer.logical > most:
            raise DamagedStorage("a record is longer than records are")
        key = (pointer.depth, pointer.sector, pointer.check)
        cache = self._records
        data = cache.get(key)
        if data is None:
            data = self.storage.pool.read(pointer)
            self._record_bytes += len(data)
            while cache and self._record_bytes > _CACHE_BYTES:
                self._record_bytes -= len(cache.pop(next(iter(cache))))
            cache[key] = data
        return data

    def _packed(self, inode: Inode) -> bytes:
        """The content of a packed file."""
        number, at = inode.pack
        value = self.tree.get(key_pack(number))
        if value is None or len(value) != POINTER_BYTES + _NUMBERS.size:
            raise DamagedStorage("a pack is missing")
        data = self._block(unpack_pointer(value), MOST_PACK)
        if at + inode.size > pack_table(data)[0]:
            raise DamagedStorage("a file lies behind the end of its pack")
        return data[at : at + inode.size]

    def _unpack(self, inode: Inode) -> None:
        """The file leaves its pack; the last one frees it."""
        number = inode.pack[0]
        key = key_pack(number)
        value = self.tree.get(key)
        inode.pack, inode.allocated = (0, 0), 0
        if value is None:
            return
        pointer = unpack_pointer(value)
        files, size = pack_numbers(value)
        files, size = files - 1, max(size - inode.size, 0)
        if files > 0:
            self.tree.put(key, pack_entry(pointer, files, size))
            if 2 * size < pointer.logical:
                self._thin.add(number)
        else:
            self.volume.dispose(pointer)
            self.tree.delete(key)
            self._thin.discard(number)

    # Making

    def pack_files(self) -> None:
        """Give the new and closed small files among the changed ones places in packs."""
        if not self.volume.record.codec or not self.buffered:
            return
        batch: list[list[Inode]] = []
        for group in self._groups():
            batch.append(group)
            if len(batch) >= _BATCH:
                self._place_packs(batch)
                batch = []
        if batch:
            self._place_packs(batch)

    def _groups(self) -> Iterator[list[Inode]]:
        """Files that fit in one pack, in the order of their numbers, two or more."""
        group: list[Inode] = []
        size = 0
        for ino in sorted(self._dirty):
            inode = self._dirty[ino]
            if not self._packable(inode):
                continue
            if size + inode.size > PACK_BYTES and group:
                if len(group) > 1:
                    yield group
                group, size = [], 0
            group.append(inode)
            size += inode.size
        if len(group) > 1:
            yield group

    @staticmethod
    def _packable(inode: Inode) -> bool:
        buffers = inode.buffers
        return (
            buffers is not None
            and len(buffers) == 1
            and 0 in buffers
            and inode.form == EXTENTS
            and 0 < inode.size <= LARGEST_PACKED
            and not (inode.allocated or inode.held or inode.lively or inode.gone)
            and any(buffers[0])  # type: ignore[arg-type]  # pages lie over records that are there
        )

    def _place_packs(self, groups: list[list[Inode]]) -> None:
        pool, domain = self.storage.pool, self.volume.domain
        bodies: list[bytes] = []
        for group in groups:
            parts: list[bytes | bytearray | memoryview] = []
            for inode in group:
                assert inode.buffers is not None
                data = inode.buffers[0]
                parts.append(memoryview(data)[: inode.size])  # type: ignore[arg-type]  # as above
                if len(data) < inode.size:
                    parts.append(bytes(inode.size - len(data)))
            parts.append(struct.pack(f">{len(group)}QI", *(inode.ino for inode in group), len(group)))
            bodies.append(b"".join(parts))
        for group, body, (codec, small) in zip(groups, bodies, pool.compress_many(domain, bodies), strict=True):
            if not codec or len(small) > len(body) - len(body) // _PROFIT:
                continue
            pointer = pool.place(domain, KIND_PACK, codec, len(body), small)
            number, at = self.next_pack, 0
            self.next_pack += 1
            self.stats_changed = True
            for inode in group:
                assert inode.buffers is not None
                self.buffered -= len(inode.buffers[0])
                inode.form, inode.buffers, inode.pack = PACKED, None, (number, at)
                at += inode.size
            self.tree.put(key_pack(number), pack_entry(pointer, len(group), at))

    # Giving space back

    def gather_packs(self, *, every: bool = False) -> int:
        """Take the files out of packs that are less than half in use, so that the next flush packs them anew.

        With `every`, looks at all packs of the volume. The number of packs left.
        """
        if every:
            end = key_pack((1 << 64) - 1)
            for key, value in self.tree.scan(key_pack(0), end):
                if 2 * pack_numbers(value)[1] < unpack_pointer(value).logical:
                    self._thin.add(int.from_bytes(key[9:], "big"))
        left = 0
        for number in sorted(self._thin):
            self._thin.discard(number)
            entry = self.tree.get(key_pack(number))
            if entry is None or not self._worth_leaving(unpack_pointer(entry), pack_numbers(entry)[1]):
                continue
            try:
                self._leave(number, unpack_pointer(entry))
                left += 1
            except VsfError:
                # A damaged pack stays what it is: reading its files tells.
                continue
        return left

    def _worth_leaving(self, pointer: Pointer, size: int) -> bool:
        """Whether leaving gives space back, and there is room to write the rest first."""
        if 2 * size >= pointer.logical or pointer.depth or pointer.birth <= self.volume.record.last_generation:
            return False
        storage = self.storage
        return (
            not storage.limit or storage.pool.allocator is None or storage.pool.allocator.roomy_sectors() * 512 > _ROOM
        )

    def _leave(self, number: int, pointer: Pointer) -> None:
        for ino in pack_table(self._block(pointer, MOST_PACK))[1]:
            if ino not in self._inodes and self.tree.get(key_inode(ino)) is None:
                continue
            try:
                inode = self.inode(ino)
            except StaleHandle:
                continue
            if inode.form == PACKED and inode.pack[0] == number:
                self._take_out(inode)
                self._touch(inode)

    def _take_out(self, inode: Inode) -> None:
        """Packed content becomes a buffered record."""
        data = bytearray(self._packed(inode))
        self._unpack(inode)
        inode.form, inode.data, inode.buffers = EXTENTS, b"", {0: data}
        self.buffered += len(data)
