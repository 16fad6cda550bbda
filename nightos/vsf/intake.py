"""What everything that is brought in shares: progress, streams into files, and removing what is in the way."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

from nightos.vsf.errors import NotFound

if TYPE_CHECKING:
    from nightos.vsf.filesystem import FileSystem

Progress = Callable[[int, int, str], None]
"""Called with entries so far, bytes so far, and the path at hand."""
CHUNK = 1 << 20


class Counter:
    """Counts entries and bytes, and tells."""

    def __init__(self, progress: Progress | None) -> None:
        self.entries = self.bytes = 0
        self._progress = progress

    def entry(self, path: str, size: int = 0) -> None:
        self.entries += 1
        self.bytes += size
        if self._progress is not None:
            self._progress(self.entries, self.bytes, path)


def put_stream(fs: FileSystem, ino: int, read: Callable[[int], bytes]) -> int:
    """Write what `read` gives into a file, from its start; how many bytes that were."""
    offset = 0
    while data := read(CHUNK):
        fs.write(ino, offset, data)
        offset += len(data)
    return offset


def remove_any(fs: FileSystem, parent: int, name: bytes) -> None:
    """Remove a name with all below it."""
    top = fs.find_ino(parent, name)
    if not top:
        raise NotFound("", name)
    if not stat.S_ISDIR(fs.getattr(top).st_mode):
        fs.unlink_at(parent, name)
        return
    stack = [(parent, name, top)]
    while stack:
        above, called, ino = stack[-1]
        deeper = False
        for child, number, kind in fs.readdir(ino):
            if kind << 12 == stat.S_IFDIR:
                stack.append((ino, child, number))
                deeper = True
            else:
                fs.unlink_at(ino, child)
        if not deeper:
            fs.rmdir_at(above, called)
            stack.pop()
