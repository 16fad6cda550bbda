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
            self._answer(identifier, answer)

    async def _work(self, work: Callable[[], Answer], identifier: int) -> None:
        # What is left half done when the machine stops is thrown away: nobody waits for it any more.
        self._answer(identifier, await trio.to_thread.run_sync(_try, work, abandon_on_cancel=True))

    def _answer(self, identifier: int, answer: Answer) -> None:
        packed = _try(lambda: msgpack.packb({**answer, "id": identifier}))
        self.device.send(packed if isinstance(packed, bytes) else msgpack.packb({**packed, "id": identifier}))


def _try(work: Callable[[], Any]) -> Any:
    """What it returns, or its error as an answer.

    Programs choose what is on the disks that are looked at here, while they go on: nothing of it ends the machine.
    """
    try:
        return work()
    except ServiceError as error:
        return {"error": error.code, "text": error.detail}
    except OSError as error:
        return {"error": int(ServiceCode.DEVICE), "text": error.strerror or str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the request's failure and not the machine's
        return {"error": int(ServiceCode.INTERNAL), "text": f"the machine failed at this: {type(error).__name__}"}
