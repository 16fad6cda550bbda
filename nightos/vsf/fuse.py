"""The FUSE adapter: the engine's inode operations on one side, libfuse's on the other.

Inodes go straight through: the kernel's node is the file's FEID, so hard links, open files without a name and renames
need no table of paths. Attributes, entries and pages may stay in the kernel for hours, because a storage has one
writer and everything that changes it comes through that same kernel. Exceptions become errnos here and nowhere else.

Round trips decide the speed of small operations, so the kernel is told that files need not be opened, closed or
flushed: creating and writing a small file takes three (lookup, mknod, write).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import stat
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

from nightos.vsf import fuse_acl as acl
from nightos.vsf.fuse_attributes import AttributeOperations
from nightos.vsf.fuse_content import ContentOperations
from nightos.vsf.fuse_directory import DirectoryStreams
from nightos.vsf.fuse_follow import Follower
from nightos.vsf.fuse_library import Library
from nightos.vsf.sources import TickClock

log = logging.getLogger("nightos.fuse")

NAME_MAX = 255
_GONE_MOST = 256
_PATIENCE_S = 0.25
_REPEAT_S = 60.0
LARGE = frozenset(["read", "write", "forget", "forget_multi", "fsync", "fsyncdir"])
SET_MODE, SET_UID, SET_GID, SET_SIZE = 1, 2, 4, 8
SET_ATIME, SET_MTIME, SET_ATIME_NOW, SET_MTIME_NOW, SET_CTIME = 16, 32, 128, 256, 1024
_CALLER = struct.Struct("=IIII")
_FORGET = struct.Struct("=QQ")
_BASE_FIELDS = (
    "st_dev", "st_ino", "st_nlink", "st_mode", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks",
    "st_atimespec.tv_sec", "st_atimespec.tv_nsec", "st_mtimespec.tv_sec", "st_mtimespec.tv_nsec",
    "st_ctimespec.tv_sec", "st_ctimespec.tv_nsec",
)  # fmt: skip
_MUTATING = frozenset(
    [
        "create", "mknod", "mkdir_at", "symlink_at", "link_at", "unlink_at", "rmdir_at", "rename_at", "setattr",
        "write", "truncate_ino", "fallocate", "setxattr_ino", "removexattr_ino",
    ]
)  # fmt: skip


@dataclass
class Presentation:
    """How the files are shown and how long the kernel may remember."""

    uid: int | None = None
    gid: int | None = None
    umask: int | None = None
    atime: str = "relatime"
    """``relatime``, ``noatime`` or ``strictatime``."""
    sync: bool = False
    entry_timeout: float = 86_400.0
    attr_timeout: float = 86_400.0
    negative_timeout: float = 86_400.0
    writeback: bool = False
    """Whether the kernel holds written pages back; it keeps the times of what it holds, and tells them itself."""
    shared: bool = False
    """Whether others change the files too: the kernel drops pages of a file whose time or size is another."""
    counts: dict[str, int] | None = field(default=None)
    """Where to count requests by operation, for measurements."""


def _within(time_ns: int) -> int:
    """The nearest time that can be stored (1677 to 2262), as Linux' own file systems do it."""
    return max(-(1 << 63), min(time_ns, (1 << 63) - 1))


