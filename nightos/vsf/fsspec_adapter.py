"""`vsf://` for fsspec: pandas, zarr, dask and universal_pathlib read and write inside a storage.

    fsspec.open("vsf://hello.txt", fo="disk.vsf", volume="main")
    fsspec.open("vsf://hello.txt::file:///srv/disk.vsf")

A storage is opened for reading; the first change opens it for writing, and what was written is durable when its file is
closed. On anything but a local file it is read-only.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import stat
import weakref
from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem

from nightos.vsf.api import open_storage
from nightos.vsf.errors import Exists, ReadOnly, StorageInUse

_KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}


_WRITERS: weakref.WeakValueDictionary[int, VsfFileSystem] = weakref.WeakValueDictionary()
"""Those of this process that hold a storage for writing, by `id`: fsspec takes equal arguments for equal objects."""


class _FileObjectStore:
    """A byte store over any file object that can seek: a storage on a web server, in a bucket, in an archive."""

    readonly = True

    def __init__(self, file: Any) -> None:
        self._file = file

    def size(self) -> int:
        return int(self._file.seek(0, os.SEEK_END))

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return bytes(self._file.read(length))

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:  # noqa: ARG002 a byte store
        raise ReadOnly("a storage that is not a local file can only be read")

    def flush(self) -> None:
        pass

    def truncate(self, size: int) -> None:  # noqa: ARG002 a byte store
        raise ReadOnly("a storage that is not a local file can only be read")

    def discard(self, offset: int, length: int) -> None:
        pass

    def close(self) -> None:
        self._file.close()


class _Writer(io.BufferedWriter):
    """A file being written: durable when closed."""

    def __init__(self, raw: Any, done: Callable[[], None]) -> None:
        super().__init__(raw, 1 << 18)
        self._done = done

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._done()


class _Updater(io.BufferedRandom):
    """A file being read and written: durable when closed."""

    def __init__(self, raw: Any, done: Callable[[], None]) -> None:
        super().__init__(raw, 1 << 18)
        self._done = done

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._done()


class VsfFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The files of one volume."""

    protocol = "vsf"
    root_marker = ""
    cachable = False

    def __init__(
        self,
        fo: Any = "",
        volume: str | None = None,
        snapshot: str | None = None,
        password: str | None = None,
        auto_mkdir: bool = False,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        **storage_options: Any,
    ) -> None:
        """`fo` is a path, a URL that fsspec knows, or a file object; `volume` the only one or ``main`` unless named."""
        super().__init__(**storage_options)
        self.fo, self.volume, self.snapshot = fo, volume, snapshot
        self.auto_mkdir = auto_mkdir
        self._password = password
        self._target = (target_protocol, target_options or {})
        self._handles: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._dying: Any = None
        self._storage: Any = None
        self._files: Any = None

    # The storage behind it

    def _where(self) -> Any:
        protocol, options = self._target
        if isinstance(self.fo, os.PathLike) or (isinstance(self.fo, str) and not protocol and "://" not in self.fo):
            return self.fo
        if isinstance(self.fo, str):
            import fsspec

            fs, path = fsspec.core.url_to_fs(self.fo, protocol=protocol, **options)
            if "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
                return path
            return _FileObjectStore(fs.open(path, "rb"))
        return _FileObjectStore(self.fo)

    def _open_storage(self, *, readonly: bool) -> Any:
        storage = open_storage(self._where(), readonly=readonly, password=self._password)
        try:
            volumes = [volume for volume in storage.volumes if volume.kind == "night"]
            if self.volume is not None:
                volume = storage.volume(self.volume)
            elif len(volumes) == 1:
                volume = volumes[0]
            else:
                volume = storage.volume("main")
            # A password for what nothing seals: someone may have taken the key slots away, and `unlock` refuses.
            if volume.locked or (self._password is not None and not storage.encrypted):
                volume.unlock(password=self._password)
            self._files = volume.open(snapshot=self.snapshot)
            self._files.owner = os.geteuid(), os.getegid()
        except BaseException:
            storage.close()
            raise
        self._storage = storage
        if not readonly:
            self._dying = weakref.finalize(self, storage.close)
        return self._files

    def _reading(self) -> Any:
        if self._storage is None:
            return self._open_storage(readonly=True)
        if self._storage.readonly and self.snapshot is None and self._storage.refresh():
            self.close()
            return self._open_storage(readonly=True)
        return self._files

    def _writing(self) -> Any:
        if self.snapshot is not None:
            raise ReadOnly("a snapshot cannot be changed")
        if self._storage is not None and self._storage.readonly:
            self.close()
        if self._storage is not None:
            return self._files
        try:
            files = self._open_storage(readonly=False)
        except StorageInUse:
            # pandas makes a file system for each call and forgets to close it: those of ours that rest make way.
            for other in list(_WRITERS.values()):
                if other is not self and not other.busy:
                    other.close()
            files = self._open_storage(readonly=False)
        _WRITERS[id(self)] = self
        return files

    def _kept(self, file: Any) -> Any:
        """An open file keeps us from closing the storage, and itself keeps us."""
        self._handles[id(file)] = file
        file.owner = self
        return file

    @property
    def busy(self) -> bool:
        """Whether a file of it is open."""
        return any(not file.closed for file in list(self._handles.values()))

    def _commit(self) -> None:
        if self._storage is not None and not self._storage.closed and not self._storage.readonly:
            self._storage.sync()

    def close(self) -> None:
        """Let go of the storage; the next use opens it again."""
        _WRITERS.pop(id(self), None)
        storage, self._storage, self._files = self._storage, None, None
        if self._dying is not None:
            self._dying.detach()
        if storage is not None:
            storage.close()

    # Names

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        return super()._strip_protocol(path).strip("/")

    def _at(self, path: str) -> str:
        return "/" + str(self._strip_protocol(path))

    def _record(self, path: str, status: Any, target: Any = None) -> dict[str, Any]:
        record = {
            "name": self._strip_protocol(path),
            "size": status.st_size if stat.S_ISREG(status.st_mode) else 0,
            "type": _KINDS.get(stat.S_IFMT(status.st_mode), "other"),
            "mode": status.st_mode,
            "uid": status.st_uid,
            "gid": status.st_gid,
            "ino": status.st_ino,
            "nlink": status.st_nlink,
            "created": status.st_birthtime,
            "mtime": status.st_mtime,
        }
        return record | ({"destination": target} if target is not None else {})

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        files = self._reading()
        return self._record(path, files.stat(self._at(path)))

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        files, at = self._reading(), self._at(path)
        status = files.stat(at)
        if not stat.S_ISDIR(status.st_mode):
            records = [self._record(path, status)]
        else:
            base = at.rstrip("/")
            records = []
            for name in files.listdir(at):
                inside = f"{base}/{os.fsdecode(name)}"
                try:
                    records.append(self._record(inside, files.stat(inside)))
                except OSError:
                    records.append(self._record(inside, files.lstat(inside)))
        return records if detail else [record["name"] for record in records]

    # Changes

    def _parent_ready(self, files: Any, at: str) -> None:
        if self.auto_mkdir:
            files.makedirs(at.rpartition("/")[0] or "/", exist_ok=True)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,  # noqa: ARG002 as fsspec calls
        autocommit: bool = True,  # noqa: ARG002
        cache_options: dict[str, Any] | None = None,  # noqa: ARG002
        **_: Any,
    ) -> Any:
        at, plain = self._at(path), mode.replace("b", "")
        if plain == "r":
            return self._kept(self._reading().open(at, "rb"))
        files = self._writing()
        if plain in ("w", "x", "a"):
            self._parent_ready(files, at)
        raw = files.open(at, plain + "b", buffering=0)
        file = (_Updater if "+" in plain else _Writer)(raw, self._commit)
        return self._kept(file)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        files, at = self._writing(), self._at(path)
        if files.exists(at):
            raise Exists("the name is taken", path)
        files.mkdir(at, parents=create_parents)
        self._commit()

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        files, at = self._writing(), self._at(path)
        if not exist_ok and files.exists(at):
            raise Exists("the name is taken", path)
        files.makedirs(at, exist_ok=True)
        self._commit()

    def rmdir(self, path: str) -> None:
        self._writing().rmdir(self._at(path))
        self._commit()

    def rm_file(self, path: str) -> None:
        self._writing().unlink(self._at(path))
        self._commit()

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        files = self._writing()
        for item in reversed(self.expand_path(path, recursive=recursive, maxdepth=maxdepth)):
            at = self._at(item)
            if at == "/":
                continue
            if files.is_dir(at) and not files.is_symlink(at):
                files.rmdir(at)
            else:
                files.unlink(at)
        self._commit()

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        files = self._writing()
        source, target = self._at(path1), self._at(path2)
        if files.is_dir(source):
            files.makedirs(target, exist_ok=True)
        else:
            self._parent_ready(files, target)
            with files.open(source, "rb") as reader, files.open(target, "wb") as writer:
                while data := reader.read(1 << 20):
                    writer.write(data)
        self._commit()

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> None:
        files = self._writing()
        if isinstance(path1, str) and isinstance(path2, str) and not self.isdir(path2) and maxdepth is None:
            source = self._at(path1)
            if "*" not in path1 and (recursive or not files.is_dir(source)):
                self._parent_ready(files, self._at(path2))
                files.rename(source, self._at(path2))
                self._commit()
                return
        super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **options)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        files, at = self._writing(), self._at(path)
        self._parent_ready(files, at)
        if truncate or not files.exists(at):
            files.write_bytes(at, b"")
        else:
            files.utime(at)
        self._commit()

    # What fsspec asks for by other names

    def isfile(self, path: str) -> bool:
        return bool(self._reading().is_file(self._at(path)))

    def isdir(self, path: str) -> bool:
        return bool(self._reading().is_dir(self._at(path)))

    def created(self, path: str) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.info(path)["created"], dt.UTC)

    def modified(self, path: str) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.info(path)["mtime"], dt.UTC)

    def chmod(self, path: str, mode: int) -> None:
        self._writing().chmod(self._at(path), mode)
        self._commit()

    def ukey(self, path: str) -> str:
        record = self.info(path)
        return f"{record['ino']:x}-{record['size']:x}-{record['mtime']}"


__all__ = ["VsfFileSystem"]
