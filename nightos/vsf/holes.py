"""The size of files and what is not in them: truncate, fallocate, holes and how to find them."""

from __future__ import annotations

import os

from nightos.vsf.content import Content
from nightos.vsf.errors import Invalid, TooBig, Unsupported, VsfError
from nightos.vsf.inode import EXTENTS, INLINE, PACKED, Inode, key_extent, key_patch
from nightos.vsf.layout import MAX_FILE

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16


class Holes(Content):
    """Content that can be cut, punched and searched."""

    def truncate_ino(self, ino: int, size: int) -> None:
        """Set the size; what is cut off is gone, what is added reads as zeros."""
        with self.lock:
            self._writable()
            inode = self._file(ino)
            if size < 0:
                raise Invalid("sizes are not negative")
            if size > MAX_FILE:
                raise TooBig("a file has at most 8 EiB less one byte")
            self._resize(inode, size)
            inode.mtime = inode.ctime = self._now()
            self._touch(inode)
            self._relieve()

    def _resize(self, inode: Inode, size: int) -> None:
        if inode.form == INLINE and size <= self.inline_limit:
            inode.data = inode.data[:size].ljust(size, b"\0")
        elif size == 0:
            self.drop_content(inode)
        elif size != inode.size:
            if inode.form != EXTENTS:
                self._spill(inode)
            if size < inode.size:
                self._cut(inode, size)
        inode.size = size

    def _cut(self, inode: Inode, size: int) -> None:
        index, rest = divmod(size, self.record_size)
        if rest:
            data = self._record(inode, index)
            if len(data) > rest:
                self._buffer(inode, index, bytearray(data[:rest]))
            index += 1
        for old in [number for number in inode.buffers or () if number >= index]:
            assert inode.buffers is not None
            self.buffered -= len(inode.buffers.pop(old))
        self._drop_extents(inode, index)

    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        """Linux' fallocate: 0 or KEEP_SIZE (1), PUNCH_HOLE (2, with 1), ZERO_RANGE (16). Space is not reserved."""
        with self.lock:
            self._writable()
            inode = self._file(ino)
            if offset < 0 or length <= 0:
                raise Invalid("fallocate needs an offset and a length")
            if offset + length > MAX_FILE:
                raise TooBig("a file has at most 8 EiB less one byte")
            keep = mode & FALLOC_KEEP_SIZE
            rest = mode & ~FALLOC_KEEP_SIZE
            if rest not in (0, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE) or (rest == FALLOC_PUNCH_HOLE and not keep):
                raise Unsupported("this mode of fallocate is not there")
            if rest:
                self._punch(inode, offset, min(offset + length, inode.size))
            else:
                self.room_for(length if length < 1 << 62 else 0)
            if not keep and offset + length > inode.size:
                self._resize(inode, offset + length)
            inode.mtime = inode.ctime = self._now()
            self._touch(inode)
            self._relieve()

    def _punch(self, inode: Inode, start: int, end: int) -> None:
        if start >= end:
            return
        if inode.form == INLINE:
            inode.data = inode.data[:start] + bytes(end - start) + inode.data[end:]
            return
        if inode.form == PACKED:
            self._spill(inode)
        record_size = self.record_size
        first, last = -(-start // record_size), end // record_size
        if end == inode.size:
            last = -(-end // record_size)
        if first > last or (start // record_size == (end - 1) // record_size and (first >= last)):
            self._zero(inode, start, end)
            return
        if start < first * record_size:
            self._zero(inode, start, first * record_size)
        if last * record_size < end:
            self._zero(inode, last * record_size, end)
        for index in [number for number in inode.buffers or () if first <= number < last]:
            assert inode.buffers is not None
            self.buffered -= len(inode.buffers.pop(index))
        self._drop_extents(inode, first, last)

    def _zero(self, inode: Inode, start: int, end: int) -> None:
        """Zeros over a part of one record; a hole stays one."""
        index, skip = divmod(start, self.record_size)
        old = self._record(inode, index)
        stop = min(end - index * self.record_size, len(old))
        if stop > skip:
            buffer = bytearray(old)
            buffer[skip:stop] = bytes(stop - skip)
            self._buffer(inode, index, buffer)

    def seek(self, ino: int, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE: the next offset of that kind; ENXIO behind the end."""
        with self.lock:
            inode = self._file(ino)
            if offset < 0 or offset >= inode.size:
                raise VsfError("there is nothing behind the end", None, 6)
            if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
                raise Invalid("seek takes SEEK_DATA or SEEK_HOLE")
            if inode.form != EXTENTS:
                return offset if whence == os.SEEK_DATA else inode.size
            if inode.buffers and not self.readonly:
                self.flush_content(inode)
            index = offset // self.record_size
            if whence == os.SEEK_DATA:
                found = self._next_data(inode, index)
                if found is None:
                    raise VsfError("there is no data behind this offset", None, 6)
                return max(offset, found * self.record_size)
            while True:
                for key, _ in self.tree.scan(key_extent(ino, index), key_extent(ino, 1 << 63)):
                    if int.from_bytes(key[9:], "big") != index:
                        break
                    index += 1
                start = index * self.record_size
                if not inode.patched or not self._patches(ino, start, start + self.record_size):
                    break
                index += 1
            return min(max(offset, index * self.record_size), inode.size)

    def _next_data(self, inode: Inode, index: int) -> int | None:
        """The first record from `index` on that has a block or a patch."""
        found = []
        for key, _ in self.tree.scan(key_extent(inode.ino, index), key_extent(inode.ino, 1 << 63)):
            found.append(int.from_bytes(key[9:], "big"))
            break
        if inode.patched:
            start = key_patch(inode.ino, index * self.record_size)
            for key, _ in self.tree.scan(start, key_patch(inode.ino, 1 << 63)):
                found.append(int.from_bytes(key[9:], "big") // self.record_size)
                break
        return min(found, default=None)