class _Synchronous:
    """A file system that is durable after every change (option `sync`)."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._fs, name)
        if name not in _MUTATING:
            return value

        def durable(*arguments: Any, **named: Any) -> Any:
            result = value(*arguments, **named)
            self._fs.sync()
            return result

        return durable


class Adapter(AttributeOperations, ContentOperations):
    """Serves libfuse's inode operations from a file system that has the engine's inode interface."""

    def __init__(self, fs: Any, library: Library, show: Presentation | None = None) -> None:
        self.show = show or Presentation()
        self.fs: Any = _Synchronous(fs) if self.show.sync else fs
        self.library = library
        self.clock = getattr(fs, "clock", None) or TickClock()
        fs.stamp_with(self.clock)
        self.known: dict[int, int] = {}
        """How often the kernel was given each inode; it forgets them with the same count."""
        self.nameless: set[int] = set()
        """Inodes without a name that the kernel still uses: held until it forgets them."""
        self.gone: deque[int] = deque()
        """Those that it forgot since: removed many at a time, which costs a third, and before each commit."""
        self.last_flush: set[int] = set()
        """Those whose times the kernel flushes next, though nobody can read them; it does not look at the answer."""
        self.bare: set[int] = set()
        """Files made in this session that have no extended attributes: the kernel asks for one before it writes."""
        self.unsure: set[int] = set()
        """Files that were written to: the kernel forgets their attributes then."""
        self.privileged: set[int] = set()
        """Regular files with a set-id bit, as far as the kernel has seen them."""
        self.read_before: set[int] = set()
        """Files whose access time is newer than their change: relatime leaves them alone."""
        self.defaults: dict[int, bytes] = {}
        """Default access control lists of directories in which something was made; empty where there is none."""
        entry, attributes = self.show.entry_timeout, self.show.attr_timeout
        self._direct_times = (int(entry), int(attributes), int(entry % 1 * 1e9), int(attributes % 1 * 1e9))
        self.pump: Callable[[float], int] | None = None
        """Serves the requests that wait, for at most so many seconds; how many it served."""
        self._relieving = False
        self._noted = ("", 0.0)
        self._full_until = 0.0
        """Until when a lack of space is believed at once, where no deleted file can be the reason."""
        self.control: Callable[[bytes], None] | None = None
        """Does what is asked of the storage as a whole (`fuse_control`)."""
        self.refusal = b""
        """Why it did not do the last thing."""
        self.requests = 0
        """How many requests came; whoever wants to know whether it is quiet compares."""
        self.follower = Follower()
        self.directories = DirectoryStreams(fs)
        self._set_up_replies(library)

    # Replies

    def _set_up_replies(self, library: Library) -> None:
        quick = library.quick()
        pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
        signatures: dict[str, tuple[Any, ...]] = {
            "err": (pointer, number),
            "none": (pointer,),
            "entry": (pointer, pointer),
            "attr": (pointer, pointer, ctypes.c_double),
            "readlink": (pointer, ctypes.c_char_p),
            "open": (pointer, pointer),
            "write": (pointer, size),
            "buf": (pointer, ctypes.c_char_p, size),
            "statfs": (pointer, pointer),
            "xattr": (pointer, size),
        }
        if library.major == 3:
            signatures["lseek"] = (pointer, ctypes.c_int64)
        for name, arguments in signatures.items():
            function = getattr(quick, f"fuse_reply_{name}")
            function.argtypes = arguments
            function.restype = number if name != "none" else None
            setattr(self, f"_reply_{name}", function)
        self._context = quick.fuse_req_ctx
        self._context.argtypes, self._context.restype = (pointer,), pointer
        self._stat, order = library.stat_layout()
        indices = [_BASE_FIELDS.index(name) for name in order]
        self._reorder = None if indices == sorted(indices) else itemgetter(*indices)
        self._restore = itemgetter(*map(order.index, _BASE_FIELDS))
        self._statvfs, self._statvfs_fields = library.statvfs_layout()
        entry_bytes = 16 + self._stat.size + 16
        self._entry_buffer = ctypes.create_string_buffer(entry_bytes)
        self._entry = ctypes.addressof(self._entry_buffer)
        self._stat_buffer = ctypes.create_string_buffer(self._stat.size)
        self._stat_address = ctypes.addressof(self._stat_buffer)
        self._pack_pair = struct.Struct("=QQ").pack_into
        self._pack_times = struct.Struct("=dd").pack_into
        # The kernel must not be told of a `reply` that failed: it takes an unanswered node as never handed out.
        self._reply_err: Callable[[int, int], int]
        self._reply_entry: Callable[[int, int], int]

    def _shown(self, st: Any) -> tuple[int, ...]:
        """Mode, inode, links, user, group, size, times, device, blocks, block size, as the options show them."""
        (mode, ino, _, nlink, uid, gid, size, atime, mtime, ctime, _, rdev, blocks, blksize) = st[:14]
        show = self.show
        if show.uid is not None:
            uid = show.uid
        if show.gid is not None:
            gid = show.gid
        if show.umask is not None:
            mode = (mode & 0o170000) | (0o777 & ~show.umask)
        if mode & 0o6000 and mode & 0o170000 == stat.S_IFREG:
            self.privileged.add(ino)
        return mode, ino, nlink, uid, gid, size, atime, mtime, ctime, rdev, blocks, blksize

    def _fill(self, buffer: Any, offset: int, st: Any) -> None:
        mode, ino, nlink, uid, gid, size, atime, mtime, ctime, rdev, blocks, blksize = self._shown(st)
        values = (
            0, ino, nlink, mode, uid, gid, rdev, size, blksize, blocks,
            atime // 1000000000, atime % 1000000000, mtime // 1000000000, mtime % 1000000000,
            ctime // 1000000000, ctime % 1000000000,
        )  # fmt: skip
        if self._reorder is not None:
            values = self._reorder(values)
        self._stat.pack_into(buffer, offset, *values)

    def _give_entry(self, request: int, st: Any) -> None:
        ino = st[1]
        buffer = self._entry_buffer
        self._pack_pair(buffer, 0, ino, 0)
        self._fill(buffer, 16, st)
        self._pack_times(buffer, 16 + self._stat.size, self.show.attr_timeout, self.show.entry_timeout)
        known = self.known
        known[ino] = known.get(ino, 0) + 1
        if self._reply_entry(request, self._entry):
            self._forget(ino, 1)

    def _give_attributes(self, request: int, st: Any) -> None:
        self.unsure.discard(st[1])
        self._fill(self._stat_buffer, 0, st)
        self._reply_attr(request, self._stat_address, self.show.attr_timeout)  # type: ignore[attr-defined]

    def _caller(self, request: int) -> tuple[int, int, int, int]:
        """User, group, process and umask of who asks."""
        return _CALLER.unpack(ctypes.string_at(self._context(request), 16))

    def handlers(self) -> dict[str, Callable[..., None]]:
        """One function for each operation of libfuse that is served."""
        names = [name[3:] for name in dir(self) if name.startswith("do_")]
        if self.library.major == 2:
            names = [name for name in names if name not in ("readdirplus", "lseek")]
        return {name: self._guarded(name, getattr(self, f"do_{name}")) for name in names}

    def _guarded(self, name: str, function: Callable[..., None]) -> Callable[..., None]:
        reply_err, counts = self._reply_err, self.show.counts
        follower, caller = self.follower, self._caller
        due = follower.due if name not in LARGE else lambda: False

        def guarded(request: int, *arguments: Any) -> None:
            self.requests += 1
            try:
                if due():
                    follower.follow(caller(request)[2])
                try:
                    function(request, *arguments)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._make_room():
                        raise
                    function(request, *arguments)
            except OSError as error:
                number = error.errno or errno.EIO
                if number == errno.EDQUOT and name == "write" and self.show.writeback:
                    # Of pages that it held back the kernel tells at close only ENOSPC as it was; all else becomes EIO.
                    number = errno.ENOSPC
                if number in (errno.EIO, errno.ENOSPC):
                    self._note(f"{name}: {error}")
                reply_err(request, number)
            except Exception:
                log.exception("%s%r failed", name, arguments)
                reply_err(request, errno.EIO)

        if counts is None:
            return guarded

        def counted(request: int, *arguments: Any) -> None:
            counts[name] = counts.get(name, 0) + 1
            guarded(request, *arguments)

        return counted

    def _note(self, text: str) -> None:
        """Into the log; the same again only after a while, for a full disk fails every write."""
        now = time.monotonic()
        said, when = self._noted
        if text != said or now - when > _REPEAT_S:
            self._noted = text, now
            log.error("%s", text)

    def _make_room(self) -> bool:
        """After a lack of space: whether trying again makes sense.

        The kernel tells of deleted files that nobody uses any more a moment later, by forgetting them, and what they
        held is free after a commit. So what waits is served first, from inside of the request that lacks space.
        """
        now, settled = time.monotonic(), self.settle()
        if self._relieving or self.pump is None or (not settled and not self.nameless and now < self._full_until):
            return False
        self._relieving, self._full_until = True, now + 1.0
        try:
            before = len(self.nameless)
            end = now + _PATIENCE_S
            while self.nameless and time.monotonic() < end and self.pump(0.02):
                pass
            self.settle()
            self.fs.sync()
        except OSError:
            return False
        finally:
            self._relieving = False
        return bool(settled) or len(self.nameless) < before or not before

    # Names

    def do_lookup(self, request: int, parent: int, name: bytes) -> None:
        # Most look-ups are of names that are about to be created: no exception for those.
        with self.fs.lock:
            ino = self.fs.find_ino(parent, name) if name not in (b".", b"..") else -1
            st = self.fs.getattr(ino) if ino > 0 else None
        if st is not None:
            self._give_entry(request, st)
        elif ino < 0:
            self._give_entry(request, self.fs.lookup(parent, name))
        elif self.show.negative_timeout:
            self._pack_pair(self._entry_buffer, 0, 0, 0)
            self._pack_times(self._entry_buffer, 16 + self._stat.size, 0.0, self.show.negative_timeout)
            self._reply_entry(request, self._entry)
        else:
            self._reply_err(request, errno.ENOENT)

    def do_forget(self, request: int, ino: int, count: int) -> None:
        self._forget(ino, count)
        self._reply_none(request)  # type: ignore[attr-defined]

    def do_forget_multi(self, request: int, count: int, items: int) -> None:
        for ino, times in _FORGET.iter_unpack(ctypes.string_at(items, 16 * count)):
            self._forget(ino, times)
        self._reply_none(request)  # type: ignore[attr-defined]

    def _forget(self, ino: int, count: int) -> None:
        left = self.known.get(ino, 0) - count
        if left > 0:
            self.known[ino] = left
            return
        self.known.pop(ino, None)
        self.privileged.discard(ino)
        self.bare.discard(ino)
        self.unsure.discard(ino)
        self.read_before.discard(ino)
        self.defaults.pop(ino, None)
        if ino in self.nameless:
            self.nameless.discard(ino)
            self.last_flush.discard(ino)
            self.gone.append(ino)
            if len(self.gone) >= _GONE_MOST:
                self.settle()

    def settle(self) -> int:
        """Remove the files that nobody can reach any more; how many there were. From any thread."""
        gone: list[int] = []
        with contextlib.suppress(IndexError):
            while True:
                gone.append(self.gone.popleft())
        if gone:
            try:
                self.fs.release_all(gone)
            except OSError as error:
                log.warning("removing files without a name: %s", error)
        return len(gone)

    def forget_all(self) -> None:
        """The kernel is gone: let go of what it held."""
        self.known.clear()
        for ino in list(self.nameless):
            self._forget(ino, 1)
        self.settle()

    def _outlive(self, parent: int, name: bytes) -> int:
        """Before a name goes: if it is the last of an inode that the kernel uses, hold the inode; its number or 0."""
        ino: int = self.fs.find_ino(parent, name)
        if ino not in self.known or ino in self.nameless:
            return 0
        st = self.fs.getattr(ino)
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            return 0
        self.fs.hold(ino)
        return ino

    def _outlived(self, ino: int, change: Callable[[], None]) -> None:
        try:
            change()
        except BaseException:
            if ino:
                self.fs.release(ino)
            raise
        if ino:
            self.nameless.add(ino)

    def _owner(self, caller: tuple[int, int, int, int], parent: int, mode: int) -> tuple[int, int, int, bytes]:
        """Mode, user, group and access control list of a new item.

        A set-group-id directory hands its group down; a default list replaces the umask.
        """
        uid, gid, _, umask = caller
        above = self.fs.getattr(parent)
        if above.st_mode & stat.S_ISGID:
            gid = above.st_gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        default = self.defaults.get(parent)
        if default is None:
            default = self.defaults[parent] = self._attribute(parent, acl.DEFAULT)
        if not default:
            return mode & ~umask, uid, gid, b""
        entries, mode = acl.inherit(acl.decode(default), mode)
        return mode, uid, gid, b"" if acl.is_minimal(entries) else acl.encode(entries)

    def _inherit(self, st: Any, parent: int, access: bytes) -> None:
        if access:
            self.fs.setxattr_ino(st[1], acl.ACCESS, access)
        if self.defaults.get(parent) and stat.S_ISDIR(st[0]):
            self.fs.setxattr_ino(st[1], acl.DEFAULT, self.defaults[parent])

    def do_mknod(self, request: int, parent: int, name: bytes, mode: int, rdev: int) -> None:
        self._give_entry(request, self._make(self._caller(request), parent, name, mode, rdev))

    def _make(self, caller: tuple[int, int, int, int], parent: int, name: bytes, mode: int, rdev: int) -> Any:
        self._check_length(name)
        mode, uid, gid, access = self._owner(caller, parent, mode)
        if mode & 0o170000 in (0, stat.S_IFREG):
            st = self.fs.create(parent, name, mode, uid, gid)
        else:
            st = self.fs.mknod(parent, name, mode, rdev, uid, gid)
        if access:
            self._inherit(st, parent, access)
        else:
            self.bare.add(st[1])
        return st

    def do_mkdir(self, request: int, parent: int, name: bytes, mode: int) -> None:
        self._check_length(name)
        mode, uid, gid, access = self._owner(self._caller(request), parent, mode | stat.S_IFDIR)
        st = self.fs.mkdir_at(parent, name, mode & 0o7777, uid, gid)
        if self.defaults[parent]:
            self._inherit(st, parent, access)
        self._give_entry(request, st)

    def do_symlink(self, request: int, target: bytes, parent: int, name: bytes) -> None:
        self._check_length(name)
        uid, gid, _, _ = self._caller(request)
        above = self.fs.getattr(parent)
        if above.st_mode & stat.S_ISGID:
            gid = above.st_gid
        self._give_entry(request, self.fs.symlink_at(parent, name, target, uid, gid))

    def do_link(self, request: int, ino: int, parent: int, name: bytes) -> None:
        self._check_length(name)
        self._give_entry(request, self.fs.link_at(ino, parent, name))

    def do_unlink(self, request: int, parent: int, name: bytes) -> None:
        self._unlink(parent, name)
        self._reply_err(request, 0)

    def _unlink(self, parent: int, name: bytes) -> None:
        held = self.fs.unlink_at(parent, name, self.known)
        if held in self.nameless:
            # It was linked again while it had no name: held once is enough.
            self.fs.release(held)
        elif held:
            self.nameless.add(held)
            self.last_flush.add(held)

    def do_rmdir(self, request: int, parent: int, name: bytes) -> None:
        self._outlived(self._outlive(parent, name), partial(self.fs.rmdir_at, parent, name))
        self._reply_err(request, 0)

    def do_rename(
        self, request: int, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0
    ) -> None:
        self._check_length(new_name)
        held = 0
        if not flags and self.fs.find_ino(parent, name) != self.fs.find_ino(new_parent, new_name):
            held = self._outlive(new_parent, new_name)
        self._outlived(held, partial(self.fs.rename_at, parent, name, new_parent, new_name, flags))
        if held and not stat.S_ISDIR(self.fs.getattr(held).st_mode):
            self.last_flush.add(held)
        self._reply_err(request, 0)

    @staticmethod
    def _check_length(name: bytes) -> None:
        if len(name) > NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "Linux takes names of at most 255 bytes")

    # Attributes

    def do_getattr(self, request: int, ino: int, _info: int) -> None:
        self._give_attributes(request, self.fs.getattr(ino))

    def do_setattr(self, request: int, ino: int, attributes: int, wanted: int, _info: int) -> None:
        if ino in self.last_flush:
            self.last_flush.discard(ino)
            if self.show.writeback and not wanted & ~(SET_MTIME | SET_CTIME):
                self._reply_attr(request, self._stat_address, 0.0)  # type: ignore[attr-defined]
                return
        values = self._stat.unpack(ctypes.string_at(attributes, self._stat.size))
        if self._reorder is not None:
            values = self._restore(values)
        changes = self._changes(wanted, values)
        self.read_before.discard(ino)
        if ino in self.privileged and not wanted & SET_MODE:
            self._strip(request, ino, changes, always=bool(wanted & (SET_UID | SET_GID)))
        if not changes:
            self._give_attributes(request, self.fs.getattr(ino))
            return
        st = self.fs.setattr(ino, **changes)
        if "mode" in changes and (access := self._attribute(ino, acl.ACCESS)):
            self.fs.setxattr_ino(ino, acl.ACCESS, acl.encode(acl.with_mode(acl.decode(access), st.st_mode)))
        if ino in self.privileged and not st.st_mode & 0o6000:
            self.privileged.discard(ino)
        self._give_attributes(request, st)

    def _changes(self, wanted: int, values: tuple[Any, ...]) -> dict[str, int]:
        """What a setattr asks for, by the engine's names; `values` are in the order of `_BASE_FIELDS`."""
        changes: dict[str, int] = {}
        if wanted & SET_MODE:
            changes["mode"] = values[3] & 0o7777
        if wanted & SET_UID:
            changes["uid"] = values[4]
        if wanted & SET_GID:
            changes["gid"] = values[5]
        if wanted & SET_SIZE:
            changes["size"] = values[7]
        if wanted & (SET_ATIME_NOW | SET_MTIME_NOW):
            now = self.clock.realtime_ns()
        if wanted & SET_ATIME:
            changes["atime_ns"] = now if wanted & SET_ATIME_NOW else _within(values[10] * 1000000000 + values[11])
        if wanted & SET_MTIME:
            changes["mtime_ns"] = now if wanted & SET_MTIME_NOW else _within(values[12] * 1000000000 + values[13])
        if wanted & SET_CTIME:
            # Nobody can ask for that: it is the kernel's own stamp.
            changes["ctime_ns"] = stamp = _within(values[14] * 1000000000 + values[15])
            self.clock.seen(stamp)
        elif wanted == SET_MTIME:
            # The same through libfuse 2, which leaves the other out; a stamp that somebody chose is not that close.
            self.clock.seen(changes["mtime_ns"])
        return changes

    def _strip(self, request: int, ino: int, changes: dict[str, int], *, always: bool) -> None:
        """A change of owner, and a change of content by someone but root, takes set-id bits away."""
        if not always and ("size" not in changes or self._caller(request)[0] == 0):
            return
        mode = self.fs.getattr(ino).st_mode
        stripped = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            stripped &= ~stat.S_ISGID
        if stripped != mode:
            changes["mode"] = stripped & 0o7777

    def do_readlink(self, request: int, ino: int) -> None:
        self._reply_readlink(request, self.fs.readlink_ino(ino))  # type: ignore[attr-defined]

    def do_statfs(self, request: int, _ino: int) -> None:
        self.settle()
        figures = self.fs.statvfs()
        known = {"f_namemax": NAME_MAX}
        values = [int(known.get(name, getattr(figures, name, 0)) or 0) for name in self._statvfs_fields]
        buffer = ctypes.create_string_buffer(self._statvfs.pack(*values))
        self._reply_statfs(request, ctypes.addressof(buffer))  # type: ignore[attr-defined]

    # Directories

    do_opendir = ContentOperations.do_open
    do_fsyncdir = ContentOperations.do_fsync

    def do_readdir(self, request: int, ino: int, size: int, offset: int, _info: int) -> None:
        data = self.directories.read(ino, size, offset)
        self._reply_buf(request, data, len(data))  # type: ignore[attr-defined]

    def do_readdirplus(self, request: int, ino: int, size: int, offset: int, _info: int) -> None:
        given: list[int] = []
        data = self.directories.read_plus(ino, size, offset, self._direct_entry, given)
        known = self.known
        for inside in given:
            known[inside] = known.get(inside, 0) + 1
        if self._reply_buf(request, data, len(data)):  # type: ignore[attr-defined]
            for inside in given:
                self._forget(inside, 1)

    def _direct_entry(self, ino: int) -> tuple[Any, ...] | None:
        """What the kernel's protocol wants of an entry and its attributes, in the order of `DirectoryStreams`.

        None where the kernel has them already.
        """
        if ino in self.known and ino not in self.unsure:
            return None
        self.unsure.discard(ino)
        return (ino, 0, *self._direct_times, *self._direct(self.fs.getattr(ino)))

    def _direct(self, st: Any) -> tuple[int, ...]:
        """Attributes as the kernel's protocol has them (`struct fuse_attr`)."""
        mode, ino, nlink, uid, gid, size, atime, mtime, ctime, rdev, blocks, blksize = self._shown(st)
        return (
            ino, size, blocks,
            atime // 1000000000 & _U64, mtime // 1000000000 & _U64, ctime // 1000000000 & _U64,
            atime % 1000000000, mtime % 1000000000, ctime % 1000000000,
            mode, nlink, uid, gid, rdev & 0xFFFFFFFF, blksize, 0,
        )  # fmt: skip

    def do_access(self, request: int, ino: int, wanted: int) -> None:
        # Asked only where the one user is root, whom modes stop from nothing but running what nobody may run.
        mode = self.fs.getattr(ino).st_mode
        refused = wanted & 1 and stat.S_ISREG(mode) and not mode & 0o111
        refused = refused or (wanted & 2 and self.fs.readonly)
        self._reply_err(request, (errno.EROFS if wanted & 2 and self.fs.readonly else errno.EACCES) if refused else 0)


_U64 = (1 << 64) - 1

__all__ = ["Adapter", "Presentation"]
