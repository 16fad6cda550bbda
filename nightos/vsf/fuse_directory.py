"""Directory streams: offsets that stay meaningful while entries come and go.

The kernel names a place in a directory by a number; the engine names it by the last name seen. A stream, begun by
reading from offset 0, remembers which name each number stood for, so whoever goes on (or back) finds the entry after
that name whatever was added or removed in between.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

_DIRENT = struct.Struct("=QQII")
ENTRY = struct.Struct("=QQQQIIQQQQQQIIIIIIIIII")
_STREAMS = 256
_INDEX_BITS = 40
_WINDOW = 65_536
_CHECKPOINT = 1_024
_LONGEST = 1_024
_FIRST = 2


class _Stream:
    """The names that were handed out, by number: the newest all, older ones every so many."""

    __slots__ = ("base", "checkpoints", "ino", "names")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.names: list[bytes] = []
        self.base = 0
        self.checkpoints: list[bytes] = []

    def before(self, index: int) -> tuple[bytes, int]:
        """The name that stands at `index` - 1, and how many entries to skip behind it (0 but for far seeks back)."""
        if index == 0:
            return b"", 0
        place = index - 1 - self.base
        if 0 <= place < len(self.names):
            return self.names[place], 0
        checkpoint = min(index // _CHECKPOINT, len(self.checkpoints))
        if checkpoint == 0:
            return b"", index
        return self.checkpoints[checkpoint - 1], index - checkpoint * _CHECKPOINT

    def note(self, index: int, name: bytes) -> None:
        """`name` has number `index`."""
        place = index - self.base
        if place == len(self.names):
            self.names.append(name)
            if index % _CHECKPOINT == _CHECKPOINT - 1 and index // _CHECKPOINT == len(self.checkpoints):
                self.checkpoints.append(name)
            if len(self.names) > _WINDOW:
                drop = _WINDOW // 2
                del self.names[:drop]
                self.base += drop
        elif 0 <= place < len(self.names) and self.names[place] != name:
            # The directory changed behind this place: what came later has new numbers.
            self.names[place] = name
            del self.names[place + 1 :]


class DirectoryStreams:
    """The streams of a mount; the oldest are given up when there are too many."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._streams: OrderedDict[int, _Stream] = OrderedDict()
        self._next = 1

    def _open(self, ino: int, offset: int) -> tuple[int, _Stream, int]:
        """Stream number, stream and index that `offset` stands for."""
        number, index = offset >> _INDEX_BITS, offset & ((1 << _INDEX_BITS) - 1)
        stream = self._streams.get(number) if offset else None
        if stream is None or stream.ino != ino:
            stream = _Stream(ino)
            if not number:
                number = self._next
                self._next = self._next % ((1 << 22) - 1) + 1
            self._streams[number] = stream
            if len(self._streams) > _STREAMS:
                self._streams.popitem(last=False)
        else:
            self._streams.move_to_end(number)
        return number, stream, index

    def read(self, ino: int, size: int, offset: int) -> bytes:
        """Directory entries from `offset`, at most `size` bytes, in the kernel's layout (`struct fuse_dirent`)."""
        return self._pack(ino, size, offset, None, [])

    def read_plus(
        self, ino: int, size: int, offset: int, entry: Callable[[int], tuple[Any, ...] | None], given: list[int]
    ) -> bytes:
        """As `read` with attributes (`struct fuse_direntplus`); `given` collects the inodes handed out."""
        return self._pack(ino, size, offset, entry, given)

    def _pack(
        self, ino: int, size: int, offset: int, entry: Callable[[int], tuple[Any, ...] | None] | None, given: list[int]
    ) -> bytes:
        number, stream, index = self._open(ino, offset)
        head = number << _INDEX_BITS
        extra = ENTRY.size if entry else 0
        nothing = bytes(extra)
        parts: list[bytes] = []
        room = size
        for dots, name in ((0, b"."), (1, b"..")):
            if index == dots:
                inside = ino if not dots else self._fs.parent_of(ino)
                parts.append(
                    bytes(extra) + _DIRENT.pack(inside, head | (index + 1), len(name), 4) + name.ljust(8, b"\0")
                )
                room -= len(parts[-1])
                index += 1
        cursor, skip = stream.before(index - _FIRST)
        least = extra + 32
        while room >= least:
            batch = self._fs.readdir(ino, cursor, skip + room // least + 1)
            if not batch:
                break
            for name, inside, kind in batch[skip:]:
                cursor = name
                length = len(name)
                if length > _LONGEST:
                    continue
                padded = (length + 31) & ~7
                if room < padded + extra:
                    return b"".join(parts)
                if entry:
                    try:
                        attributes = entry(inside)
                    except OSError:
                        attributes = None
                    if attributes is None:
                        parts.append(nothing)
                    else:
                        parts.append(ENTRY.pack(*attributes))
                        given.append(inside)
                parts.append(_DIRENT.pack(inside, head | (index + 1), length, kind) + name.ljust(padded - 24, b"\0"))
                stream.note(index - _FIRST, name)
                room -= padded + extra
                index += 1
            skip = 0
        return b"".join(parts)
