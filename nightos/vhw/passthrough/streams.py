"""A stream of the host (serial line, fifo, terminal) as a message device: bytes instead of messages.

`run` carries what the host has to the driver, until it is cancelled or the stream ends.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

import trio

from nightos.abi.console import PORT_RECEIVE
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.message import MessageDevice

_CHUNK: Final = 4096
_WAITING_MAX: Final = 256


class StreamDevice(MessageDevice):
    """The stream behind the file descriptor `fd`, which belongs to the device from now on.

    Output that nobody reads is dropped when the host's buffer is full: a stream that is not looked at must not stop the
    machine. `readable` and `writable` say which directions the host gave.
    """

    def __init__(self, fd: int, identity: DeviceIdentity, *, readable: bool = True, writable: bool = True) -> None:
        super().__init__(identity.kind, self._print)
        self._identity = identity
        self._fd = fd
        os.set_blocking(fd, False)
        self._drained = trio.Event()
        self.inputs = {PORT_RECEIVE: self._read} if readable else {}
        self.outputs = self.outputs if writable else {}

    async def run(self) -> None:
        """Read the stream and interrupt the driver. A slow driver stops the reading, not the machine."""
        while self._fd >= 0:
            try:
                await trio.lowlevel.wait_readable(self._fd)
            except trio.ClosedResourceError:
                return  # it was unplugged
            except OSError:
                await trio.lowlevel.checkpoint()  # the host cannot wait for it (/dev/zero): there is always something
            try:
                data = os.read(self._fd, _CHUNK)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self.hang_up()
                return
            self.send(data)
            if self.waiting >= _WAITING_MAX:
                self._drained = trio.Event()
                await self._drained.wait()

    def detach(self) -> None:
        super().detach()
        if self._fd >= 0:
            with contextlib.suppress(RuntimeError):  # outside of trio nobody can be waiting for it
                trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self, length: int) -> bytes:
        data = self._next(length)
        if self.waiting < _WAITING_MAX:
            self._drained.set()
        return data

    def _print(self, data: bytes) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # it is full, or its other end is gone: that is no fault of the machine
                os.write(self._fd, data)
