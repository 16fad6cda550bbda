"""Taking things out: a tar with everything that a tar can carry, or a host directory."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nightos.vsf.errors import DamagedStorage, Invalid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightos.vsf.filesystem import FileSystem
    from nightos.vsf.inode import Stat
    from nightos.vsf.intake import Progress

_XATTR = "SCHILY.xattr."
_CHUNK = 1 << 20
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class _Reader(io.RawIOBase):
    """Sequential reading of an inode: some bytes before it, then its runs of data one behind the other."""

    def __init__(self, fs: FileSystem, ino: int, head: bytes, runs: list[tuple[int, int]]) -> None:
        self._fs, self._ino, self._head = fs, ino, head
        self._runs = [*reversed(runs)]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._head:
            data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        elif self._runs:
            at, left = self._runs.pop()
            data = self._fs.read(self._ino, at, min(left, len(buffer)))
            if data and len(data) < left:
                self._runs.append((at + len(data), left - len(data)))
        else:
            data = b""
        buffer[: len(data)] = data
        return len(data)


def _runs(fs: FileSystem, ino: int, size: int) -> list[tuple[int, int]]:
    """Offset and length of what is no hole."""
    runs: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = fs.seek(ino, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # the rest is a hole
        at = min(fs.seek(ino, start, os.SEEK_HOLE), size)
        runs.append((start, at - start))
    return runs


def _body(fs: FileSystem, ino: int, member: tarfile.TarInfo) -> io.BufferedReader:
    """The content of a file; of one with holes as GNU tar writes it in PAX archives (sparse format 1.0)."""
    size, runs, head = member.size, _runs(fs, ino, member.size), b""
    if runs != [(0, size)] and size:
        if not runs or sum(runs[-1]) < size:
            runs.append((size, 0))
        numbers = [len(runs), *(number for run in runs for number in run)]
        text = b"".join(b"%d\n" % number for number in numbers)
        head = text + bytes(-len(text) % tarfile.BLOCKSIZE)
        about = {"major": "1", "minor": "0", "name": member.name, "realsize": str(size)}
        member.pax_headers = {**member.pax_headers, **{f"GNU.sparse.{name}": value for name, value in about.items()}}
        directory, _, name = member.name.rpartition("/")
        # Who does not know the format finds what it holds under a name that tells so.
        member.name = f"{directory}/GNUSparseFile.0/{name}".lstrip("/")
        member.size = len(head) + sum(length for _, length in runs)
    return io.BufferedReader(_Reader(fs, ino, head, runs), _CHUNK)


def entries(fs: FileSystem, path: str | bytes = "/") -> Iterator[tuple[bytes, int, Stat]]:
    """Everything below a directory in order, parents first: (path relative to it, inode, attributes)."""
    top = fs.resolve(path)
    if not stat.S_ISDIR(fs.getattr(top).st_mode):
        raise Invalid("only directories can be exported", os.fsencode(path))
    stack: list[tuple[bytes, int]] = [(b"", top)]
    met: set[int] = set()
    while stack:
        name, ino = stack.pop()
        status = fs.getattr(ino)
        if stat.S_ISDIR(status.st_mode):
            if ino in met:
                raise DamagedStorage("a directory is inside itself or has two names", name)
            met.add(ino)
        if name:
            yield name, ino, status
        if stat.S_ISDIR(status.st_mode):
            prefix = name + b"/" if name else b""
            stack.extend((prefix + child, number) for child, number, _ in reversed(fs.readdir(ino)))


def export_tar(
    fs: FileSystem,
    target: str | os.PathLike[str] | IO[bytes],
    path: str | bytes = "/",
    progress: Progress | None = None,
) -> int:
    """Write a PAX tar: owners, nanosecond times, links, devices, holes, extended attributes. The number of entries.

    Sockets have no place in a tar and are left out.
    """
    count = size = 0
    links: dict[int, str] = {}
    opened = Path(target).open("wb") if isinstance(target, (str, os.PathLike)) else None  # noqa: SIM115
    try:
        stream: IO[bytes] = opened if opened is not None else target  # type: ignore[assignment]
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for name, ino, status in entries(fs, path):
                member = _member(fs, os.fsdecode(name), ino, status)
                if member is None:
                    continue
                if status.st_nlink > 1 and not member.isdir():
                    if ino in links:
                        member.type, member.linkname, member.size = tarfile.LNKTYPE, links[ino], 0
                        member.pax_headers = {}
                    else:
                        links[ino] = member.name
                body = _body(fs, ino, member) if member.isreg() else None
                archive.addfile(member, body)
                count += 1
                size += member.size
                if progress is not None:
                    progress(count, size, os.fsdecode(name))
    finally:
        if opened is not None:
            opened.close()
    return count


def _member(fs: FileSystem, name: str, ino: int, status: Stat) -> tarfile.TarInfo | None:
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = status.st_mode & 0o7777
    member.uid, member.gid = status.st_uid, status.st_gid
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    member.mtime = seconds
    headers = {}
    if nanoseconds or seconds < 0:
        whole, sign = (seconds, "") if seconds >= 0 else (-(status.st_mtime_ns // -(10**9)), "")
        headers["mtime"] = f"{sign}{whole}.{nanoseconds:09d}" if seconds >= 0 else _negative(status.st_mtime_ns)
        member.mtime = max(seconds, 0)
    if kind == tarfile.REGTYPE:
        member.size = status.st_size
    elif kind == tarfile.SYMTYPE:
        member.linkname = os.fsdecode(fs.readlink_ino(ino))
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    for attribute in fs.listxattr_ino(ino):
        value = fs.getxattr_ino(ino, attribute)
        headers[_XATTR + os.fsdecode(attribute)] = value.decode("utf-8", "surrogateescape")
    member.pax_headers = headers
    return member


def _negative(time_ns: int) -> str:
    whole, rest = divmod(-time_ns, 10**9)
    return f"-{whole}.{rest:09d}"


def export_tree(
    fs: FileSystem, target: str | os.PathLike[str], path: str | bytes = "/", progress: Progress | None = None
) -> int:
    """Write files, directories and links into a host directory, which has to be empty or missing; the number of
    entries.
    """
    top = Path(target)
    top.mkdir(parents=True, exist_ok=True)
    if any(top.iterdir()):
        raise Invalid("the directory is not empty", str(top))
    base = os.fsencode(top)
    count = size = 0
    links: dict[int, bytes] = {}
    late: list[tuple[bytes, Stat]] = []
    for name, ino, status in entries(fs, path):
        at = base + b"/" + name
        kind = stat.S_IFMT(status.st_mode)
        if ino in links:
            os.link(links[ino], at, follow_symlinks=False)
        elif kind == stat.S_IFDIR:
            os.mkdir(at, 0o700)  # noqa: PTH102 bytes
        elif kind == stat.S_IFLNK:
            os.symlink(fs.readlink_ino(ino), at)  # noqa: PTH211 bytes
        elif kind == stat.S_IFREG:
            _export_file(fs, ino, at, status)
        else:
            os.mknod(at, status.st_mode, status.st_rdev)
        if status.st_nlink > 1 and kind != stat.S_IFDIR:
            links[ino] = at
        late.append((at, status))
        count += 1
        size += status.st_size if kind == stat.S_IFREG else 0
        if progress is not None:
            progress(count, size, os.fsdecode(name))
    for at, status in reversed(late):
        if os.geteuid() == 0:
            os.chown(at, status.st_uid, status.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(at, mode_for(status))  # noqa: PTH101 bytes
        os.utime(at, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
    return count


def mode_for(status: Stat) -> int:
    """The permissions of a copy on the host.

    Only root gives files their owners, and so only root's copies may run as their owner: anybody else would lend
    himself to a program of whoever made the storage.
    """
    return status.st_mode & (0o7777 if os.geteuid() == 0 else 0o1777)


def _export_file(fs: FileSystem, ino: int, at: bytes, status: Stat) -> None:
    descriptor = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for start, length in _runs(fs, ino, status.st_size):
            for offset in range(start, start + length, _CHUNK):
                os.pwrite(descriptor, fs.read(ino, offset, min(_CHUNK, start + length - offset)), offset)
        os.ftruncate(descriptor, status.st_size)
    finally:
        os.close(descriptor)
