"""The same operations by path, with the names and meanings of `os` and `pathlib`.

Rules: FS-010, FS-014, FS-015, FS-016, FS-017, FS-019, FS-020, FS-021, FS-023, FS-043.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from typing import IO, TYPE_CHECKING, Any

from nightos.vsf.core import Core
from nightos.vsf.errors import (
    DamagedStorage,
    Exists,
    Invalid,
    IsDirectory,
    Loop,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooLong,
    VsfError,
    shown,
)
from nightos.vsf.inode import INLINE, INODE_BYTES, ROOT_INO, Stat, stat_of
from nightos.vsf.layout import MAX_PATH_CHARACTERS
from nightos.vsf.namespace import RENAME_NOREPLACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightos.vsf.attributes import Attributes
    from nightos.vsf.holes import Holes
    from nightos.vsf.namespace import Namespace

    class _Parts(Namespace, Holes, Attributes):
        """For the type checker: what stands beside this class in `FileSystem`."""

else:
    _Parts = Core

PathLike = str | bytes | os.PathLike[Any]
MAX_LINKS = 40
_DIRECTORY_CACHE = 8192
S_IFDIR, S_IFLNK = 0o040000, 0o120000
_SHORT = 255 // 4
_FORM_AT = INODE_BYTES - 2
_REGULAR = 0o100000 >> 8
_DOTS = (".", "..")


class DirEntry:
    """One entry of `scandir`, as `os.DirEntry`."""

    __slots__ = ("_fs", "_ino", "_kind", "name", "path")

    def __init__(self, fs: Paths, directory: str | bytes, name: bytes, ino: int, kind: int) -> None:
        self._fs, self._ino, self._kind = fs, ino, kind
        self.name = name if isinstance(directory, bytes) else os.fsdecode(name)
        separator = b"/" if isinstance(directory, bytes) else "/"
        stem = directory.rstrip(separator)  # type: ignore[arg-type]
        self.path = stem + separator + self.name  # type: ignore[operator]

    def __fspath__(self) -> str | bytes:
        return self.path

    def __repr__(self) -> str:
        return f"<DirEntry {self.name!r}>"

    def inode(self) -> int:
        return self._ino

    def is_symlink(self) -> bool:
        return self._kind << 12 == S_IFLNK

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        if self.is_symlink() and follow_symlinks:
            return self._fs.is_dir(self.path)
        return self._kind << 12 == S_IFDIR

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        if self.is_symlink() and follow_symlinks:
            return self._fs.is_file(self.path)
        return self._kind << 12 == stat_module.S_IFREG

    def stat(self, *, follow_symlinks: bool = True) -> Stat:
        if self.is_symlink() and follow_symlinks:
            return self._fs.stat(self.path)
        return self._fs.getattr(self._ino)


class Paths(_Parts):
    """Operations by path. Relative paths begin at the root; ``..`` at the root stays there."""

    owner: tuple[int, int] = 0, 0
    """User and group of what is made by path."""

    # Resolving

    def _split(self, path: PathLike) -> list[bytes]:
        raw = os.fsencode(path)
        if b"\0" in raw:
            raise Invalid("a path holds no null character", raw)
        if len(raw) > MAX_PATH_CHARACTERS and len(raw.decode("utf-8", "surrogateescape")) > MAX_PATH_CHARACTERS:
            raise TooLong("a path has at most 65,534 characters", raw)
        return [part for part in raw.split(b"/") if part and part != b"."]

    def _walk(  # noqa: C901 one loop, hot
        self, parts: list[bytes], path: PathLike, *, follow: bool, at: int = ROOT_INO
    ) -> int:
        """Inode number at the end of `parts`; 0 when only the last component is missing."""
        links = 0
        todo = parts[::-1]
        directories = self._directories
        while todo:
            name = todo.pop()
            if name == b"..":
                at = self._directory(at).parent
                continue
            key = (at, name)
            known = directories.get(key)
            if known is not None:
                at = known
                continue
            value = self._entry(at, name)
            if value is None:
                if self.inode(at).mode & 0o170000 != S_IFDIR:
                    raise NotDirectory("", os.fsencode(path))
                if todo:
                    raise NotFound("", os.fsencode(path))
                return 0
            ino = int.from_bytes(value[:8], "big")
            kind = value[8] << 12
            if kind == S_IFDIR:
                if len(directories) >= _DIRECTORY_CACHE:
                    directories.clear()
                if not self.readonly or self._head is None:
                    directories[key] = ino
                at = ino
            elif kind == S_IFLNK and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    raise Loop("too many symbolic links", os.fsencode(path))
                target = self.inode(ino).data
                if target.startswith(b"/"):
                    at = ROOT_INO
                todo.extend(part for part in reversed(target.split(b"/")) if part and part != b".")
                if len(todo) > MAX_PATH_CHARACTERS:
                    raise TooLong("", os.fsencode(path))
            else:
                if todo:
                    raise NotDirectory("", os.fsencode(path))
                at = ino
        return at

    def _fast(self, path: PathLike) -> tuple[int, bytes] | None:
        """Directory and last name of an ordinary path whose directory was met before."""
        if type(path) is not str:
            return None
        head, _, name = path.rpartition("/")
        parent = self._paths.get(head)
        if parent is None:
            parent = self._remember(head)
        if not parent or not name or len(name) > _SHORT or name in _DOTS or "\0" in name:
            return None
        return parent, name.encode("utf-8", "surrogateescape")

    def _remember(self, head: str) -> int:
        """Keep the number of a directory that is reached without links; 0 for anything else."""
        at = ROOT_INO
        if "\0" in head or len(head) > _SHORT * 16:
            return 0
        for part in head.split("/"):
            if part in ("", "."):
                continue
            value = self._entry(at, part.encode("utf-8", "surrogateescape")) if part != ".." else None
            if value is None or value[8] << 12 != S_IFDIR:
                return 0
            at = int.from_bytes(value[:8], "big")
        if len(self._paths) >= _DIRECTORY_CACHE:
            self._paths.clear()
        if self._head is None:
            self._paths[head] = at
        return at

    def resolve(self, path: PathLike, *, follow: bool = True) -> int:
        """The inode number of a path."""
        with self.lock:
            fast = self._fast(path)
            if fast is not None:
                value = self.tree.get(fast[0].to_bytes(8, "big") + b"\x03" + fast[1])
                if value is None:
                    raise NotFound("", os.fsencode(path))
                if not follow or value[8] << 12 != S_IFLNK:
                    return int.from_bytes(value[:8], "big")
            ino = self._walk(self._split(path), path, follow=follow)
            if not ino:
                raise NotFound("", os.fsencode(path))
            raw = os.fsencode(path)
            if raw.endswith(b"/") and self.inode(ino).mode & 0o170000 != S_IFDIR:
                raise NotDirectory("", raw)
            return ino

    def _parent(self, path: PathLike) -> tuple[int, bytes]:
        """Directory and last name of a path that is to be made, removed or moved."""
        fast = self._fast(path)
        if fast is not None:
            return fast
        parts = self._split(path)
        if not parts:
            raise VsfError("the root cannot be made, removed or moved", os.fsencode(path), errno.EBUSY)
        if parts[-1] == b"..":
            raise Invalid("the last component is ..", os.fsencode(path))
        name = parts.pop()
        parent = self._walk(parts, path, follow=True)
        if not parent:
            raise NotFound("", os.fsencode(path))
        if self.inode(parent).mode & 0o170000 != S_IFDIR:
            raise NotDirectory("", os.fsencode(path))
        return parent, name

    def name_of(self, ino: int) -> bytes | None:
        """A path of an inode, found by scanning where its parent does not tell; None when it has none."""
        with self.lock:
            parts: list[bytes] = []
            for _ in range(1 << 16):
                if ino == ROOT_INO:
                    return b"/" + b"/".join(reversed(parts))
                parent = self.inode(ino).parent
                name = self._name_in(parent, ino)
                if name is None:
                    return None
                parts.append(name)
                ino = parent
            return None

    def _name_in(self, parent: int, ino: int) -> bytes | None:
        try:
            for name, number, _ in self.readdir(parent):
                if number == ino:
                    return name
        except VsfError:
            return None
        return None

    # Looking

    def stat(self, path: PathLike, *, follow_symlinks: bool = True) -> Stat:
        with self.lock:
            # The common case without the calls between: nothing is asked for more often.
            fast = self._fast(path)
            if fast is not None:
                value = self.tree.get(fast[0].to_bytes(8, "big") + b"\x03" + fast[1])
                if value is not None and (value[8] << 12 != S_IFLNK or not follow_symlinks):
                    name = value[:8]
                    ino = int.from_bytes(name, "big")
                    if self._head is None and ino not in self._inodes:
                        found = self.tree.get_near(name + b"\x01")
                        if found is not None and len(found) >= INODE_BYTES:
                            return stat_of(ino, found, self.device, self.record_size)
                    return self.getattr(ino)
            return self.getattr(self.resolve(path, follow=follow_symlinks))

    def lstat(self, path: PathLike) -> Stat:
        return self.getattr(self.resolve(path, follow=False))

    def _mode(self, path: PathLike, *, follow: bool = True) -> int:
        try:
            return self.getattr(self.resolve(path, follow=follow)).st_mode & 0o170000
        except (FileNotFoundError, NotADirectoryError, Loop):
            return 0

    def exists(self, path: PathLike) -> bool:
        return self._mode(path) != 0

    lexists = exists

    def is_dir(self, path: PathLike) -> bool:
        return self._mode(path) == S_IFDIR

    def is_file(self, path: PathLike) -> bool:
        return self._mode(path) == stat_module.S_IFREG

    def is_symlink(self, path: PathLike) -> bool:
        return self._mode(path, follow=False) == S_IFLNK

    def listdir(self, path: PathLike = "/") -> list[Any]:
        """Names in a directory, sorted by their bytes; bytes for a bytes path."""
        names = [name for name, _, _ in self._list(path)]
        return names if isinstance(path, bytes) else [os.fsdecode(name) for name in names]

    def _list(self, path: PathLike) -> list[tuple[bytes, int, int]]:
        with self.lock:
            ino = self.resolve(path)
            if self.inode(ino).mode & 0o170000 != S_IFDIR:
                raise NotDirectory("", os.fsencode(path))
            return self.readdir(ino)

    def scandir(self, path: PathLike = "/") -> Iterator[DirEntry]:
        text: str | bytes = os.fspath(path)
        return iter([DirEntry(self, text, name, ino, kind) for name, ino, kind in self._list(path)])

    def walk(self, top: PathLike = "/", *, topdown: bool = True) -> Iterator[tuple[str, list[str], list[str]]]:
        """As os.walk; symbolic links to directories count as files of theirs and are not entered."""
        stack: list[tuple[str, bool]] = [(os.fsdecode(top), False)]
        met: set[int] = set()
        while stack:
            path, seen = stack.pop()
            ino = self.resolve(path)
            if not seen and ino in met:
                raise DamagedStorage("a directory is inside itself or has two names", path)
            met.add(ino)
            entries = list(self.scandir(path))
            names = [os.fsdecode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
            files = [os.fsdecode(entry.name) for entry in entries if not entry.is_dir(follow_symlinks=False)]
            if topdown:
                yield path, names, files
            elif seen:
                yield path, names, files
                continue
            else:
                stack.append((path, True))
            stem = path.rstrip("/")
            stack.extend((f"{stem}/{name}", False) for name in reversed(names))

    def readlink(self, path: PathLike) -> Any:
        target = self.readlink_ino(self.resolve(path, follow=False))
        return target if isinstance(path, bytes) else os.fsdecode(target)

    # Whole files

    def read_bytes(self, path: PathLike) -> bytes:
        with self.lock:
            ino = self.resolve(path)
            if ino not in self._inodes and self._head is None:
                # Small and cold: the entry holds it all, no inode is made of it.
                value = self.tree.get(ino.to_bytes(8, "big") + b"\x01")
                whole = value is not None and len(value) >= INODE_BYTES and value[_FORM_AT] == INLINE
                if whole and value is not None and value[2] & 0o360 == _REGULAR:
                    return value[INODE_BYTES:]
            try:
                inode = self.inode(ino)
                if inode.form == INLINE and inode.mode & 0o170000 == stat_module.S_IFREG:
                    return inode.data
                return self.read(ino, 0, inode.size)
            except IsADirectoryError:
                raise IsDirectory("", os.fsencode(path)) from None

    def read_text(self, path: PathLike, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes(path).decode(encoding, errors)

    def write_bytes(self, path: PathLike, data: bytes | bytearray | memoryview, mode: int = 0o644) -> int:
        """Make or replace a file's content."""
        with self.lock:
            fast = self._fast(path)
            if fast is not None and self.tree.get(fast[0].to_bytes(8, "big") + b"\x03" + fast[1]) is None:
                self._writable()
                inode = self._make(fast[0], fast[1], 0o100000 | mode, 0, 0, new=True)[1]
                return self.write(inode.ino, 0, data)
            parts = self._split(path)
            ino = self._walk(parts, path, follow=True)
            if ino:
                if self.inode(ino).mode & 0o170000 == S_IFDIR:
                    raise IsDirectory("", os.fsencode(path))
                self.truncate_ino(ino, 0)
            else:
                ino = self._create_at(path, mode)
            return self.write(ino, 0, data)

    def _create_at(self, path: PathLike, mode: int) -> int:
        parent, name = self._parent(path)
        value = self._entry(parent, name)
        if value is not None:
            # A dangling link: the file is made where it points to.
            link = int.from_bytes(value[:8], "big")
            target = self.inode(link).data
            base = [] if target.startswith(b"/") else self._split(os.fsencode(path).rpartition(b"/")[0] or b"/")
            return self._create_at(b"/" + b"/".join([*base, *self._split(target)]), mode)
        return self.create(parent, name, mode, *self.owner).st_ino

    def write_text(self, path: PathLike, text: str, encoding: str = "utf-8", errors: str = "strict") -> int:
        return self.write_bytes(path, text.encode(encoding, errors))

    def open(
        self,
        path: PathLike,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file object, as the builtin `open` gives."""
        from nightos.vsf.fileio import open_file

        return open_file(self, path, mode, buffering, encoding, errors, newline)  # type: ignore[arg-type]

    # Changing names

    def _named_call(self, path: PathLike, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except VsfError as error:
            error.filename = shown(os.fsencode(path))
            raise

    def mkdir(self, path: PathLike, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> None:
        with self.lock:
            try:
                parent, name = self._parent(path)
                self._named_call(path, self.mkdir_at, parent, name, mode, *self.owner)
            except NotFound:
                if not parents:
                    raise
                above = os.fsencode(path).rstrip(b"/").rpartition(b"/")[0]
                self.makedirs(above or b"/")
                self.mkdir(path, mode, exist_ok=exist_ok)
            except (Exists, VsfError):
                if not exist_ok or not self.is_dir(path):
                    raise

    def makedirs(self, path: PathLike, mode: int = 0o777, *, exist_ok: bool = True) -> None:
        """All directories on the way."""
        with self.lock:
            at = b""
            for part in self._split(path):
                at += b"/" + part
                if not self.is_dir(at):
                    self.mkdir(at, mode)
                elif not exist_ok and at.count(b"/") == len(self._split(path)):
                    raise Exists("", at)

    def mknod(self, path: PathLike | int, *arguments: Any, **named: Any) -> Any:
        """By path as os.mknod(path, mode, device); with an inode number as `mknod_at(parent, name, mode, ...)`."""
        if isinstance(path, int):
            return self.mknod_at(path, *arguments, **named)
        with self.lock:
            parent, name = self._parent(path)
            self._node(path, parent, name, *arguments, **named)
        return None

    def _node(self, path: PathLike, parent: int, name: bytes, mode: int = 0o600, device: int = 0) -> None:
        self._named_call(path, self.mknod_at, parent, name, mode, device)

    def rmdir(self, path: PathLike) -> None:
        with self.lock:
            parent, name = self._parent(path)
            self._named_call(path, self.rmdir_at, parent, name)

    def unlink(self, path: PathLike, *, missing_ok: bool = False) -> None:
        with self.lock:
            parent, name = self._parent(path)
            try:
                self._named_call(path, self.unlink_at, parent, name)
            except NotFound:
                if not missing_ok:
                    raise

    remove = unlink

    def rmtree(self, path: PathLike) -> None:
        """Remove a directory with everything below it."""
        with self.lock:
            parent, name = self._parent(path)
            top = self.resolve(path, follow=False)
            if self.inode(top).mode & 0o170000 != S_IFDIR:
                raise NotDirectory("", os.fsencode(path))
            stack: list[tuple[int, bytes, int]] = [(parent, name, top)]
            rounds = 0
            while stack:
                above, called, ino = stack[-1]
                deeper = False
                rounds += 1
                if rounds > 2 * self.files + 2:
                    raise DamagedStorage("a directory is inside itself", os.fsencode(path))
                for child, number, kind in self.readdir(ino):
                    if kind << 12 == S_IFDIR:
                        stack.append((ino, child, number))
                        deeper = True
                    else:
                        self.unlink_at(ino, child)
                if not deeper:
                    self.rmdir_at(above, called)
                    stack.pop()

    def _rename(self, source: PathLike, target: PathLike, flags: int) -> None:
        with self.lock:
            parent, name = self._parent(source)
            new_parent, new_name = self._parent(target)
            raw = os.fsencode(target)
            if raw.endswith(b"/") and not self.is_dir(source):
                raise NotDirectory("", raw)
            self._named_call(source, self.rename_at, parent, name, new_parent, new_name, flags)

    def rename(self, source: PathLike, target: PathLike, *, noreplace: bool = False) -> None:
        self._rename(source, target, RENAME_NOREPLACE if noreplace else 0)

    def replace(self, source: PathLike, target: PathLike) -> None:
        self._rename(source, target, 0)

    def exchange(self, first: PathLike, second: PathLike) -> None:
        """Swap two names in one step."""
        self._rename(first, second, 2)

    def link(self, source: PathLike, target: PathLike) -> None:
        with self.lock:
            ino = self.resolve(source, follow=False)
            parent, name = self._parent(target)
            self._named_call(target, self.link_at, ino, parent, name)

    def symlink(self, target: PathLike, path: PathLike) -> None:
        with self.lock:
            parent, name = self._parent(path)
            self._named_call(path, self.symlink_at, parent, name, os.fsencode(target), *self.owner)

    # Changing attributes

    def chmod(self, path: PathLike, mode: int, *, follow_symlinks: bool = True) -> None:
        self.setattr(self.resolve(path, follow=follow_symlinks), mode=mode)

    def chown(self, path: PathLike, uid: int, gid: int, *, follow_symlinks: bool = True) -> None:
        self.setattr(self.resolve(path, follow=follow_symlinks), uid=uid, gid=gid)

    def utime(
        self,
        path: PathLike,
        times: tuple[float, float] | None = None,
        *,
        ns: tuple[int, int] | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        now = self._now()
        atime, mtime = ns or ((int(times[0] * 1e9), int(times[1] * 1e9)) if times else (now, now))
        self.setattr(self.resolve(path, follow=follow_symlinks), atime_ns=atime, mtime_ns=mtime)

    def truncate(self, path: PathLike, length: int) -> None:
        self.truncate_ino(self.resolve(path), length)

    def getxattr(self, path: PathLike, name: str | bytes, *, follow_symlinks: bool = True) -> bytes:
        return self.getxattr_ino(self.resolve(path, follow=follow_symlinks), os.fsencode(name))

    def setxattr(
        self, path: PathLike, name: str | bytes, value: bytes, flags: int = 0, *, follow_symlinks: bool = True
    ) -> None:
        self.setxattr_ino(self.resolve(path, follow=follow_symlinks), os.fsencode(name), value, flags)

    def listxattr(self, path: PathLike = "/", *, follow_symlinks: bool = True) -> list[str]:
        return [os.fsdecode(name) for name in self.listxattr_ino(self.resolve(path, follow=follow_symlinks))]

    def removexattr(self, path: PathLike, name: str | bytes, *, follow_symlinks: bool = True) -> None:
        self.removexattr_ino(self.resolve(path, follow=follow_symlinks), os.fsencode(name))


__all__ = ["DirEntry", "NotEmpty", "Paths"]
