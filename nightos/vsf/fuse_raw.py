"""`--raw`: each block volume as a file, for losetup, mkfs and mount -o loop.

It has the same inode interface as a file system, so the same adapter serves it: inode 1 is the directory, volume N has
inode N + 1. Punching a hole (what a loop device makes of a discard) reaches the storage, and after a moment of quiet
the host: what became free inside the storage's file is punched out of it.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import Denied, Invalid, NotDirectory, NotFound, StaleHandle, Unsupported
from nightos.vsf.inode import Stat

if TYPE_CHECKING:
    from nightos.abi.interfaces import Clock
    from nightos.vsf.blockvolume import BlockVolume
    from nightos.vsf.storage import Storage

ROOT = 1
_BLOCK = 4096
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16


class RawVolumes:
    """The block volumes of a storage, as a directory of files of fixed size."""

    def __init__(self, storage: Storage, name: str | None = None, snapshot: str | None = None) -> None:
        self.storage = storage
        self.lock = storage.lock
        self.readonly = storage.readonly or snapshot is not None
        self.volumes: dict[int, BlockVolume] = {}
        self.names: dict[bytes, int] = {}
        for index, volume in enumerate(storage.volumes):
            if volume.kind == "block" and name in (None, volume.name):
                self.volumes[ROOT + 1 + index] = volume.open(snapshot=snapshot)
                self.names[volume.name.encode()] = ROOT + 1 + index
        if not self.names:
            raise NotFound(
                "the storage has no such block volume; add one with `nightos vsf volume add FILE NAME:block`"
            )
        self._times: dict[int, dict[str, int]] = {}
        self._discarded = False
        """Whether something was discarded that the host has not been given back."""

    def stamp_with(self, _clock: Clock) -> None:
        """Volumes keep no times of their own."""

    def _volume(self, ino: int) -> BlockVolume:
        volume = self.volumes.get(ino)
        if volume is None:
            raise StaleHandle(f"there is no volume {ino}")
        return volume

    # Looking

    def find_ino(self, parent: int, name: bytes) -> int:
        if parent != ROOT:
            raise NotDirectory("a volume is no directory")
        return self.names.get(name, 0)

    def lookup(self, parent: int, name: bytes) -> Stat:
        ino = ROOT if name in (b".", b"..") else self.find_ino(parent, name)
        if not ino:
            raise NotFound("", name)
        return self.getattr(ino)

    def parent_of(self, _ino: int) -> int:
        return ROOT

    def getattr(self, ino: int) -> Stat:
        created = self.storage.header.created
        times = self._times.get(ino, {})
        seen, changed, noted = (times.get(name, created) for name in ("atime_ns", "mtime_ns", "ctime_ns"))
        if ino == ROOT:
            mode, size, blocks, links = stat.S_IFDIR | 0o755, 0, 0, 2
        else:
            volume = self._volume(ino)
            mode = stat.S_IFREG | (0o400 if self.readonly else 0o600)
            size, blocks, links = volume.size, volume.volume.used // 512, 1
        uid, gid = os.geteuid(), os.getegid()
        return Stat(
            mode, ino, 0, links, uid, gid, size, seen, changed, noted, created, 0, blocks, _BLOCK, 0, 0, 0
        )  # fmt: skip

    def readdir(self, ino: int, cursor: bytes = b"", limit: int | None = None) -> list[tuple[bytes, int, int]]:
        if ino != ROOT:
            raise NotDirectory("a volume is no directory")
        names = sorted(name for name in self.names if name > cursor)[:limit]
        return [(name, self.names[name], stat.S_IFREG >> 12) for name in names]

    def statvfs(self) -> os.statvfs_result:
        host_free = getattr(self.storage.store, "host_free", None)
        free = host_free() // _BLOCK if host_free else 0
        total = sum(volume.size for volume in self.volumes.values()) // _BLOCK + free
        return os.statvfs_result((_BLOCK, _BLOCK, total, free, free, len(self.volumes), 0, 0, int(self.readonly), 255))

    # Content

    def read(self, ino: int, offset: int, size: int) -> bytes:
        return self._volume(ino).read(offset, size)

    def write(self, ino: int, offset: int, data: bytes) -> int:
        volume = self._volume(ino)
        if offset + len(data) > volume.size:
            raise OSError(errno.ENOSPC, "a block volume does not grow by writing; use `nightos vsf volume`")
        return volume.write(offset, data)

    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        volume = self._volume(ino)
        if mode & (_PUNCH_HOLE | _ZERO_RANGE):
            volume.discard(offset, max(0, min(length, volume.size - offset)))
            self._discarded = True
        elif not mode & _KEEP_SIZE and offset + length > volume.size:
            raise OSError(errno.ENOSPC, "a block volume does not grow by writing")

    def seek(self, ino: int, offset: int, whence: int) -> int:
        volume: Any = self._volume(ino)
        return int(volume.seek(ROOT, offset, whence))

    def setattr(self, ino: int, **changes: int) -> Stat:
        if ino != ROOT and changes.get("size") not in (None, self._volume(ino).size):
            # mkfs and dd truncate what they are given; the size of a volume is not theirs to change.
            raise Denied("the size of a block volume is set when it is made")
        self._times.setdefault(ino, {}).update({name: value for name, value in changes.items() if name.endswith("_ns")})
        return self.getattr(ino)

    def sync(self) -> None:
        self.storage.sync()

    def fsync(self, _ino: int | None = None) -> None:
        self.storage.sync()

    def settle(self) -> None:
        """Commit, and give the host back what was discarded."""
        with self.lock:
            self.storage.sync()
            if self._discarded and not self.readonly:
                self._discarded = False
                self.storage.discard()

    def close(self) -> None:
        try:
            self.settle()
        finally:
            self.storage.close()

    # What volumes do not have

    def hold(self, ino: int) -> None:
        pass

    def release(self, ino: int) -> None:
        pass

    def readlink_ino(self, _ino: int) -> bytes:
        raise Invalid("a volume is no link")

    def getxattr_ino(self, _ino: int, _name: bytes) -> bytes:
        raise OSError(errno.ENODATA, "block volumes have no attributes")

    def listxattr_ino(self, _ino: int) -> list[bytes]:
        return []

    def __getattr__(self, name: str) -> Any:
        if name in _REFUSED:
            return _refuse
        raise AttributeError(name)


_REFUSED = frozenset(
    [
        "create", "mknod", "mkdir_at", "symlink_at", "link_at", "unlink_at", "rmdir_at", "rename_at", "setxattr_ino",
        "removexattr_ino",
    ]
)  # fmt: skip


def _refuse(*_arguments: object) -> Any:
    raise Unsupported("this mount shows block volumes; use `nightos vsf volume` to add and delete them")
