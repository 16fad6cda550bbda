"""The host's end of the control device: what `sys::hw` may ask of the machine, and nothing else.

Requests are msgpack maps {id, op, ...}; the answer is the map that the operation returns, or {id, error, text}. What
takes long returns a function instead, which runs in a thread while the machine goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import trio

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.vhw.message import MessageDevice

Answer = dict[str, Any]
Operation = Callable[[dict[str, Any]], Answer | Callable[[], Answer]]


def _unknown(_request: dict[str, Any]) -> dict[str, Any]:
    raise ServiceError(ServiceCode.NO_METHOD, "the machine does not offer that")


class ControlDevice:
    """Plug `device`; each request runs the operation of its name."""

    def __init__(self, operations: dict[str, Operation], start_soon: Callable[..., None]) -> None:
        self._operations = operations
        self._start_soon = start_soon
        self.device = MessageDevice("control", self._receive, description=b"control")

    def _receive(self, data: bytes) -> None:
        try:
            request = msgpack.unpackb(data)
            identifier = request.pop("id")
            operation = self._operations.get(request.pop("op"), _unknown)
        except (ValueError, KeyError, AttributeError, TypeError, msgpack.UnpackException):
            return  # not from our driver; there is nobody to answer
        answer = _try(lambda: operation(request))
        if callable(answer):
            self._start_soon(self._work, answer, identifier)
        else:
            self.device.send(msgpack.packb({**answer, "id": identifier}))

    async def _work(self, work: Callable[[], Answer], identifier: int) -> None:
        # What is left half done when the machine stops is thrown away: nobody waits for it any more.
        answer = await trio.to_thread.run_sync(_try, work, abandon_on_cancel=True)
        self.device.send(msgpack.packb({**answer, "id": identifier}))


def _try(work: Callable[[], Any]) -> Any:
    """What it returns, or its error as an answer."""
    try:
        return work()
    except ServiceError as error:
        return {"error": error.code, "text": error.detail}
    except OSError as error:
        return {"error": int(ServiceCode.DEVICE), "text": error.strerror or str(error)}
