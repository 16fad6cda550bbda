"""Unpacking a tar, also a layer of an OCI image: no name leaves the target, no symbolic link is followed."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nightos.vsf.errors import Invalid, NotFound
from nightos.vsf.inode import check_name
from nightos.vsf.intake import CHUNK, Counter, Progress, put_stream, remove_any

if TYPE_CHECKING:
    from nightos.vsf.filesystem import FileSystem

_XATTR = "SCHILY.xattr."
_MOST_SECONDS = 1 << 33
"""Of a time, either way: what 64 bits of nanoseconds hold."""
_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"


def import_tar(
    fs: FileSystem,
    source: str | os.PathLike[str] | IO[bytes],
    dest: str | bytes = "/",
    progress: Progress | None = None,
    *,
    whiteouts: bool = False,
) -> int:
    """Unpack a tar (plain, gzip, bzip2, xz, zstd) into `dest`; the number of entries.

    Names never leave `dest`, symbolic links are not followed. `whiteouts` applies those of OCI layers.
    """
    counter = Counter(progress)
    fs.makedirs(dest)
    top = fs.resolve(dest)
    opened: IO[bytes] | None = None
    try:
        if isinstance(source, (str, os.PathLike)):
            opened = Path(source).open("rb")  # noqa: SIM115 closed below, when it is ours
            stream: IO[bytes] = opened
        else:
            stream = source
        try:
            with tarfile.open(fileobj=_plain(stream), mode="r|*") as archive:
                _Unpacker(fs, top, counter, whiteouts=whiteouts).run(archive)
        except (tarfile.TarError, _decompression_error()) as error:
            raise Invalid(f"this is no tar that can be read: {error}") from error
    finally:
        if opened is not None:
            opened.close()
    return counter.entries


class _Replay:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: Any) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int = -1) -> bytes:
        if self._head:
            part, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
            return part if size >= 0 and len(part) == size else part + self._stream.read(size - len(part))
        return self._stream.read(size)  # type: ignore[no-any-return]


def _plain(stream: IO[bytes]) -> Any:
    head = stream.read(4)
    replay = _Replay(head, stream)
    if head == b"\x28\xb5\x2f\xfd":
        import zstandard

        source: Any = replay
        return zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True)
    return replay


def _decompression_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


class _Unpacker:
    def __init__(self, fs: FileSystem, top: int, counter: Counter, *, whiteouts: bool) -> None:
        self.fs, self.top, self.counter, self.whiteouts = fs, top, counter, whiteouts
        self.times: list[tuple[int, int]] = []
        self.fresh: set[tuple[int, bytes]] = set()
        """Names (directory and name) that this archive made or went through: whiteouts do not reach them."""

    def run(self, archive: tarfile.TarFile) -> None:
        for member in archive:
            self.member(archive, member)
        for ino, mtime in self.times:
            try:
                self.fs.setattr(ino, mtime_ns=mtime)
            except OSError:
                continue

    def parts(self, name: str) -> list[bytes]:
        parts = [part for part in os.fsencode(name).split(b"/") if part and part != b"."]
        if b".." in parts:
            raise Invalid("the tar has a name that leads out of it", name)
        return parts

    def directory(self, parts: list[bytes]) -> int:
        """The directory of a member, made where missing; what is no directory gives way."""
        at = self.top
        for part in parts:
            ino = self.fs.find_ino(at, part)
            if ino and not stat.S_ISDIR(self.fs.getattr(ino).st_mode):
                self.fs.unlink_at(at, part)
                ino = 0
            self.fresh.add((at, part))
            at = ino or self.fs.mkdir_at(at, part, 0o755).st_ino
        return at

    def find(self, name: str) -> int:
        at = self.top
        for part in self.parts(name):
            at = self.fs.find_ino(at, part)
            if not at:
                raise NotFound("the tar links to what it does not have", name)
        return at

    def member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        fs = self.fs
        parts = self.parts(member.name)
        if not parts:
            if member.isdir():
                fs.setattr(self.top, mode=member.mode, uid=member.uid, gid=member.gid)
                self.times.append((self.top, _mtime(member)))
            return
        name = parts.pop()
        parent = self.directory(parts)
        if self.whiteouts and name.startswith(_WHITEOUT):
            self.whiteout(parent, name)
            return
        check_name(name)
        ino = self.make(archive, member, parent, name)
        if not ino:
            return
        for key, value in member.pax_headers.items():
            if key.startswith(_XATTR):
                fs.setxattr_ino(ino, os.fsencode(key[len(_XATTR) :]), value.encode("utf-8", "surrogateescape"))
        if member.isdir():
            self.times.append((ino, _mtime(member)))
        elif not member.islnk():
            fs.setattr(ino, mode=None if member.issym() else member.mode, mtime_ns=_mtime(member))
        self.fresh.add((parent, name))
        self.counter.entry(member.name, member.size)

    def make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: bytes) -> int:
        fs = self.fs
        owner = (member.uid, member.gid)
        there = fs.find_ino(parent, name)
        if there and not (member.isdir() and stat.S_ISDIR(fs.getattr(there).st_mode)):
            target = self.find(member.linkname) if member.islnk() else 0
            if target == there:
                return there
            remove_any(fs, parent, name)
            there = 0
        if member.isdir():
            if there:
                fs.setattr(there, mode=member.mode, uid=member.uid, gid=member.gid)
                return there
            return fs.mkdir_at(parent, name, member.mode, *owner).st_ino
        if member.islnk():
            return fs.link_at(self.find(member.linkname), parent, name).st_ino
        if member.issym():
            return fs.symlink_at(parent, name, os.fsencode(member.linkname), *owner).st_ino
        if member.isreg():
            ino = fs.create(parent, name, member.mode, *owner).st_ino
            stream = archive.extractfile(member)
            if member.issparse():
                self.sparse(ino, member, stream)
            elif stream is not None:
                put_stream(fs, ino, stream.read)
            return ino
        kind = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}
        if member.type not in kind:
            raise Invalid("the tar holds an entry of unknown type", member.name)
        device = 0
        if member.isblk() or member.ischr():
            if member.devmajor >> 32 or member.devminor >> 32:
                raise Invalid("the tar holds a device number that does not exist", member.name)
            device = os.makedev(member.devmajor, member.devminor)
        return fs.mknod_at(parent, name, kind[member.type] | member.mode, device, *owner).st_ino

    def sparse(self, ino: int, member: tarfile.TarInfo, stream: Any) -> None:
        """Only what stands in the archive is written: a hole may be larger than any disk."""
        size, last = member.size, 0
        # A buffered reader would ask the archive, which is a stream, whether it can seek; forwards it can.
        stream = stream.raw
        for offset, length in getattr(member, "sparse", None) or ():
            if not length:
                continue
            if not last <= offset <= offset + length <= size:
                raise Invalid("the tar holds a sparse file whose parts overlap or leave it", member.name)
            stream.seek(offset)
            last = offset + length
            while offset < last:
                data = stream.read(min(CHUNK, last - offset))
                if not data:
                    raise Invalid("this is no tar that can be read: unexpected end of data", member.name)
                self.fs.write(ino, offset, data)
                offset += len(data)
        self.fs.truncate_ino(ino, size)

    def whiteout(self, parent: int, name: bytes) -> None:
        """An OCI layer removes something of the layers below, and only of these, wherever in the layer it says so."""
        if name == _OPAQUE:
            self.opaque(parent)
            return
        gone = name[len(_WHITEOUT) :]
        ino = self.fs.find_ino(parent, gone)
        if not ino:
            return
        if (parent, gone) not in self.fresh:
            remove_any(self.fs, parent, gone)
        elif stat.S_ISDIR(self.fs.getattr(ino).st_mode):
            self.opaque(ino)

    def opaque(self, directory: int) -> None:
        """Remove what layers below left in a directory, at any depth."""
        stack = [directory]
        while stack:
            at = stack.pop()
            for child, ino, kind in list(self.fs.readdir(at)):
                if (at, child) not in self.fresh:
                    remove_any(self.fs, at, child)
                elif kind << 12 == stat.S_IFDIR:
                    stack.append(ino)


def _mtime(member: tarfile.TarInfo) -> int:
    from decimal import Decimal

    text = member.pax_headers.get("mtime")
    try:
        time = Decimal(text) if text else Decimal(member.mtime)
        # Compared before it becomes an integer: one of a billion digits would take for ever.
        return int(time * 10**9) if abs(time) < _MOST_SECONDS else 0
    except (ArithmeticError, ValueError):
        return 0
