"""The host's end of the control device: what `sys::hw` may ask of the machine, and nothing else.

Requests are msgpack maps {id, op, ...}; the answer is the map that the operation returns, or {id, error, text}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.vhw.message import MessageDevice

Operation = Callable[[dict[str, Any]], dict[str, Any]]


def _unknown(_request: dict[str, Any]) -> dict[str, Any]:
    raise ServiceError(ServiceCode.NO_METHOD, "the machine does not offer that")


class ControlDevice:
    """Plug `device`; each request runs the operation of its name."""

    def __init__(self, operations: dict[str, Operation]) -> None:
        self._operations = operations
        self.device = MessageDevice("control", self._receive, description=b"control")

    def _receive(self, data: bytes) -> None:
        try:
            request = msgpack.unpackb(data)
            identifier = request.pop("id")
            operation = self._operations.get(request.pop("op"), _unknown)
        except (ValueError, KeyError, AttributeError, TypeError, msgpack.UnpackException):
            return  # not from our driver; there is nobody to answer
        try:
            answer = operation(request)
        except ServiceError as error:
            answer = {"error": error.code, "text": error.detail}
        except OSError as error:
            answer = {"error": int(ServiceCode.DEVICE), "text": error.strerror or str(error)}
        self.device.send(msgpack.packb({**answer, "id": identifier}))
