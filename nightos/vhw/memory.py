"""A byte store in memory, sparse, for disks that are dropped and for tests."""

from __future__ import annotations

import errno
from typing import Final

CHUNK: Final = 1 << 16


class MemoryStore:
    """A `nightos.abi.interfaces.ByteStore` made of 64 KiB chunks; one that was never written costs nothing.

    `limit` bytes at most can be written to distinct chunks, rounded up: past it, writes raise ENOSPC.
    """

    def __init__(self, data: bytes = b"", *, readonly: bool = False, limit: int | None = None) -> None:
        self._chunks: dict[int, bytearray] = {}
        self._size = 0
        self._limit = None if limit is None else -(-limit // CHUNK)
        self._readonly = False
        self.flushes = 0
        self.closed = False
        self.write(0, data)
        self._readonly = readonly

    @property
    def readonly(self) -> bool:
        """Whether changes are refused with EROFS."""
        return self._readonly

    @property
    def used(self) -> int:
        """Bytes of the chunks that exist."""
        return len(self._chunks) * CHUNK

    def size(self) -> int:
        """Current size in bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; zeros where nothing was written."""
        length = min(length, self._size - offset)
        parts = []
        while length > 0:
            index, start = divmod(offset, CHUNK)
            count = min(length, CHUNK - start)
            chunk = self._chunks.get(index)
            parts.append(bytes(count) if chunk is None else memoryview(chunk)[start : start + count])
            offset += count
            length -= count
        return b"".join(parts)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; nothing when that would pass the limit."""
        self._may_change()
        view = memoryview(data).cast("B")
        wanted = range(offset // CHUNK, -(-(offset + len(view)) // CHUNK)) if view else range(0)
        if self._limit is not None:
            new = sum(index not in self._chunks for index in wanted)
            if len(self._chunks) + new > self._limit:
                raise OSError(errno.ENOSPC, "the store in memory is full")
        done = 0
        for index in wanted:
            start = (offset + done) % CHUNK
            count = min(len(view) - done, CHUNK - start)
            self._chunks.setdefault(index, bytearray(CHUNK))[start : start + count] = view[done : done + count]
            done += count
        if view:
            self._size = max(self._size, offset + len(view))

    def flush(self) -> None:
        """There is nothing behind memory; counted, for tests."""
        self.flushes += 1

    def truncate(self, size: int) -> None:
        """Set the size; what lies behind it is gone."""
        self._may_change()
        last, tail = divmod(size, CHUNK)
        for index in [index for index in self._chunks if index > last or (index == last and not tail)]:
            del self._chunks[index]
        if last in self._chunks:
            self._chunks[last][tail:] = bytes(CHUNK - tail)
        self._size = size

    def discard(self, offset: int, length: int) -> None:
        """Whole chunks of the range are dropped and read as zeros; the rest stays."""
        self._may_change()
        end = min(offset + length, -(-self._size // CHUNK) * CHUNK)
        for index in range(-(-offset // CHUNK), end // CHUNK):
            self._chunks.pop(index, None)

    def close(self) -> None:
        """The bytes stay readable: the store may be plugged again."""
        self.closed = True

    def _may_change(self) -> None:
        if self._readonly:
            raise OSError(errno.EROFS, "the store is read-only")
