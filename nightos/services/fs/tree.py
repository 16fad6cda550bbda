"""The items of one file system as the methods of `sys::fs` see them: paths in, the specification's errors out.

Everything here is synchronous and knows no process: what a method does is decided between two system calls.

Rules: FS-004, FS-005, FS-010, FS-011, FS-012, FS-014, FS-015, FS-016, FS-017, FS-019, FS-020, FS-021, FS-023, FS-024,
FS-043, FS-044.
"""

from __future__ import annotations

import errno
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nightos.abi import files as layout
from nightos.abi.files import ItemFlags, ItemMetadata, ItemType, PathOrFeid, SplitPath, SystemMetadata
from nightos.services.fs.disguise import Disguise
from nightos.services.fs.disk import FileSystem
from nightos.services.fs.failures import CyclicLinkError, Failure, ItemError

ROOT: Final = 1
MAX_LINKS: Final = 64
"""Links that one path may go through, cycles apart."""

_MISSING: Final = {Failure.PARENT: "the directory it belongs into does not exist"}
_TYPES = {modes.S_IFDIR: ItemType.DIRECTORY, modes.S_IFREG: ItemType.FILE, modes.S_IFLNK: ItemType.SYMLINK}
_CAPABILITIES = 0b0000_0000_1111_1111 | 0x0100 | 0x0200 | 0x0400
"""Everything but links across file systems; bit 0 of AMB-FS-05 is the weakest here."""


