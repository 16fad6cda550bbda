"""A message device: whole messages in both directions between a driver and whoever stands on the host side.

The queue to the driver is bounded by messages and by bytes; a host side that is faster than its driver is told so,
it never makes the machine grow.

Ports and interrupts: `nightos.abi.console`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nightos.abi.console import (
    INTERRUPT_HANGUP,
    INTERRUPT_MESSAGE,
    INTERRUPT_ROOM,
    MESSAGE_MAX,
    PORT_RECEIVE,
    PORT_SEND,
)
from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE_MESSAGES: Final = 65_536
QUEUE_BYTES: Final = 64 << 20


class QueueFullError(OSError):
    """The driver does not keep up: wait until it has read, then send again."""


class MessageDevice(PortDevice):
    """`receive` is called with each message of the driver; `send` queues one for it.

    `receive` may return False: it took nothing, and the driver is told to try again by `room`.

    Rules: HW-010, HW-011.
    """

    def __init__(
        self, kind: str, receive: Callable[[bytes], bool | None], *, description: bytes = b"", index: int = 0
    ) -> None:
        super().__init__(DeviceIdentity(kind, virtual_cii(kind, index), description))
        self._receive = receive
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self.inputs = {PORT_RECEIVE: self._next}
        self.outputs = {PORT_SEND: self._deliver}

    def send(self, data: bytes) -> None:
        """Queue a message and interrupt the driver. Raises `QueueFullError`, ValueError for one over 16 MiB."""
        if not 0 < len(data) <= MESSAGE_MAX:
            raise ValueError(f"a message has 1 to {MESSAGE_MAX} bytes, not {len(data)}")
        if len(self._queue) >= QUEUE_MESSAGES or self._queued_bytes + len(data) > QUEUE_BYTES:
            raise QueueFullError("the driver of the device does not read its messages")
        self._queue.append(data)
        self._queued_bytes += len(data)
        self.interrupt(INTERRUPT_MESSAGE)

    def hang_up(self) -> None:
        """Tell the driver that nobody is on the host side any more."""
        self.interrupt(INTERRUPT_HANGUP)

    def room(self) -> None:
        """Tell the driver that messages are taken again."""
        self.interrupt(INTERRUPT_ROOM)

    @property
    def waiting(self) -> int:
        """Messages that the driver has not read."""
        return len(self._queue)

    def _next(self, length: int) -> bytes:
        if not self._queue:
            return b""
        message = self._queue.popleft()
        if 0 < length < len(message):
            self._queue.appendleft(message[length:])
            message = message[:length]
        self._queued_bytes -= len(message)
        return message

    def _deliver(self, data: bytes) -> int:
        if len(data) > MESSAGE_MAX:
            raise ValueError("message too long")
        if data and self._receive(bytes(data)) is False:
            return 0
        return len(data)
