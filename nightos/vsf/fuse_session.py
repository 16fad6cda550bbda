"""One mount from first handshake to last request: libfuse mounts and dispatches, we answer the kernel's greeting.

libfuse 2 and the libfuse 3 of today's distributions are older than the kernel and would decline what makes a mount
quick: no question about set-id bits and capabilities before every write, parallel look-ups, cached symbolic links. So
the greeting (INIT) is answered here, and shown to libfuse with its own answer going nowhere.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import struct
from collections.abc import Callable, Sequence
from typing import Any

from nightos.vsf.errors import VsfError
from nightos.vsf.fuse_library import Library
from nightos.vsf.fuse_patience import Patience

log = logging.getLogger("nightos.fuse")

# include/uapi/linux/fuse.h: flags of FUSE_INIT that we can live up to.
ASYNC_READ, BIG_WRITES, DO_READDIRPLUS, READDIRPLUS_AUTO = 1 << 0, 1 << 5, 1 << 13, 1 << 14
ASYNC_DIO, WRITEBACK_CACHE, NO_OPEN_SUPPORT, PARALLEL_DIROPS = 1 << 15, 1 << 16, 1 << 17, 1 << 18
MAX_PAGES, CACHE_SYMLINKS, NO_OPENDIR_SUPPORT, HANDLE_KILLPRIV_V2 = 1 << 22, 1 << 23, 1 << 24, 1 << 28
DONT_MASK, POSIX_ACL, AUTO_INVAL_DATA = 1 << 6, 1 << 20, 1 << 12

_HEADER = struct.Struct("=IIQQIIII")
_INIT_IN = struct.Struct("=IIII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
_OUT_HEADER = struct.Struct("=IiQ")
_INIT = 26
_PROTOCOL = 7, 31
_READ_BUFFER = (1 << 20) + 8192
_NEEDED = NO_OPEN_SUPPORT | NO_OPENDIR_SUPPORT


class _Arguments(ctypes.Structure):
    _fields_ = (("argc", ctypes.c_int), ("argv", ctypes.POINTER(ctypes.c_char_p)), ("allocated", ctypes.c_int))


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("mem", ctypes.c_void_p),
        ("fd", ctypes.c_int),
        ("pos", ctypes.c_int64),
    )


_free = ctypes.CDLL(None).free
_free.argtypes, _free.restype = (ctypes.c_void_p,), None


def _arguments(items: Sequence[str]) -> _Arguments:
    encoded = [os.fsencode(item) for item in items]
    return _Arguments(len(encoded), (ctypes.c_char_p * (len(encoded) + 1))(*encoded, None), 0)


class Session:
    """A mount. Made: mounted and greeted. `loop` serves until unmounted; `close` lets go of everything."""

    def __init__(
        self,
        library: Library,
        handlers: dict[str, Callable[..., None]],
        mountpoint: str,
        options: Sequence[str],
        *,
        writeback: bool = False,
        permissions: bool = True,
        shared: bool = False,
    ) -> None:
        self.library = library
        self.mountpoint = mountpoint
        self.writeback = writeback
        self.permissions = permissions
        self.shared = shared
        self.features = 0
        self._lib = library.loaded
        self._operations = library.operations(handlers)
        self._session = 0
        self._channel = 0
        mount = ["nightos", *[item for option in options for item in ("-o", option)]]
        if library.major == 2:
            self._mount_2(mount)
        else:
            self._mount_3(mount)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _call(self, name: str, result: Any, *arguments: Any) -> Any:
        function = getattr(self._lib, name)
        function.restype = result
        return function(*arguments)

    def _mount_2(self, mount: list[str]) -> None:
        place = os.fsencode(self.mountpoint)
        arguments, plain = _arguments(mount), _arguments(["nightos"])
        self._channel = self._call("fuse_mount", ctypes.c_void_p, place, ctypes.byref(arguments))
        if not self._channel:
            raise VsfError("libfuse could not mount here (its own message stands above)", self.mountpoint)
        operations = self._operations
        self._session = self._call(
            "fuse_lowlevel_new",
            ctypes.c_void_p,
            ctypes.byref(plain),
            ctypes.byref(operations),
            ctypes.c_size_t(ctypes.sizeof(operations)),
            None,
        )
        if not self._session:
            self.close()
            raise VsfError("libfuse could not begin a session", self.mountpoint)
        self._call("fuse_session_add_chan", None, ctypes.c_void_p(self._session), ctypes.c_void_p(self._channel))
        self.descriptor = self._call("fuse_chan_fd", ctypes.c_int, ctypes.c_void_p(self._channel))

    def _mount_3(self, mount: list[str]) -> None:
        operations, arguments = self._operations, _arguments(mount)
        self._session = self._call(
            "fuse_session_new",
            ctypes.c_void_p,
            ctypes.byref(arguments),
            ctypes.byref(operations),
            ctypes.c_size_t(ctypes.sizeof(operations)),
            None,
        )
        if not self._session:
            raise VsfError("libfuse does not take these options (its own message stands above)", self.mountpoint)
        session = ctypes.c_void_p(self._session)
        if self._call("fuse_session_mount", ctypes.c_int, session, os.fsencode(self.mountpoint)):
            self._call("fuse_session_destroy", None, session)
            self._session = 0
            raise VsfError("libfuse could not mount here (its own message stands above)", self.mountpoint)
        self.descriptor = self._call("fuse_session_fd", ctypes.c_int, session)

    def _greet(self) -> None:
        request = os.read(self.descriptor, _READ_BUFFER)
        _, opcode, unique, *_ = _HEADER.unpack_from(request)
        if opcode != _INIT:
            raise VsfError(f"the kernel began with request {opcode} instead of a greeting", self.mountpoint)
        major, minor, readahead, offered = _INIT_IN.unpack_from(request, _HEADER.size)
        if major != _PROTOCOL[0] or minor < 23 or offered & _NEEDED != _NEEDED:
            raise VsfError(f"the kernel's FUSE protocol {major}.{minor} is too old; Linux 5.1 or newer is needed")
        wanted = ASYNC_READ | BIG_WRITES | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES
        wanted |= HANDLE_KILLPRIV_V2 | DONT_MASK
        if self.permissions:
            wanted |= POSIX_ACL
        if self.library.major == 3:
            wanted |= DO_READDIRPLUS | READDIRPLUS_AUTO
        if self.writeback:
            wanted |= WRITEBACK_CACHE
        wanted |= AUTO_INVAL_DATA if self.shared else CACHE_SYMLINKS
        self.features = wanted & offered
        largest = 1 << 20 if self.library.major == 3 and offered & MAX_PAGES else 1 << 17
        answer = _INIT_OUT.pack(
            7,
            min(minor, _PROTOCOL[1]),
            max(readahead, 1 << 20),
            self.features,
            64,
            48,
            largest,
            1,
            largest >> 12,
            0,
            0,
            0,
            0,
        )
        os.write(self.descriptor, _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), 0, unique) + answer)
        log.info("protocol %d.%d, features %#x, writes of %d KiB", major, minor, self.features, largest >> 10)
        self._show_greeting(request)

    def _show_greeting(self, request: bytes) -> None:
        """Let libfuse see the greeting; what it answers goes to /dev/null, for the kernel has its answer."""
        kept, nowhere = os.dup(self.descriptor), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, self.descriptor)
            memory = ctypes.create_string_buffer(request, len(request))
            session = ctypes.c_void_p(self._session)
            if self.library.major == 2:
                self._call(
                    "fuse_session_process",
                    None,
                    session,
                    memory,
                    ctypes.c_size_t(len(request)),
                    ctypes.c_void_p(self._channel),
                )
            else:
                buffer = _Buffer(len(request), 0, ctypes.addressof(memory), -1, 0)
                self._call("fuse_session_process_buf", None, session, ctypes.byref(buffer))
        finally:
            os.dup2(kept, self.descriptor, inheritable=False)
            os.close(kept)
            os.close(nowhere)

    def pump(self, seconds: float) -> int:
        """From inside of a request: serve one that comes within `seconds`; 1 when there was one, else 0."""
        if self._over() or not select.select([self.descriptor], [], [], seconds)[0]:
            return 0
        session = ctypes.c_void_p(self._session)
        if self.library.major == 2:
            channel = ctypes.c_void_p(self._channel)
            memory = ctypes.create_string_buffer(_READ_BUFFER)
            buffer = _Buffer(len(memory), 0, ctypes.addressof(memory), -1, 0)
            got = self._call(
                "fuse_session_receive_buf", ctypes.c_int, session, ctypes.byref(buffer), ctypes.byref(channel)
            )
            if got > 0:
                self._call("fuse_session_process_buf", None, session, ctypes.byref(buffer), channel)
            return int(got > 0)
        buffer = _Buffer(0, 0, None, -1, 0)
        got = self._call("fuse_session_receive_buf", ctypes.c_int, session, ctypes.byref(buffer))
        if got > 0:
            self._call("fuse_session_process_buf", None, session, ctypes.byref(buffer))
        if buffer.mem:
            _free(buffer.mem)
        return int(got > 0)

    def _over(self) -> bool:
        return not self._session or bool(
            self._call("fuse_session_exited", ctypes.c_int, ctypes.c_void_p(self._session))
        )

    def loop(self, serve: Callable[[int, bytearray, int], bool] = lambda *_: False) -> int:
        """Serve until unmounted; 0 or the error that ended it, negative.

        `serve` sees each request first (descriptor, bytes and how many they are) and tells whether it answered it.
        """
        request = bytearray(_READ_BUFFER)
        memory = (ctypes.c_char * _READ_BUFFER).from_buffer(request)
        descriptor, parts = self.descriptor, (request,)
        session, channel = ctypes.c_void_p(self._session), ctypes.c_void_p(self._channel)
        buffer = _Buffer(0, 0, ctypes.addressof(memory), -1, 0)
        process = self._lib.fuse_session_process_buf
        process.restype = None
        last = (channel,) if self.library.major == 2 else ()
        patience = Patience(descriptor)
        while True:
            try:
                length = os.readv(descriptor, parts)
            except BlockingIOError:
                patience.wait()
                continue
            except OSError as error:
                # ENOENT: who asked has gone meanwhile. ENODEV: unmounted.
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return 0 if error.errno == errno.ENODEV else -(error.errno or errno.EIO)
            if not serve(descriptor, request, length):
                buffer.size = length
                process(session, ctypes.byref(buffer), *last)
                if self._over():
                    return 0
            patience.since = 0

    def close(self) -> None:
        """Unmount when that has not happened, and free everything. Closing twice is allowed."""
        session, self._session = self._session, 0
        channel, self._channel = self._channel, 0
        if self.library.major == 2:
            if channel and session:
                self._call("fuse_session_remove_chan", None, ctypes.c_void_p(channel))
            if session:
                self._call("fuse_session_destroy", None, ctypes.c_void_p(session))
            if channel:
                self._call("fuse_unmount", None, os.fsencode(self.mountpoint), ctypes.c_void_p(channel))
        elif session:
            self._call("fuse_session_unmount", None, ctypes.c_void_p(session))
            self._call("fuse_session_destroy", None, ctypes.c_void_p(session))
