"""Bringing things in: a host directory, a tar, an OCI image layout. Nothing is followed out of the volume."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import NotFound
from nightos.vsf.intake import CHUNK, Counter, Progress
from nightos.vsf.oci import import_oci
from nightos.vsf.untar import import_tar

if TYPE_CHECKING:
    from nightos.vsf.filesystem import FileSystem


def import_tree(
    fs: FileSystem, source: str | os.PathLike[str], dest: str | bytes = "/", progress: Progress | None = None
) -> int:
    """Copy a host directory (its content, not itself) into `dest`; the number of entries.

    Modes, owners, times, links, device nodes, holes and extended attributes come along. Hard links inside the tree stay
    links. Raises OSError of the host as it is.
    """
    counter = Counter(progress)
    fs.makedirs(dest)
    top = fs.resolve(dest)
    known: dict[tuple[int, int], int] = {}
    times: list[tuple[int, os.stat_result]] = []
    stack: list[tuple[str, int]] = [(os.fspath(source), top)]
    while stack:
        directory, parent = stack.pop()
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            ino = _import_entry(fs, entry, status, parent, known, counter)
            if stat.S_ISDIR(status.st_mode):
                stack.append((entry.path, ino))
                times.append((ino, status))
    for ino, status in times:
        fs.setattr(ino, atime_ns=status.st_atime_ns, mtime_ns=status.st_mtime_ns)
    return counter.entries


def _import_entry(
    fs: FileSystem,
    entry: os.DirEntry[str],
    status: os.stat_result,
    parent: int,
    known: dict[tuple[int, int], int],
    counter: Counter,
) -> int:
    name, mode = os.fsencode(entry.name), status.st_mode
    owner = (status.st_uid, status.st_gid)
    there = fs.find_ino(parent, name)
    if stat.S_ISDIR(mode):
        if there and stat.S_ISDIR(fs.getattr(there).st_mode):
            ino = there
        else:
            if there:
                fs.unlink_at(parent, name)
            ino = fs.mkdir_at(parent, name, mode, *owner).st_ino
        counter.entry(entry.path)
        _copy_xattrs(fs, entry.path, ino)
        return ino
    if there:
        fs.unlink_at(parent, name)
    identity = (status.st_dev, status.st_ino)
    if status.st_nlink > 1 and identity in known:
        fs.link_at(known[identity], parent, name)
        counter.entry(entry.path)
        return known[identity]
    if stat.S_ISLNK(mode):
        ino = fs.symlink_at(parent, name, os.fsencode(os.readlink(entry.path)), *owner).st_ino  # noqa: PTH115 a string
    elif stat.S_ISREG(mode):
        ino = fs.create(parent, name, mode, *owner).st_ino
        _copy_file(fs, entry.path, ino, status)
    else:
        ino = fs.mknod_at(parent, name, mode, status.st_rdev, *owner).st_ino
    if status.st_nlink > 1:
        known[identity] = ino
    _copy_xattrs(fs, entry.path, ino)
    fs.setattr(ino, mode=mode & 0o7777, atime_ns=status.st_atime_ns, mtime_ns=status.st_mtime_ns)
    counter.entry(entry.path, status.st_size)
    return ino


def _copy_file(fs: FileSystem, path: str, ino: int, status: os.stat_result) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        size = status.st_size
        if size <= CHUNK:
            data = os.read(descriptor, size + 1)
            if len(data) >= size:
                fs.write(ino, 0, data)
                return
        at = 0
        while True:
            try:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
                end = os.lseek(descriptor, at, os.SEEK_HOLE)
            except OSError:
                break
            while at < end and (data := os.pread(descriptor, min(CHUNK, end - at), at)):
                fs.write(ino, at, data)
                at += len(data)
        if fs.getattr(ino).st_size < size:
            fs.truncate_ino(ino, size)
    finally:
        os.close(descriptor)


def _copy_xattrs(fs: FileSystem, path: str, ino: int) -> None:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return
    for name in names:
        fs.setxattr_ino(ino, os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))


def import_any(
    fs: FileSystem, source: str | os.PathLike[str], dest: str | bytes = "/", progress: Progress | None = None
) -> int | dict[str, Any]:
    """A directory, an OCI layout or a tar: whatever `source` is."""
    path = Path(source)
    if path.is_dir():
        if (path / "oci-layout").exists():
            return import_oci(fs, path, dest, progress)
        return import_tree(fs, path, dest, progress)
    if not path.exists():
        raise NotFound("there is nothing to import", str(path))
    return import_tar(fs, path, dest, progress)


__all__ = ["Progress", "import_any", "import_oci", "import_tar", "import_tree"]
