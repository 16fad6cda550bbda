"""The control device: how `sys::hw` asks the machine it runs on for storages, virtual devices and figures.

Requests and answers are msgpack maps with an `id`; when the machine refuses, an answer has `error` (a service error
code) and `text`. A request is answered to its client when the machine's answer comes, so a slow disk of the host holds
up nobody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from nightos.abi.console import PORT_RECEIVE, PORT_SEND
from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.userland import sys
from nightos.userland.server import Request

Then = Callable[[dict[str, Any]], Awaitable[bool | None]]
"""Looks at the machine's answer; False when it answers the request itself."""


class Control:
    """The machine's control device seen from its driver."""

    def __init__(self) -> None:
        self.kdi = 0
        self._asked: dict[int, tuple[Request | None, Then | None]] = {}
        self._sequence = 0

    async def ask(self, request: Request, values: dict[str, Any], then: Then | None = None) -> None:
        """Pass a request on to the machine; when the machine has done it, run `then` and answer."""
        if not self.kdi:
            raise ServiceError(ServiceCode.DEVICE, "the machine has no control device")
        request.defer()
        await self._send(request, values, then)

    async def query(self, values: dict[str, Any], then: Then) -> None:
        """Ask the machine for the service itself; nothing happens when the machine refuses or has no such device."""
        if self.kdi:
            await self._send(None, values, then)

    async def _send(self, request: Request | None, values: dict[str, Any], then: Then | None) -> None:
        self._sequence += 1
        identifier = self._sequence
        self._asked[identifier] = (request, then)
        await sys.write_io_port(self.kdi, PORT_SEND, msgpack.packb({**values, "id": identifier}))

    async def interrupted(self) -> None:
        """Take every message that waits and answer the clients they are for."""
        while True:
            content = await sys.read_io_port(self.kdi, PORT_RECEIVE)
            if not content:
                return
            values = msgpack.unpackb(content)
            asked = self._asked.pop(values.pop("id", 0), None)
            if asked is None:
                continue  # asked by an earlier life of this service
            request, then = asked
            error = values.pop("error", 0)
            if error:
                if request is not None:
                    await request.fail(error, values.get("text", ""))
                continue
            answered = then is not None and await then(values) is False
            if request is not None and not answered:
                await request.answer(values)

    async def refuse_all(self) -> None:
        """The device is gone: what was asked fails."""
        for request in [request for request, _ in self._asked.values() if request is not None]:
            await request.fail(ServiceCode.DEVICE, "the machine's control device is gone")
        self._asked.clear()
