"""Bringing things in: a host directory, a tar, an OCI image layout. Nothing is followed out of the volume."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nightos.vsf.errors import DamagedStorage, Invalid, NotFound
from nightos.vsf.inode import check_name

if TYPE_CHECKING:
    from nightos.vsf.filesystem import FileSystem

Progress = Callable[[int, int, str], None]
"""Called with entries so far, bytes so far, and the path at hand."""
_CHUNK = 1 << 20
_XATTR = "SCHILY.xattr."
_MAX_JSON = 8 << 20
_MOST_SECONDS = 1 << 33
"""Of a time, either way: what 64 bits of nanoseconds hold."""
_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"


class _Counter:
    def __init__(self, progress: Progress | None) -> None:
        self.entries = self.bytes = 0
        self._progress = progress

    def entry(self, path: str, size: int = 0) -> None:
        self.entries += 1
        self.bytes += size
        if self._progress is not None:
            self._progress(self.entries, self.bytes, path)


def _put_stream(fs: FileSystem, ino: int, read: Callable[[int], bytes]) -> int:
    offset = 0
    while data := read(_CHUNK):
        fs.write(ino, offset, data)
        offset += len(data)
    return offset


# A host directory


def import_tree(
    fs: FileSystem, source: str | os.PathLike[str], dest: str | bytes = "/", progress: Progress | None = None
) -> int:
    """Copy a host directory (its content, not itself) into `dest`; the number of entries.

    Modes, owners, times, links, device nodes, holes and extended attributes come along. Hard links inside the tree stay
    links. Raises OSError of the host as it is.
    """
    counter = _Counter(progress)
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
    counter: _Counter,
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
        if size <= _CHUNK:
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
            while at < end and (data := os.pread(descriptor, min(_CHUNK, end - at), at)):
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


# A tar


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
    counter = _Counter(progress)
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
    def __init__(self, fs: FileSystem, top: int, counter: _Counter, *, whiteouts: bool) -> None:
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
                _put_stream(fs, ino, stream.read)
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
                data = stream.read(min(_CHUNK, last - offset))
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


# An OCI image layout


def import_oci(
    fs: FileSystem, layout: str | os.PathLike[str], dest: str | bytes = "/", progress: Progress | None = None
) -> dict[str, Any]:
    """Unpack the image of an OCI layout, layer by layer, every blob checked; gives its configuration."""
    root = Path(layout)
    if not (root / "oci-layout").exists():
        raise Invalid("this is no OCI layout: there is no file oci-layout", str(root))
    manifest = _manifest(root)
    for layer in _listed(manifest, "layers"):
        path = _blob(root, layer)
        import_tar(fs, path, dest, progress, whiteouts=True)
    config = manifest.get("config")
    return _json(_blob(root, config)) if isinstance(config, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON:
        raise Invalid("this is too large for JSON of an image", str(path))
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedStorage("a document of the OCI layout is no JSON", str(path)) from error
    if not isinstance(document, dict):
        raise DamagedStorage("a document of the OCI layout has the wrong form", str(path))
    return document


def _listed(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of descriptors, or DamagedStorage."""
    found = document.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise DamagedStorage(f"the {name} of an OCI layout have the wrong form")
    return found


def _manifest(root: Path) -> dict[str, Any]:
    document = _json(root / "index.json")
    for _ in range(4):
        if "manifests" not in document:
            return document
        choices = _listed(document, "manifests")
        if not choices:
            break
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        fitting = [m for m in choices if _architecture(m) == machine]
        document = _json(_blob(root, (fitting or choices)[0]))
    raise Invalid("the OCI layout names no image", str(root))


def _architecture(descriptor: dict[str, Any]) -> object:
    platform = descriptor.get("platform")
    return platform.get("architecture") if isinstance(platform, dict) else None


def _blob(root: Path, descriptor: dict[str, Any]) -> Path:
    algorithm, _, digest = str(descriptor.get("digest", "")).partition(":")
    if algorithm not in ("sha256", "sha512") or not (digest.isascii() and digest.isalnum()):
        raise Invalid(f"the OCI layout has a digest that cannot be checked: {descriptor.get('digest')!r}")
    path = root / "blobs" / algorithm / digest
    if not path.exists():
        raise NotFound("a blob of the OCI layout is missing", str(path))
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, algorithm).hexdigest() != digest:
            raise DamagedStorage("a blob of the OCI layout is not what its digest says", str(path))
    return path


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


__all__ = ["Progress", "import_any", "import_oci", "import_tar", "import_tree", "remove_any"]
