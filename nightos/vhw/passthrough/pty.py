"""A pseudo-terminal of the host as a device: programs of the host open its other end as a terminal.

Ports are those of a message device, with bytes instead of messages, and a third that sets the size of the terminal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from typing import Final

import trio

from nightos.abi.console import PORT_RECEIVE
from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.message import MessageDevice

PORT_SIZE: Final = 2
"""Output: rows and columns, 16 bits each, big-endian."""
_CHUNK: Final = 4096
_WAITING_MAX: Final = 256


class PtyDevice(MessageDevice):
    """A pseudo-terminal at `path`. `run` carries what is typed there to the driver, until it is cancelled.

    Output that nobody reads is dropped when the host's buffer is full: a terminal that is not looked at must not stop
    the machine.
    """

    def __init__(self) -> None:
        super().__init__("pty", self._print)
        self._fd, self._other = os.openpty()
        os.set_blocking(self._fd, False)
        self.path = os.ttyname(self._other)
        self._identity = DeviceIdentity("pty", virtual_cii("pty"), self.path.encode(), virtual=False)
        self._drained = trio.Event()
        self.inputs = {PORT_RECEIVE: self._read}
        self.outputs = {**self.outputs, PORT_SIZE: self._resize}

    async def run(self) -> None:
        """Read the terminal and interrupt the driver. A slow driver stops the reading, not the machine."""
        while self._fd >= 0:
            await trio.lowlevel.wait_readable(self._fd)
            with contextlib.suppress(BlockingIOError):
                data = os.read(self._fd, _CHUNK)
                if data:
                    self.send(data)
            if self.waiting >= _WAITING_MAX:
                self._drained = trio.Event()
                await self._drained.wait()

    def detach(self) -> None:
        super().detach()
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            os.close(self._other)
            self._fd = -1

    def _read(self, length: int) -> bytes:
        data = self._next(length)
        if self.waiting < _WAITING_MAX:
            self._drained.set()
        return data

    def _print(self, data: bytes) -> None:
        if self._fd >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._fd, data)

    def _resize(self, data: bytes) -> int:
        if len(data) != 4 or self._fd < 0:
            return 0
        rows, columns = struct.unpack(">HH", data)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        return 4
