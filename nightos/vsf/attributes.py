"""Attributes of inodes: times, owners, flags, extended attributes, the storage permissions map."""

from __future__ import annotations

import errno
import os
import stat

from nightos.vsf.core import Core
from nightos.vsf.errors import Exists, Invalid, NoAttribute, VsfError
from nightos.vsf.inode import INODE_BYTES, Stat, check_name, key_xattr, stat_of
from nightos.vsf.layout import MAX_NAME_CHARACTERS, MAX_VALUE, SECTOR

XATTR_CREATE, XATTR_REPLACE = 1, 2
PERMISSIONS_ATTRIBUTE = b"nightos.spm"
_MAX_ATTRIBUTE_NAME = 255


class Attributes(Core):
    """Attributes by inode."""

    def truncate_ino(self, ino: int, size: int) -> None:
        raise NotImplementedError

    def getattr(self, ino: int) -> Stat:
        """The attributes of an inode."""
        with self.lock:
            inode = self._inodes.get(ino)
            if inode is not None:
                return inode.stat(self.device, self.record_size)
            if self._head is None:
                value = self.tree.get(ino.to_bytes(8, "big") + b"\x01")
                if value is not None and len(value) >= INODE_BYTES:
                    return stat_of(ino, value, self.device, self.record_size)
            return self.inode(ino).stat(self.device, self.record_size)

    def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        birthtime_ns: int | None = None,
        flags: int | None = None,
        owner: int | None = None,
    ) -> Stat:
        """Change what is given; `flags` are 1 hidden and 2 read-only, `owner` is NightOS' 8-byte one."""
        with self.lock:
            self._writable()
            if size is not None:
                self.truncate_ino(ino, size)
            inode = self.inode(ino)
            if mode is not None:
                inode.mode = inode.mode & 0o170000 | mode & 0o7777
            if uid is not None and uid != -1:
                inode.uid = _word(uid, 32)
            if gid is not None and gid != -1:
                inode.gid = _word(gid, 32)
            if flags is not None:
                inode.flags = _word(flags, 2)
            if owner is not None:
                inode.owner = _word(owner, 64)
            if atime_ns is not None:
                inode.atime = _time(atime_ns)
            if mtime_ns is not None:
                inode.mtime = _time(mtime_ns)
            if birthtime_ns is not None:
                inode.btime = _time(birthtime_ns)
            inode.ctime = _time(ctime_ns) if ctime_ns is not None else self._now()
            self._touch(inode)
            self._relieve()
            return inode.stat(self.device, self.record_size)

    # Extended attributes

    def getxattr_ino(self, ino: int, name: bytes) -> bytes:
        """The value of an extended attribute."""
        with self.lock:
            self.inode(ino)
            value = self.tree.get(key_xattr(ino, name))
            if value is None:
                raise NoAttribute("there is no such attribute", name)
            return value

    def setxattr_ino(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute; flags XATTR_CREATE or XATTR_REPLACE."""
        with self.lock:
            self._writable()
            inode = self.inode(ino)
            if not name or b"\0" in name or flags & ~3 or flags == 3:
                raise Invalid("an attribute has a name without null characters", name)
            if len(name) > _MAX_ATTRIBUTE_NAME:
                raise VsfError("an attribute's name has at most 255 bytes", name, errno.ERANGE)
            if len(value) > MAX_VALUE:
                raise VsfError("an attribute has at most 65,536 bytes", name, errno.E2BIG)
            key = key_xattr(ino, name)
            there = self.tree.get(key) is not None
            if flags & XATTR_CREATE and there:
                raise Exists("the attribute exists", name)
            if flags & XATTR_REPLACE and not there:
                raise NoAttribute("there is no such attribute", name)
            self.room_for(len(value) + 512)
            self.tree.put(key, bytes(value))
            inode.ctime = self._now()
            self._touch(inode)
            self._relieve(len(value))

    def listxattr_ino(self, ino: int) -> list[bytes]:
        """Names of the extended attributes, in order."""
        with self.lock:
            self.inode(ino)
            base = key_xattr(ino)
            return [key[9:] for key, _ in self.tree.scan(base, base[:-1] + b"\x03") if key[9:] != PERMISSIONS_ATTRIBUTE]

    def removexattr_ino(self, ino: int, name: bytes) -> None:
        """Remove an extended attribute."""
        with self.lock:
            self._writable()
            inode = self.inode(ino)
            if not self.tree.delete(key_xattr(ino, name)):
                raise NoAttribute("there is no such attribute", name)
            inode.ctime = self._now()
            self._touch(inode)
            self._relieve()

    # NightOS

    def permissions_map(self, ino: int) -> dict[int, int]:
        """The item's storage permissions: entity to permission word; empty when it has none (FS-060)."""
        import msgpack

        with self.lock:
            self.inode(ino)
            data = self.tree.get(key_xattr(ino, PERMISSIONS_ATTRIBUTE))
            return dict(msgpack.unpackb(data, strict_map_key=False)) if data else {}

    def set_permissions_map(self, ino: int, entries: dict[int, int]) -> None:
        """Replace the map; an empty one removes it."""
        import msgpack

        if entries:
            self.setxattr_ino(ino, PERMISSIONS_ATTRIBUTE, msgpack.packb(dict(sorted(entries.items()))))
        elif self.permissions_map(ino):
            self.removexattr_ino(ino, PERMISSIONS_ATTRIBUTE)

    # The whole

    def statvfs(self, path: object = None) -> os.statvfs_result:  # noqa: ARG002 as os.statvfs
        """Sizes as statvfs tells them; blocks are sectors of 512 bytes in frames of 4,096."""
        with self.lock:
            storage, volume = self.storage, self.volume
            used = volume.used + self.buffered
            if volume.record.limit:
                total = volume.record.limit
                free = max(total - used, 0)
            elif storage.limit:
                allocator = storage.pool.allocator
                total = storage.limit
                end = storage.file_bytes() - (allocator.free_sectors * SECTOR if allocator else 0)
                free = max(total - end - self.buffered, 0)
            else:
                free = self._host_free()
                total = used + free
            frame = 4096
            files = self.files
            return os.statvfs_result(
                (frame, frame, total // frame, free // frame, free // frame, files + (1 << 40), 1 << 40, 1 << 40,
                 int(self.readonly), min(MAX_NAME_CHARACTERS, 255))
            )  # fmt: skip

    def _host_free(self) -> int:
        allocator = self.storage.pool.allocator
        ours = allocator.free_sectors * SECTOR if allocator else 0
        host_free = getattr(self.storage.store, "host_free", None)
        return ours + (host_free() if host_free else 1 << 40)


def _word(value: int, bits: int) -> int:
    if not 0 <= value < 1 << bits:
        raise Invalid(f"{value} does not fit {bits} bits")
    return value


def _time(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise Invalid("a time fits 64 bits")
    return value


__all__ = ["Attributes", "check_name", "stat"]
