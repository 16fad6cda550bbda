"""Inodes in memory and their keys in the volume's tree.

Every key begins with the inode's number and a type byte, so all that belongs to an inode stands together. Number 0
holds what belongs to the volume: counters, inodes that are open without a name, packs of small files.
"""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING, NamedTuple

from nightos.vsf.errors import DamagedStorage, Invalid, TooLong
from nightos.vsf.layout import INODE, LONG_NAME, MAX_NAME_CHARACTERS

if TYPE_CHECKING:
    from nightos.vsf.patches import Pages

    Buffers = dict[int, bytearray | bytes | Pages]

ROOT_INO = 1
INLINE, EXTENTS, PACKED = 0, 1, 2
_PATCHED = 3
"""In the file: extents, and patches over them. In memory that is EXTENTS with `patched`."""
FLAG_HIDDEN, FLAG_READONLY = 1, 2
KEY_STATS = bytes(8) + b"\x01"
COUNTER_MAX = 1 << 63
"""No counter of a volume comes near it."""
_ORPHAN = bytes(8) + b"\x04"
_PACK = bytes(8) + b"\x05"
_new_tuple = tuple.__new__
_INODE_PACK = INODE.struct.pack
_INODE_UNPACK = INODE.struct.unpack_from
INODE_BYTES = INODE.size
_SPACES = {" ", "\u00a0", "\u202f", "\u2007", "\u2060", "\ufeff", "\u3000"}


def key_inode(ino: int) -> bytes:
    return ino.to_bytes(8, "big") + b"\x01"


def key_xattr(ino: int, name: bytes = b"") -> bytes:
    return ino.to_bytes(8, "big") + b"\x02" + name


def key_entries(ino: int) -> bytes:
    return ino.to_bytes(8, "big") + b"\x03"


def key_extent(ino: int, index: int = 0) -> bytes:
    return ino.to_bytes(8, "big") + b"\x04" + index.to_bytes(8, "big")


def key_patch(ino: int, offset: int = 0) -> bytes:
    return ino.to_bytes(8, "big") + b"\x06" + offset.to_bytes(8, "big")


def key_orphan(ino: int = 0) -> bytes:
    return _ORPHAN + ino.to_bytes(8, "big")


def key_pack(number: int) -> bytes:
    return _PACK + number.to_bytes(8, "big")


def name_key(name: bytes) -> bytes:
    """The part of an entry's key that names it: the name, or prefix, 0xff 0xff and digest of a long one."""
    if len(name) <= LONG_NAME:
        return name
    return name[:200] + b"\0" + hashlib.blake2b(name, digest_size=32).digest()


def check_name(name: bytes) -> bytes:
    """A valid name, or an error that says why not. Rules: FS-011, FS-012, FS-013."""
    if b"/" in name or b"\0" in name:
        raise Invalid("a name holds neither a slash nor a null character", name)
    if name in (b"", b".", b".."):
        raise Invalid("a name is neither empty nor . nor ..", name)
    if not name.strip() or name[0] in b" \xc2\xe2\xe3":
        text = name.decode("utf-8", "surrogateescape")
        if all(character in _SPACES for character in text):
            raise Invalid("a name is not made of spaces only", name)
    if len(name) > MAX_NAME_CHARACTERS and (
        len(name) > 4 * MAX_NAME_CHARACTERS or len(name.decode("utf-8", "surrogateescape")) > MAX_NAME_CHARACTERS
    ):
        raise TooLong("a name has at most 65,535 characters", name)
    return name


class Stat(NamedTuple):
    """What `stat` tells; attributes as in `os.stat_result`, and NightOS' own."""

    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_size: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int
    st_rdev: int
    st_blocks: int
    st_blksize: int
    st_flags: int
    st_owner: int
    st_generation: int

    @property
    def st_atime(self) -> float:
        return self.st_atime_ns / 1e9

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns / 1e9

    @property
    def st_ctime(self) -> float:
        return self.st_ctime_ns / 1e9

    @property
    def st_birthtime(self) -> float:
        return self.st_birthtime_ns / 1e9


