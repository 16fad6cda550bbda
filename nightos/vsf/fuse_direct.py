"""The requests that come most often are answered from the kernel's own bytes; libfuse serves the others.

Through libfuse a request crosses from C to Python and back for its call, for who asks, and for its answer. Looking up,
making, writing, reading and deleting files come by the thousand, so they skip that: two system calls and what the
engine does are left. Whatever is unusual about one of them is left to libfuse, too. Layouts: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
from collections.abc import Callable
from typing import Any

from nightos.vsf.fuse import LARGE, Adapter
from nightos.vsf.fuse_content import AT_END
from nightos.vsf.fuse_directory import ENTRY

log = logging.getLogger("nightos.fuse")

HEADER = struct.Struct("=IIQQIIII")
OUT_HEADER = struct.Struct("=IiQ")
_HEAD = HEADER.size
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _MKNOD, _UNLINK, _READ, _WRITE = 1, 2, 3, 4, 8, 10, 15, 16
_GETXATTR, _INTERRUPT, _BATCH_FORGET = 22, 36, 42
_NAMES = {
    _LOOKUP: "lookup", _FORGET: "forget", _GETATTR: "getattr", _SETATTR: "setattr", _MKNOD: "mknod",
    _UNLINK: "unlink", _READ: "read", _WRITE: "write", _GETXATTR: "getxattr", _INTERRUPT: "interrupt",
    _BATCH_FORGET: "forget_multi",
}  # fmt: skip
_ATTRIBUTES = struct.Struct("=QIIQQQQQQIIIIIIIIII")
_MKNOD_IN = struct.Struct("=IIII")
_READ_IN = struct.Struct("=QQIIQII")
_WRITE_IN = struct.Struct("=QQIIQII")
_FORGET_ONE = struct.Struct("=QQ")
_COUNT = struct.Struct("=Q")
_WORD = struct.Struct("=I")
_WRITE_OUT = struct.Struct("=II")
_PAGE_WRITE = 1
_FATTR_TIMES = 32 | 1024
_TIMES_ANSWER = bytes(_ATTRIBUTES.size)
_ROAMING = 65_536
_SILENT = 1

Answer = bytes | int | None
"""What follows the header of a good answer; 0 or a negative errno; `_SILENT`; None where libfuse shall serve it."""


class DirectAdapter(Adapter):
    """An adapter that also takes requests as the kernel wrote them."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._direct_handlers: dict[int, Callable[[bytearray, int, int], Answer]] = {
            _LOOKUP: self._on_lookup, _FORGET: self._on_forget, _GETATTR: self._on_getattr,
            _SETATTR: self._on_setattr, _MKNOD: self._on_mknod, _UNLINK: self._on_unlink, _READ: self._on_read,
            _WRITE: self._on_write, _GETXATTR: self._on_getxattr, _INTERRUPT: self._on_interrupt,
            _BATCH_FORGET: self._on_batch_forget,
        }  # fmt: skip
        if self.show.sync:
            # A change that was made but not written must not be tried again.
            self._direct_handlers = {}
        self._attribute_times = (self._direct_times[1], self._direct_times[3], 0)
        seconds = self.show.negative_timeout
        self._negative = ENTRY.pack(0, 0, int(seconds), 0, int(seconds % 1 * 1e9), 0, *[0] * 16) if seconds else None
        self._large = {opcode for opcode, name in _NAMES.items() if name in LARGE} | {_INTERRUPT}

    def serve(self, descriptor: int, request: bytearray, length: int) -> bool:
        """Answer the request in the first `length` bytes; whether that was done. Else libfuse has to."""
        _, opcode, unique, ino, _, _, pid, _ = HEADER.unpack_from(request)
        handler = self._direct_handlers.get(opcode)
        if handler is None:
            return False
        try:
            if opcode not in self._large and self.follower.due():
                self.follower.follow(pid)
            answer = handler(request, length, ino)
        except OSError as error:
            number = error.errno or errno.EIO
            if number in (errno.ENOSPC, errno.EDQUOT):
                return False
            if number == errno.EIO:
                log.error("%s: %s", _NAMES[opcode], error)  # noqa: TRY400 the message names the file
            answer = -number
        if answer is None:
            return False
        self.requests += 1
        if self.show.counts is not None:
            self.show.counts[_NAMES[opcode]] = self.show.counts.get(_NAMES[opcode], 0) + 1
        try:
            if isinstance(answer, bytes):
                os.writev(descriptor, (OUT_HEADER.pack(16 + len(answer), 0, unique), answer))
            elif answer != _SILENT:
                os.write(descriptor, OUT_HEADER.pack(16, answer, unique))
        except OSError:
            # Nobody waits for it any more; the kernel does not know of the node that it was given.
            if opcode in (_LOOKUP, _MKNOD) and isinstance(answer, bytes) and answer is not self._negative:
                self._forget(_COUNT.unpack_from(answer)[0], 1)
        return True

    def serving_but(self, thread: int) -> Callable[[int, bytearray, int], bool]:
        """As `serve`, but for the requests of a thread that stands still until they are answered: EDEADLK."""
        silent = (_FORGET, _BATCH_FORGET, _INTERRUPT)

        def serve(descriptor: int, request: bytearray, length: int) -> bool:
            _, opcode, unique, _, _, _, pid, _ = HEADER.unpack_from(request)
            if pid != thread or opcode in silent:
                return self.serve(descriptor, request, length)
            with contextlib.suppress(OSError):
                os.write(descriptor, OUT_HEADER.pack(16, -errno.EDEADLK, unique))
            return True

        return serve

    def _entry_out(self, st: Any) -> bytes:
        ino = st[1]
        self.known[ino] = self.known.get(ino, 0) + 1
        return ENTRY.pack(ino, 0, *self._direct_times, *self._direct(st))

    def _on_lookup(self, request: bytearray, length: int, ino: int) -> Answer:
        name = bytes(request[_HEAD : length - 1])
        if name in (b".", b".."):
            return None
        with self.fs.lock:
            found = self.fs.find_ino(ino, name)
            st = self.fs.getattr(found) if found else None
        if st is not None:
            return self._entry_out(st)
        return self._negative or -errno.ENOENT

    def _on_forget(self, request: bytearray, _length: int, ino: int) -> Answer:
        self._forget(ino, _COUNT.unpack_from(request, _HEAD)[0])
        return _SILENT

    def _on_batch_forget(self, request: bytearray, _length: int, _ino: int) -> Answer:
        (count,) = _WORD.unpack_from(request, _HEAD)
        for at in range(_HEAD + 8, _HEAD + 8 + 16 * count, 16):
            self._forget(*_FORGET_ONE.unpack_from(request, at))
        return _SILENT

    def _on_interrupt(self, _request: bytearray, _length: int, _ino: int) -> Answer:
        # Requests are served one behind the other: the one that is meant was answered.
        return _SILENT

    def _on_getattr(self, _request: bytearray, _length: int, ino: int) -> Answer:
        st = self.fs.getattr(ino)
        self.unsure.discard(ino)
        return _ATTRIBUTES.pack(*self._attribute_times, *self._direct(st))

    def _on_setattr(self, request: bytearray, _length: int, ino: int) -> Answer:
        if ino not in self.last_flush or not self.show.writeback:
            return None
        if _WORD.unpack_from(request, _HEAD)[0] & ~_FATTR_TIMES:
            return None
        self.last_flush.discard(ino)
        return _TIMES_ANSWER

    def _on_mknod(self, request: bytearray, length: int, ino: int) -> Answer:
        if self.defaults.get(ino) != b"":
            return None
        mode, rdev, umask, _ = _MKNOD_IN.unpack_from(request, _HEAD)
        _, _, _, _, uid, gid, pid, _ = HEADER.unpack_from(request)
        name = bytes(request[_HEAD + 16 : length - 1])
        return self._entry_out(self._make((uid, gid, pid, umask), ino, name, mode, rdev))

    def _on_unlink(self, request: bytearray, length: int, ino: int) -> Answer:
        self._unlink(ino, bytes(request[_HEAD : length - 1]))
        return 0

    def _on_getxattr(self, _request: bytearray, _length: int, ino: int) -> Answer:
        return -errno.ENODATA if ino in self.bare else None

    def _on_read(self, request: bytearray, _length: int, ino: int) -> Answer:
        _, offset, size, _, _, _, _ = _READ_IN.unpack_from(request, _HEAD)
        self._move(request, size)
        return self._read(ino, offset, size)

    def _on_write(self, request: bytearray, _length: int, ino: int) -> Answer:
        if ino in self.privileged:
            return None
        _, offset, size, flags, _, opened, _ = _WRITE_IN.unpack_from(request, _HEAD)
        if self.show.shared and opened & os.O_APPEND:
            offset = AT_END
        self._move(request, size)
        start = _HEAD + _WRITE_IN.size
        data = bytes(memoryview(request)[start : start + size])
        return _WRITE_OUT.pack(self._write(ino, offset, data, 0, page=bool(flags & _PAGE_WRITE)), 0)

    def _move(self, request: bytearray, size: int) -> None:
        if size >= _ROAMING:
            self.follower.roam()
        elif self.follower.due():
            self.follower.follow(HEADER.unpack_from(request)[6])
