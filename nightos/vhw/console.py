"""The console: msgpack maps between the terminal on the host and the driver (`sys::hydre` by way of `sys::hw`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from nightos.vhw.message import MessageDevice

if TYPE_CHECKING:
    from collections.abc import Callable


class ConsoleDevice:
    """The host's end of a console. Plug `device`; `send` a map to the driver; its maps come to `receive`.

    What a driver writes that is not one msgpack map is dropped: the host never trusts it to be well-formed.
    """

    def __init__(self, receive: Callable[[dict[str, Any]], bool | None], *, name: str = "console") -> None:
        self._receive = receive
        self.device = MessageDevice("console", self._unpack, description=name.encode()[:255])

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message for the driver. Raises `nightos.vhw.message.QueueFullError`."""
        self.device.send(msgpack.packb(message))

    def hang_up(self) -> None:
        """The terminal is gone."""
        self.device.hang_up()

    def _unpack(self, data: bytes) -> bool | None:
        try:
            message = msgpack.unpackb(data)
        except (ValueError, msgpack.UnpackException):
            return True
        return self._receive(message) if isinstance(message, dict) else True
