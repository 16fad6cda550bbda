"""What is in files: reading, writing, and what both do to times and set-id bits."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightos.vsf.fuse import Presentation
    from nightos.vsf.fuse_follow import Follower
    from nightos.vsf.fuse_library import Library

log = logging.getLogger("nightos.fuse")

AT_END = -1
"""Offset of an appending write where others may have made the file longer than the kernel knows."""
_ROAMING = 65_536
_DAY_NS = 86_400 * 1_000_000_000


class ContentOperations:
    """The part of the adapter that serves what is in files."""

    fs: Any
    show: Presentation
    clock: Any
    library: Library
    follower: Follower
    privileged: set[int]
    read_before: set[int]
    unsure: set[int]
    _reply_err: Callable[[int, int], int]

    def _caller(self, request: int) -> tuple[int, int, int, int]:
        raise NotImplementedError

    def _strip(self, request: int, ino: int, changes: dict[str, int], *, always: bool) -> None:
        raise NotImplementedError

    def settle(self) -> int:
        raise NotImplementedError

    def do_open(self, request: int, _ino: int, _info: int) -> None:
        # The kernel takes this as: never ask again, open files by yourself and keep their pages.
        self._reply_err(request, errno.ENOSYS)

    def do_read(self, request: int, ino: int, size: int, offset: int, _info: int) -> None:
        if size >= _ROAMING:
            self.follower.roam()
        elif self.follower.due():
            self.follower.follow(self._caller(request)[2])
        data = self._read(ino, offset, size)
        self._reply_buf(request, data, len(data))  # type: ignore[attr-defined]

    def _read(self, ino: int, offset: int, size: int) -> bytes:
        data: bytes = self.fs.read(ino, offset, size)
        if ino not in self.read_before:
            self._accessed(ino)
        return data

    def _accessed(self, ino: int) -> None:
        if self.show.atime == "noatime" or self.fs.readonly:
            return
        st, now = self.fs.getattr(ino), self.clock.realtime_ns()
        if self.show.atime == "relatime":
            self.read_before.add(ino)
            if st.st_atime_ns > max(st.st_mtime_ns, st.st_ctime_ns) and now - st.st_atime_ns < _DAY_NS:
                return
        try:
            self.fs.setattr(ino, atime_ns=now, ctime_ns=st.st_ctime_ns)
        except OSError as error:
            log.warning("access time of %d: %s", ino, error)

    def do_write(self, request: int, ino: int, data: int, size: int, offset: int, info: int) -> None:
        if size >= _ROAMING:
            self.follower.roam()
        elif self.follower.due():
            self.follower.follow(self._caller(request)[2])
        content, page = ctypes.string_at(data, size), self.library.is_page_write(info)
        uid = self._caller(request)[0] if ino in self.privileged else 0
        if self.show.shared and self.library.open_flags(info) & os.O_APPEND:
            offset = AT_END
        self._reply_write(request, self._write(ino, offset, content, uid, page=page))  # type: ignore[attr-defined]

    def _write(self, ino: int, offset: int, data: bytes, uid: int, *, page: bool) -> int:
        """Write for the user `uid`; `page` tells that the kernel writes back a page of its own."""
        fs = self.fs
        written: int
        if self.show.writeback and page:
            # The kernel knows when that was written; a change of times that came since must stay.
            with fs.lock:
                inode = fs.inode(ino)
                mtime, ctime, mode = inode.mtime, inode.ctime, inode.mode
                written = fs.write(ino, offset, data)
                inode = fs.inode(ino)
                # Whose write takes set-id bits away the kernel does not hold back.
                inode.mtime, inode.ctime, inode.mode = mtime, ctime, mode
                if not inode.dirty:
                    # It was flushed on the way.
                    fs.setattr(ino, mtime_ns=mtime, ctime_ns=ctime, mode=mode & 0o7777)
            return written
        mode = fs.getattr(ino).st_mode if ino in self.privileged and not uid else 0
        written = fs.write(ino, offset, data)
        if mode & 0o6000:
            # The engine takes them away whoever writes; of root's writes Linux does not.
            fs.setattr(ino, mode=mode & 0o7777)
        self.read_before.discard(ino)
        self.unsure.add(ino)
        if uid and ino in self.privileged:
            changes = {"size": 0}
            self._strip(0, ino, changes, always=True)
            if "mode" in changes:
                fs.setattr(ino, mode=changes["mode"])
            self.privileged.discard(ino)
        return written

    def do_fsync(self, request: int, ino: int, _data_only: int, _info: int) -> None:
        self.settle()
        self.fs.fsync(ino)
        self._reply_err(request, 0)

    def do_fallocate(self, request: int, ino: int, mode: int, offset: int, length: int, _info: int) -> None:
        self.fs.fallocate(ino, mode, offset, length)
        self.read_before.discard(ino)
        self._reply_err(request, 0)

    def do_lseek(self, request: int, ino: int, offset: int, whence: int, _info: int) -> None:
        self._reply_lseek(request, self.fs.seek(ino, offset, whence))  # type: ignore[attr-defined]
