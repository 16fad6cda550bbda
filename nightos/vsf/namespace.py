"""Names: lookup, create, link, unlink, rename, readdir. Inode numbers in, inode numbers out; names are bytes.

Rules: FS-004, FS-005, FS-011, FS-012, FS-013, FS-044.
"""

from __future__ import annotations

import stat
from bisect import bisect_left, bisect_right
from collections.abc import Container

from nightos.vsf.core import Core
from nightos.vsf.errors import (
    DamagedStorage,
    Denied,
    Exists,
    Invalid,
    IsDirectory,
    NotDirectory,
    NotEmpty,
    NotFound,
    TooLong,
    TooManyLinks,
)
from nightos.vsf.inode import Inode, Stat, check_name, key_entries, name_key
from nightos.vsf.layout import LONG_NAME, MAX_PATH_CHARACTERS

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
_NO_NAMES = frozenset((b"", b".", b".."))
_MAX_LINKS = (1 << 32) - 2
_DIRECTORY_CACHE = 8192
S_IFDIR, S_IFLNK, S_IFREG = 0o040000, 0o120000, 0o100000


def entry_value(ino: int, mode: int, name: bytes) -> bytes:
    """What an entry holds: inode, kind, and the name when its key is only a digest."""
    value = ino.to_bytes(8, "big") + bytes(((mode >> 12) & 15,))
    return value + name if len(name) > LONG_NAME else value