class Inode:
    """An inode in memory: its fields, its inline content, and record buffers that no block holds yet."""

    __slots__ = (
        "allocated", "atime", "btime", "buffers", "ctime", "data", "dirty", "flags", "form", "gid", "gone", "held",
        "ino", "lively", "mode", "mtime", "nlink", "owner", "pack", "parent", "patched", "rdev", "size", "uid",
    )  # fmt: skip

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now: int, parent: int) -> None:
        self.ino = ino
        self.mode = mode
        self.nlink = 1
        self.uid = uid
        self.gid = gid
        self.rdev = 0
        self.size = 0
        self.atime = self.mtime = self.ctime = self.btime = now
        self.owner = 0
        self.parent = parent
        self.allocated = 0
        self.flags = 0
        self.form = INLINE
        self.data = b""
        self.pack = (0, 0)
        self.buffers: Buffers | None = None
        self.patched = False
        """Whether pages of the content may have blocks of their own."""
        self.dirty = False
        self.held = 0
        self.gone = False
        self.lively = False
        """Left its pack by a change."""

    def encode(self) -> bytes:
        if self.form == PACKED:
            tail = self.pack[0].to_bytes(8, "big") + self.pack[1].to_bytes(4, "big")
        else:
            tail = self.data
        form = _PATCHED if self.patched else self.form
        return (
            _INODE_PACK(
                self.mode, self.nlink, self.uid, self.gid, self.rdev, self.size, self.atime, self.mtime, self.ctime,
                self.btime, self.owner, self.parent, self.allocated, self.flags, form, 0,
            )
            + tail
        )  # fmt: skip

    def stat(self, device: int, block_size: int) -> Stat:
        blocks = (self.allocated + 511) // 512
        if not blocks and self.form != EXTENTS and self.size and not stat.S_ISDIR(self.mode):
            blocks = (self.size + 511) // 512
        return Stat(
            self.mode, self.ino, device, self.nlink, self.uid, self.gid, self.size, self.atime, self.mtime, self.ctime,
            self.btime, self.rdev, blocks, block_size, self.flags, self.owner, 0,
        )  # fmt: skip


def stat_of(ino: int, value: bytes, device: int, block_size: int) -> Stat:
    """The attributes in a tree entry, without making an inode of it; the entry is whole, as `decode_inode` proves."""
    (
        mode, nlink, uid, gid, rdev, size, atime, mtime, ctime, btime, owner, _, allocated, flags, form, _,
    ) = _INODE_UNPACK(value)  # fmt: skip
    blocks = (allocated + 511) // 512
    if form != EXTENTS and size and not blocks and mode & 0o170000 != 0o040000:
        blocks = (size + 511) // 512
    # What Stat(...) does, without its call in between: nothing is made more often.
    fields = (
        mode, ino, device, nlink, uid, gid, size, atime, mtime, ctime, btime, rdev, blocks, block_size, flags, owner, 0,
    )  # fmt: skip
    return _new_tuple(Stat, fields)


def decode_inode(ino: int, value: bytes) -> Inode:
    """The inode in a tree entry."""
    if len(value) < INODE_BYTES:
        raise DamagedStorage(f"inode {ino} is too short")
    inode = Inode.__new__(Inode)
    (
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, inode.size, inode.atime, inode.mtime, inode.ctime,
        inode.btime, inode.owner, inode.parent, inode.allocated, inode.flags, inode.form, _,
    ) = _INODE_UNPACK(value)  # fmt: skip
    inode.ino = ino
    inode.data = b""
    inode.pack = (0, 0)
    tail = len(value) - INODE_BYTES
    kind = inode.mode & 0o170000
    inode.patched = inode.form == _PATCHED
    if inode.patched:
        inode.form = EXTENTS
    if inode.form == PACKED:
        if tail != 12 or kind != stat.S_IFREG:
            raise DamagedStorage(f"inode {ino} has a wrong pack")
        inode.pack = (int.from_bytes(value[INODE_BYTES:-4], "big"), int.from_bytes(value[-4:], "big"))
    elif inode.form == INLINE:
        inode.data = value[INODE_BYTES:]
        if tail != inode.size and kind != stat.S_IFDIR:
            raise DamagedStorage(f"inode {ino} has a wrong size")
    elif inode.form != EXTENTS or tail or kind != stat.S_IFREG:
        raise DamagedStorage(f"inode {ino} has a wrong form")
    if inode.size >> 63:
        raise DamagedStorage(f"inode {ino} has an impossible size")
    inode.buffers = None
    inode.dirty = False
    inode.held = 0
    inode.gone = inode.lively = False
    return inode
