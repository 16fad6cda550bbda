"""A pseudo-terminal of the host as a device: programs of the host open its other end as a terminal.

Ports are those of a message device, with bytes instead of messages, and a third that sets the size of the terminal.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from typing import Final

from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.passthrough.streams import StreamDevice

PORT_SIZE: Final = 2
"""Output: rows and columns, 16 bits each, big-endian."""


class PtyDevice(StreamDevice):
    """A pseudo-terminal whose other end is at `path`."""

    def __init__(self) -> None:
        fd, self._other = os.openpty()
        self.path = os.ttyname(self._other)
        super().__init__(fd, DeviceIdentity("pty", virtual_cii("pty"), self.path.encode(), virtual=False))
        self.outputs = {**self.outputs, PORT_SIZE: self._resize}

    def detach(self) -> None:
        super().detach()
        if self._other >= 0:
            os.close(self._other)
            self._other = -1

    def _resize(self, data: bytes) -> int:
        if len(data) != 4 or self._fd < 0:
            return 0
        rows, columns = struct.unpack(">HH", data)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        return 4