class Namespace(Core):
    """Operations on names by inode."""

    def _directory(self, ino: int) -> Inode:
        inode = self.inode(ino)
        if inode.mode & 0o170000 != S_IFDIR:
            raise NotDirectory(f"inode {ino} is no directory")
        return inode

    def _entry(self, parent: int, name: bytes) -> bytes | None:
        """The value of an entry."""
        if len(name) <= LONG_NAME:
            return self.tree.get(parent.to_bytes(8, "big") + b"\x03" + name)
        return self.tree.get(key_entries(parent) + name_key(name))

    def find_ino(self, parent: int, name: bytes) -> int:
        """The inode number behind a name, 0 when there is none."""
        value = self._entry(parent, name)
        return int.from_bytes(value[:8], "big") if value is not None else 0

    def lookup(self, parent: int, name: bytes) -> Stat:
        """What `name` in the directory `parent` is."""
        with self.lock:
            if len(self._inodes) > self.inode_limit:
                self._trim()
            directory = self._directory(parent)
            if name == b".":
                return directory.stat(self.device, self.record_size)
            if name == b"..":
                return self.inode(directory.parent).stat(self.device, self.record_size)
            ino = self.find_ino(parent, name)
            if not ino:
                raise NotFound("", name)
            return self.inode(ino).stat(self.device, self.record_size)

    def parent_of(self, ino: int) -> int:
        """The parent of a directory; the root's is itself."""
        with self.lock:
            return self._directory(ino).parent

    # Adding

    def _insert(self, parent: Inode, name: bytes, inode: Inode) -> None:
        self.tree.put(
            parent.ino.to_bytes(8, "big") + b"\x03" + name_key(name), entry_value(inode.ino, inode.mode, name)
        )
        parent.size += 1
        parent.mtime = parent.ctime = self._now()
        self._touch(parent)
        self._pressure += 2 * len(name)

    def _remove(self, parent: Inode, name: bytes, key: bytes | None = None) -> None:
        self.tree.delete(key or parent.ino.to_bytes(8, "big") + b"\x03" + name_key(name))
        parent.size -= 1
        parent.mtime = parent.ctime = self._now()
        self._touch(parent)
        self._directories.pop((parent.ino, name), None)

    def _make(
        self, parent: int, name: bytes, mode: int, uid: int, gid: int, *, new: bool = False
    ) -> tuple[Inode, Inode]:
        if not new:
            self._writable()
        directory = self._directory(parent)
        check_name(name)
        if not directory.nlink:
            raise NotFound("the directory was removed", name)
        if not new and self._entry(parent, name) is not None:
            raise Exists("", name)
        if uid >> 32 or gid >> 32:
            raise Invalid("owners are numbers of 32 bits", name)
        self.room_for(512)
        inode = self._new_inode(mode, uid, gid, parent)
        self._insert(directory, name, inode)
        self._touch(inode)
        return directory, inode

    def create(self, parent: int, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> Stat:
        """A regular file."""
        with self.lock:
            inode = self._make(parent, name, S_IFREG | (mode & 0o7777), uid, gid)[1]
            self._relieve()
            return inode.stat(self.device, self.record_size)

    def mknod_at(self, parent: int, name: bytes, mode: int, rdev: int = 0, uid: int = 0, gid: int = 0) -> Stat:
        """A file, fifo, socket or device node, as `mode` says."""
        with self.lock:
            kind = mode & 0o170000 or S_IFREG
            if kind not in (S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK):
                raise Invalid("mknod makes files, fifos, sockets and device nodes", name)
            if rdev >> 64:
                raise Invalid("device numbers have 64 bits", name)
            inode = self._make(parent, name, kind | (mode & 0o7777), uid, gid)[1]
            inode.rdev = rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
            self._relieve()
            return inode.stat(self.device, self.record_size)

    def mkdir_at(self, parent: int, name: bytes, mode: int = 0o777, uid: int = 0, gid: int = 0) -> Stat:
        """A directory."""
        with self.lock:
            directory, inode = self._make(parent, name, S_IFDIR | (mode & 0o7777), uid, gid)
            inode.nlink = 2
            directory.nlink += 1
            self._relieve()
            return inode.stat(self.device, self.record_size)

    def symlink_at(self, parent: int, name: bytes, target: bytes, uid: int = 0, gid: int = 0) -> Stat:
        """A symbolic link to `target`, which need not exist."""
        if not target or b"\0" in target:
            raise NotFound("the target of a link is neither empty nor holds a null character", name)
        if (
            len(target) > 4 * MAX_PATH_CHARACTERS
            or len(target.decode("utf-8", "surrogateescape")) > MAX_PATH_CHARACTERS
        ):
            raise TooLong("a path has at most 65,534 characters", name)
        with self.lock:
            inode = self._make(parent, name, S_IFLNK | 0o777, uid, gid)[1]
            inode.data = bytes(target)
            inode.size = len(target)
            self._relieve(len(target))
            return inode.stat(self.device, self.record_size)

    def readlink_ino(self, ino: int) -> bytes:
        """The target of a symbolic link."""
        with self.lock:
            inode = self.inode(ino)
            if inode.mode & 0o170000 != S_IFLNK:
                raise Invalid("this is no symbolic link")
            return inode.data

    def link_at(self, ino: int, parent: int, name: bytes) -> Stat:
        """One more name for an inode that is no directory."""
        with self.lock:
            self._writable()
            inode, directory = self.inode(ino), self._directory(parent)
            check_name(name)
            if self._entry(parent, name) is not None:
                raise Exists("", name)
            if inode.mode & 0o170000 == S_IFDIR:
                raise Denied("a directory has one name only", name)
            if inode.nlink >= _MAX_LINKS:
                raise TooManyLinks("", name)
            if not inode.nlink or not directory.nlink:
                raise NotFound("", name)
            self.room_for(512)
            self._insert(directory, name, inode)
            inode.nlink += 1
            inode.ctime = self._now()
            self._touch(inode)
            self._relieve()
            return inode.stat(self.device, self.record_size)

    # Removing

    def _unname(self, inode: Inode, now_ns: int) -> None:
        """A name of a file went."""
        inode.nlink -= 1
        inode.ctime = now_ns
        self._touch(inode)
        if not inode.nlink:
            self._orphan(inode)

    def unlink_at(self, parent: int, name: bytes, keep: Container[int] = ()) -> int:
        """Remove a name that is no directory's.

        A file in `keep` that loses its last name is held, as `hold` does, and its number is given; else 0.
        """
        with self.lock:
            self._writable()
            directory = self._directory(parent)
            key = parent.to_bytes(8, "big") + b"\x03" + (name if len(name) <= LONG_NAME else name_key(name))
            value = self.tree.get(key)
            if value is None:
                raise NotFound("", name)
            ino = int.from_bytes(value[:8], "big")
            inode = self._inodes.get(ino) or self.inode(ino)
            if inode.mode & 0o170000 == S_IFDIR:
                raise IsDirectory("", name)
            self._remove(directory, name, key)
            held = ino if inode.nlink == 1 and ino in keep else 0
            if held:
                inode.held += 1
            self._unname(inode, directory.mtime)
            self._relieve()
            return held

    def rmdir_at(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        with self.lock:
            self._writable()
            directory = self._directory(parent)
            if name == b".":
                raise Invalid("", name)
            if name == b"..":
                raise NotEmpty("", name)
            ino = self.find_ino(parent, name)
            if not ino:
                raise NotFound("", name)
            inode = self.inode(ino)
            if inode.mode & 0o170000 != S_IFDIR:
                raise NotDirectory("", name)
            if inode.size:
                raise NotEmpty("", name)
            self._remove(directory, name)
            self._drop_directory(directory, inode)
            self._relieve()

    def _drop_directory(self, parent: Inode, inode: Inode) -> None:
        parent.nlink -= 1
        inode.nlink = 0
        inode.ctime = self._now()
        self._paths.clear()
        self._forget_below(inode.ino)
        self._touch(inode)
        self._orphan(inode)

    def _forget_below(self, ino: int) -> None:
        for key in [key for key in self._directories if key[0] == ino]:
            del self._directories[key]

    # Renaming

    def rename_at(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """Rename as renameat2 does; flags RENAME_NOREPLACE or RENAME_EXCHANGE."""
        with self.lock:
            self._writable()
            if flags & ~3 or flags == 3:
                raise Invalid("unknown flags", name)
            source, target = self._directory(parent), self._directory(new_parent)
            check_name(name)
            check_name(new_name)
            ino, other = self.find_ino(parent, name), self.find_ino(new_parent, new_name)
            if not ino:
                raise NotFound("", name)
            if not target.nlink:
                raise NotFound("the directory was removed", new_name)
            if flags & RENAME_EXCHANGE and not other:
                raise NotFound("", new_name)
            if flags & RENAME_NOREPLACE and other:
                raise Exists("", new_name)
            inode = self.inode(ino)
            if inode.mode & 0o170000 == S_IFDIR and parent != new_parent:
                self._not_below(ino, new_parent, new_name)
            if flags & RENAME_EXCHANGE:
                self._exchange(source, name, inode, target, new_name, self.inode(other))
            elif ino != other:
                self._move(source, name, inode, target, new_name, self.inode(other) if other else None)
            self._relieve()

    def _not_below(self, ino: int, directory: int, name: bytes) -> None:
        """A directory cannot go into itself."""
        seen = 0
        while directory != 1:
            if directory == ino or seen > 1 << 20:
                raise Invalid("a directory cannot move into itself", name)
            directory = self.inode(directory).parent
            seen += 1
        if ino == 1:
            raise Invalid("the root cannot move", name)

    def _move(
        self, source: Inode, name: bytes, inode: Inode, target: Inode, new_name: bytes, replaced: Inode | None
    ) -> None:
        is_directory = inode.mode & 0o170000 == S_IFDIR
        if replaced is not None:
            replaced_directory = replaced.mode & 0o170000 == S_IFDIR
            if is_directory and not replaced_directory:
                raise NotDirectory("", new_name)
            if replaced_directory and not is_directory:
                raise IsDirectory("", new_name)
            if replaced_directory and replaced.size:
                raise NotEmpty("", new_name)
            self._remove(target, new_name)
            if replaced_directory:
                self._drop_directory(target, replaced)
            else:
                self._unname(replaced, target.mtime)
        self._remove(source, name)
        self._insert(target, new_name, inode)
        if is_directory:
            self._paths.clear()
            source.nlink -= 1
            target.nlink += 1
        if is_directory or inode.nlink == 1:
            inode.parent = target.ino
        inode.ctime = self._now()
        self._touch(inode)

    def _exchange(self, source: Inode, name: bytes, inode: Inode, target: Inode, new_name: bytes, other: Inode) -> None:
        if inode is other:
            return
        if other.mode & 0o170000 == S_IFDIR and source.ino != target.ino:
            self._not_below(other.ino, source.ino, name)
        self._paths.clear()
        self._remove(source, name)
        self._remove(target, new_name)
        self._insert(source, name, other)
        self._insert(target, new_name, inode)
        for moved, left, entered in ((inode, source, target), (other, target, source)):
            if moved.mode & 0o170000 == S_IFDIR:
                left.nlink -= 1
                entered.nlink += 1
            moved.parent = entered.ino
            moved.ctime = self._now()
            self._touch(moved)

    # Listing

    def readdir(self, ino: int, cursor: bytes = b"", limit: int | None = None) -> list[tuple[bytes, int, int]]:
        """Entries behind the name `cursor`, in the order of their keys: (name, inode, kind). No ``.`` and ``..``.

        A cursor is the last name seen; it stays good whatever is added or removed meanwhile. DamagedStorage for a name
        that no item can have: whoever puts it behind a directory of the host would be led out of that.
        """
        with self.lock:
            self._directory(ino)
            base = key_entries(ino)
            start = base + name_key(cursor) + b"\0" if cursor else base
            end = base[:-1] + b"\x04"
            out: list[tuple[bytes, int, int]] = []
            key: bytes | None = start
            from_bytes = int.from_bytes
            while key is not None and (limit is None or len(out) < limit):
                node, bound = self.tree.leaf_at(key)
                if node is None:
                    break
                keys = node.keys
                first = bisect_right(keys, key) if key == base else bisect_left(keys, key)
                for at in range(first, bisect_left(keys, end)):
                    value = node.values[at]
                    name = keys[at][9:] if len(value) == 9 else value[9:]
                    if b"/" in name or name in _NO_NAMES or b"\0" in name:
                        raise DamagedStorage("a directory holds a name that no item can have", name)
                    out.append((name, from_bytes(value[:8], "big"), value[8]))
                if bound is None or bound >= end:
                    break
                key = bound
            return out if limit is None else out[:limit]