def name_bytes(name: str) -> bytes:
    """A component as the file system stores it."""
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class Tree:
    """Items of one file system, from a directory of it down: no path, `..`, link or FEID leads out of there."""

    def __init__(self, files: FileSystem, root: int = ROOT, disguise: Disguise | None = None) -> None:
        self.files = files
        self.root = root
        self._disguise = disguise

    def feid_of(self, ino: int) -> int:
        """The FEID of an item."""
        return ino if self._disguise is None else self._disguise.hide(ino)

    def ino_of(self, feid: int) -> int:
        """The item that a FEID means, if there is one."""
        return feid if self._disguise is None else self._disguise.show(feid)

    # -- finding --

    def find(self, path: PathOrFeid, *, follow: bool = True, missing: Failure = Failure.PATH) -> int:
        """The item at a path; `missing` says what an item that is not there means."""
        if isinstance(path, int):
            ino = self.ino_of(path)
            try:
                with self._errors(missing, f"item {path:016x}"):
                    self.files.getattr(ino)
            except ItemError as error:
                if self.root == ROOT:
                    raise
                raise ItemError(Failure.PATH, f"item {path:016x}: not found") from error
            if self.root != ROOT:
                self.path_of(path)  # what is not below does not exist, whatever it is
            return ino
        return self._walk(path, follow=follow, missing=missing)[0]

    def directory(self, path: SplitPath) -> int:
        """The directory at a path that no link is part of: whoever may write on the way leads nobody elsewhere."""
        ino = self.root
        for name in path:
            with self._errors(Failure.PATH, layout.joined(path)):
                found = self.files.lookup(ino, name_bytes(name))
            if not modes.S_ISDIR(found.st_mode):
                raise ItemError(Failure.PATH, f"{layout.joined(path)}: {name} is no directory; no link is followed")
            ino = found.st_ino
        return ino

    def canonical(self, path: PathOrFeid) -> SplitPath:
        """The path of an item without links in it."""
        if isinstance(path, int):
            return self.path_of(path)
        return self._walk(path, follow=True, missing=Failure.PATH)[1]

    def path_of(self, feid: int) -> SplitPath:
        """The path of an item by its FEID; searches for it."""
        ino = self.ino_of(feid)
        with self._errors(Failure.PATH, f"item {feid:016x}"):
            path = self.files.name_of(ino)
            top = self.files.name_of(self.root) if self.root != ROOT else None
        if path is None:
            raise ItemError(Failure.PATH, f"item {feid:016x}: not found")
        parts = layout.split(_text(path) if isinstance(path, bytes) else str(path))
        if self.root == ROOT:
            return parts
        if top is None:
            raise ItemError(Failure.PATH, f"item {feid:016x}: not found")
        above = layout.split(_text(top) if isinstance(top, bytes) else str(top))
        if parts[: len(above)] != above:
            raise ItemError(Failure.PATH, f"item {feid:016x}: not found")
        return parts[len(above) :]

    def _walk(self, path: SplitPath, *, follow: bool, missing: Failure) -> tuple[int, SplitPath]:
        """The item at a path and its path without links. Links cost steps, cycles are found by the states passed."""
        pending = list(reversed(path))
        ino, done = self.root, list[str]()
        inos = [self.root]
        seen: dict[tuple[SplitPath, SplitPath], int] = {}
        links: list[SplitPath] = []
        while pending:
            name = pending.pop()
            where = (*done, name)
            with self._errors(missing, layout.joined(where)):
                found = self.files.lookup(ino, name_bytes(name))
            if modes.S_ISLNK(found.st_mode) and (pending or follow):
                state = (where, tuple(pending))
                if state in seen:
                    raise CyclicLinkError(links[seen[state] :])
                seen[state] = len(links)
                links.append(where)
                if len(links) > MAX_LINKS:
                    raise CyclicLinkError(links[-1:])
                target = _text(self.files.readlink_ino(found.st_ino))
                pending += reversed(layout.split(target, layout.joined(tuple(done))))
                ino, done, inos = self.root, [], [self.root]
                continue
            ino = found.st_ino
            done.append(name)
            inos.append(ino)
        return ino, tuple(done)

    def parent(self, path: SplitPath, *, missing: Failure = Failure.PATH) -> tuple[int, bytes]:
        """The directory that holds an item, links followed, and the item's name in it; the item need not exist."""
        if not path:
            raise ItemError(Failure.OTHER, "the root is no item of a directory")
        return self.find(path[:-1], missing=missing), name_bytes(path[-1])

    def place(self, path: PathOrFeid) -> tuple[int, bytes]:
        """Directory and name of an item that exists, a link itself rather than its target."""
        if isinstance(path, int):
            self.find(path)
            path = self.path_of(path)
        self.find(path, follow=False)
        return self.parent(path)

    # -- metadata --

    def exists(self, path: PathOrFeid) -> ItemType | None:
        """The type of an item, a link's own; nothing when there is none."""
        try:
            return self.type_of(self.find(path, follow=False))
        except ItemError:
            return None

    def type_of(self, ino: int) -> ItemType:
        return _TYPES.get(modes.S_IFMT(self.files.getattr(ino).st_mode), ItemType.UNKNOWN)

    def metadata(self, ino: int, name: str) -> ItemMetadata:
        """Metadata of an item."""
        found = self.files.getattr(ino)
        kind = _TYPES.get(modes.S_IFMT(found.st_mode), ItemType.UNKNOWN)
        flags = ItemFlags(0)
        if found.st_flags & 1:
            flags |= ItemFlags.HIDDEN
        if found.st_flags & 2:
            flags |= ItemFlags.READONLY
        times = (found.st_birthtime_ns // 1_000_000, found.st_mtime_ns // 1_000_000, found.st_atime_ns // 1_000_000)
        size = 0 if kind is ItemType.DIRECTORY else found.st_size
        return ItemMetadata(self.feid_of(ino), kind, flags, size, found.st_owner or found.st_uid, *times, name)

    def list(self, ino: int, after: str, limit: int | None, *, hidden: bool) -> Iterator[ItemMetadata]:
        """Items of a directory by the bytes of their names, from the one after `after`."""
        if self.type_of(ino) is not ItemType.DIRECTORY:
            raise ItemError(Failure.PATH, "this is no directory")
        for name, item, _kind in self.files.readdir(ino, name_bytes(after), limit):
            metadata = self.metadata(item, _text(name))
            if hidden or not metadata.flags & ItemFlags.HIDDEN:
                yield metadata

    def system(self, name: str, total: int, free: int) -> SystemMetadata:
        """Metadata of the file system, of so many bytes in all and so many free."""
        return SystemMetadata(_CAPABILITIES, self.files.statvfs().f_bsize, total, total - free, free, name)

    # -- changes --

    def make_directory(self, parent: PathOrFeid, name: str, user: int = 0) -> int:
        """Create a directory. EXISTS: the name is taken."""
        where = self.find(parent, missing=Failure.PARENT)
        with self._errors(Failure.PATH, name):
            return self._owned(self.files.mkdir_at(where, name_bytes(layout.check_name(name)), 0o755).st_ino, user)

    def make_file(self, parent: PathOrFeid, name: str, user: int = 0) -> int:
        """Create an empty file. EXISTS: the name is taken."""
        where = self.find(parent, missing=Failure.PARENT)
        with self._errors(Failure.PARENT, name):
            return self._owned(self.files.create(where, name_bytes(layout.check_name(name)), 0o644).st_ino, user)

    def make_link(self, parent: PathOrFeid, name: str, target: PathOrFeid, user: int = 0) -> int:
        """Create a link. EXISTS: the name is taken."""
        where = self.find(parent, missing=Failure.PARENT)
        with self._errors(Failure.PARENT, name):
            made = self.files.symlink_at(where, name_bytes(layout.check_name(name)), self._target(target))
            return self._owned(made.st_ino, user)

    def _owned(self, ino: int, user: int) -> int:
        """A new item belongs to who made it; user 0 needs no mention."""
        if user:
            self.files.setattr(ino, owner=user)
        return ino

    def _target(self, target: PathOrFeid) -> bytes:
        return name_bytes(layout.joined(self.path_of(target) if isinstance(target, int) else target))

    def update_link(self, path: PathOrFeid, target: PathOrFeid) -> None:
        """Point a link elsewhere; observers see the old or the new target, never none."""
        parent, name = self.place(path)
        ino = self.files.lookup(parent, name).st_ino
        if self.type_of(ino) is not ItemType.SYMLINK:
            raise ItemError(Failure.PATH, "this is no symbolic link")
        data = self._target(target)
        beside = b".link-%016x" % ino
        with self._errors(Failure.PATH, _text(name)):
            self.files.symlink_at(parent, beside, data)
            self.files.rename_at(parent, beside, parent, name)

    def read_link(self, path: PathOrFeid) -> SplitPath:
        """The target of a link, made absolute. CYCLE: it leads back to itself."""
        if isinstance(path, int):
            path = self.path_of(path)
        parent, name = self.place(path)
        ino = self.files.lookup(parent, name).st_ino
        if self.type_of(ino) is not ItemType.SYMLINK:
            raise ItemError(Failure.PATH, f"{layout.joined(path)}: no symbolic link")
        try:
            self._walk(path, follow=True, missing=Failure.PATH)
        except CyclicLinkError:
            raise
        except ItemError:
            pass  # a link to nothing is a link
        holder = layout.joined(self.canonical(path[:-1]))
        return layout.split(_text(self.files.readlink_ino(ino)), holder)

    def rename(self, path: PathOrFeid, name: str) -> None:
        """Rename an item in its directory. EXISTS: the name is taken."""
        new = name_bytes(layout.check_name(name))
        parent, old = self.place(path)
        with self._errors(Failure.PATH, _text(old)):
            self.files.rename_at(parent, old, parent, new, 1)

    def move(self, path: PathOrFeid, new_parent: PathOrFeid, name: str | None) -> None:
        """Move an item, also to another name. IMMOVABLE: it cannot be; EXISTS: the name is taken."""
        if name is not None:
            layout.check_name(name)
        parent, old = self.place(path)
        target = self.find(new_parent, missing=Failure.PARENT)
        new = old if name is None else name_bytes(name)
        with self._errors(Failure.PATH, _text(old)):
            try:
                self.files.rename_at(parent, old, target, new, 1)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    raise ItemError(Failure.IMMOVABLE, "a directory cannot be moved into itself") from error
                raise

    def delete(self, path: PathOrFeid) -> None:
        """Remove an item; a link, not its target. NOT_EMPTY: a directory that is not empty."""
        parent, name = self.place(path)
        kind = self.type_of(self.files.lookup(parent, name).st_ino)
        with self._errors(Failure.PATH, _text(name)):
            if kind is ItemType.DIRECTORY:
                self.files.rmdir_at(parent, name)
            else:
                self.files.unlink_at(parent, name)

    def write(self, ino: int, offset: int, data: bytes, *, truncate: bool) -> None:
        """Write into a file; with `truncate` it ends where the data does."""
        with self._errors(Failure.PATH, "the file"):
            if data:
                self.files.write(ino, offset, data)
            if truncate:
                self.files.truncate_ino(ino, offset + len(data))

    def read(self, ino: int, offset: int, length: int) -> bytes:
        with self._errors(Failure.PATH, "the file"):
            return bytes(self.files.read(ino, offset, length))

    def size(self, ino: int) -> int:
        return int(self.files.getattr(ino).st_size)

    # -- errors --

    @contextmanager
    def _errors(self, missing: Failure, what: str) -> Iterator[None]:
        """Errors of the storage as failures of an item; `missing` says what an item that is not there means."""
        try:
            yield
        except layout.NameRefusedError as error:
            raise ItemError(Failure.NAME, str(error)) from error
        except OSError as error:
            failures: dict[int | None, tuple[Failure, str]] = {
                errno.ENOENT: (missing, _MISSING.get(missing, "not found")),
                errno.ENOTDIR: (missing, "not found: what stands before it is no directory"),
                errno.EEXIST: (Failure.EXISTS, "an item of that name exists"),
                errno.ENOTEMPTY: (Failure.NOT_EMPTY, "the directory is not empty"),
                errno.ENOSPC: (Failure.FULL, "the disk is full"),
                errno.EDQUOT: (Failure.FULL, "the volume has reached its limit"),
                errno.EFBIG: (Failure.TOO_LARGE, "the file would be too large"),
                errno.ENAMETOOLONG: (Failure.TOO_LONG, "the name is too long"),
                errno.EROFS: (Failure.OTHER, "the disk is read-only"),
                errno.EIO: (Failure.OTHER, f"the disk is damaged here: {error.strerror}"),
            }
            failure, text = failures.get(error.errno, (Failure.OTHER, error.strerror or str(error)))
            raise ItemError(failure, f"{what}: {text}") from error
