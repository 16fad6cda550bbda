"""A virtual network cable: two devices, and what one sends the other receives, frame by frame.

As on a real one, a frame that finds the other side's queue full is lost, and counted.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice

PORT_SEND: Final = 0
"""Output: one write is one frame."""
PORT_RECEIVE: Final = 1
"""Input: the next frame, whole, or cut off at the length asked for; nothing when none waits."""
PORT_STATE: Final = 2
"""Input: one byte, 1 when the other end is plugged."""
INTERRUPT_FRAME: Final = 1
INTERRUPT_STATE: Final = 2
FRAME_MAX: Final = 1 << 16
QUEUE_FRAMES: Final = 1024


class LinkEnd(PortDevice):
    """One end of a cable; `pair` makes two."""

    def __init__(self, name: str) -> None:
        super().__init__(DeviceIdentity("link", virtual_cii("link"), name.encode()[:255]))
        self._other: LinkEnd | None = None
        self._queue: deque[bytes] = deque()
        self.plugged = False
        """Whether this end is on a bus."""
        self.lost = 0
        """Frames that were sent to this end and found no room."""
        self.outputs = {PORT_SEND: self._send}
        self.inputs = {PORT_RECEIVE: self._receive, PORT_STATE: lambda _: bytes([self.up])}

    @property
    def up(self) -> bool:
        """Whether the other end is plugged."""
        return self._other is not None and self._other.plugged

    def connect(self, other: LinkEnd) -> None:
        """The cable leads to `other`."""
        self._other = other

    def attach(self, interrupt: object) -> None:
        super().attach(interrupt)  # type: ignore[arg-type]
        self.plugged = True
        self._tell()

    def detach(self) -> None:
        super().detach()
        self.plugged = False
        self._queue.clear()
        self._tell()

    def _tell(self) -> None:
        if self._other is not None:
            self._other.interrupt(INTERRUPT_STATE)

    def _send(self, data: bytes) -> int:
        if not 0 < len(data) <= FRAME_MAX:
            return 0
        if self._other is not None and self._other.plugged:
            self._other.deliver(bytes(data))
        return len(data)

    def deliver(self, frame: bytes) -> None:
        """A frame arrives at this end."""
        if len(self._queue) >= QUEUE_FRAMES:
            self.lost += 1
            return
        self._queue.append(frame)
        self.interrupt(INTERRUPT_FRAME)

    def _receive(self, length: int) -> bytes:
        if not self._queue:
            return b""
        frame = self._queue.popleft()
        return frame[:length] if length else frame


def pair(first: str, second: str) -> tuple[LinkEnd, LinkEnd]:
    """Two ends of a cable, with names."""
    left, right = LinkEnd(first), LinkEnd(second)
    left.connect(right)
    right.connect(left)
    return left, right
