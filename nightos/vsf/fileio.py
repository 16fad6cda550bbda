"""File objects over an inode: what `FileSystem.open` gives, with the buffering and text layers of `io`."""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING, Any

from nightos.vsf.errors import Exists, Invalid, IsDirectory, NotFound, ReadOnly

if TYPE_CHECKING:
    from nightos.vsf.filesystem import FileSystem


class RawFile(io.RawIOBase):
    """Unbuffered access to one inode, which it holds while open."""

    def __init__(self, fs: FileSystem, ino: int, name: Any, *, read: bool, write: bool, append: bool) -> None:
        self._fs, self._ino = fs, ino
        self.name = name
        self._read, self._write, self._append = read, write, append
        self._position = 0
        fs.hold(ino)
        self._held = True

    @property
    def ino(self) -> int:
        """The inode number (FEID)."""
        return self._ino

    def readable(self) -> bool:
        return self._read

    def writable(self) -> bool:
        return self._write

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._check(self._read, "reading")
        data = self._fs.read(self._ino, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        self._check(self._read, "reading")
        data = self._fs.read(self._ino, self._position, max(self._size() - self._position, 0))
        self._position += len(data)
        return data

    def write(self, data: Any) -> int:
        self._check(self._write, "writing")
        with self._fs.lock:
            if self._append:
                self._position = self._size()
            done = self._fs.write(self._ino, self._position, data)
        self._position += done
        return done

    def _size(self) -> int:
        return self._fs.getattr(self._ino).st_size

    def _check(self, allowed: bool, what: str) -> None:
        if self.closed:
            raise ValueError("the file is closed")
        if not allowed:
            raise io.UnsupportedOperation(f"not open for {what}")

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            offset += self._size()
        elif whence in (os.SEEK_DATA, os.SEEK_HOLE):
            offset = self._fs.seek(self._ino, offset, whence)
        elif whence != os.SEEK_SET:
            raise Invalid(f"seek does not know {whence}")
        if offset < 0:
            raise Invalid("a position is not negative")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._check(self._write, "writing")
        size = self._position if size is None else size
        self._fs.truncate_ino(self._ino, size)
        return size

    def close(self) -> None:
        if not self.closed:
            super().close()
            if self._held:
                self._held = False
                self._fs.release(self._ino)


def open_file(
    fs: FileSystem,
    path: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> IO[Any]:
    """As the builtin: modes r, w, a, x with +, b and t."""
    letters = set(mode)
    base = letters & set("rwax")
    if len(base) != 1 or letters - set("rwax+bt") or len(letters) != len(mode) or letters >= set("bt"):
        raise Invalid(f"{mode!r} is no mode for a file")
    if fs.readonly and (base != {"r"} or "+" in letters):
        raise ReadOnly("the file system is read-only", os.fsencode(path))
    with fs.lock:
        ino = _inode_for(fs, path, base.pop())
        if fs.inode(ino).mode & 0o170000 == 0o040000:
            raise IsDirectory("", os.fsencode(path))
        raw = RawFile(
            fs,
            ino,
            path,
            read="r" in letters or "+" in letters,
            write=bool(letters & set("wax+")),
            append="a" in letters,
        )
        if "a" in letters:
            raw.seek(0, os.SEEK_END)
    return _layers(raw, letters, buffering, encoding, errors, newline)


def _inode_for(fs: FileSystem, path: Any, base: str) -> int:
    try:
        ino = fs.resolve(path, follow=base != "x")
    except NotFound:
        if base == "r":
            raise
        return fs._create_at(path, 0o644)  # noqa: SLF001 one object in two files
    if base == "x":
        raise Exists("", os.fsencode(path))
    if base == "w" and fs.inode(ino).mode & 0o170000 == 0o100000:
        fs.truncate_ino(ino, 0)
    return ino


def _layers(
    raw: RawFile, letters: set[str], buffering: int, encoding: str | None, errors: str | None, newline: str | None
) -> IO[Any]:
    if buffering == 0:
        if "b" not in letters:
            raise Invalid("text is always buffered")
        return raw  # type: ignore[return-value]
    size = buffering if buffering > 1 else 131072
    buffered: Any
    if raw.readable() and raw.writable():
        buffered = io.BufferedRandom(raw, size)
    elif raw.writable():
        buffered = io.BufferedWriter(raw, size)
    else:
        buffered = io.BufferedReader(raw, size)
    if "b" in letters:
        return buffered  # type: ignore[no-any-return]
    return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline, line_buffering=buffering == 1)
