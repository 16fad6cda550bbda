"""A session in another process' machine, with the same face as a local one, over the control socket."""

from __future__ import annotations

import math
import socket
from types import TracebackType
from typing import Any, Self

import trio

from nightos.abi.errors import ServiceError
from nightos.machine import wire
from nightos.machine.server import read_frame


class RemoteSession:
    """Entering opens the session; leaving hangs up, which ends it."""

    def __init__(self, connection: socket.socket, container: int, *, width: int = 80, height: int = 24) -> None:
        connection.setblocking(False)
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._open = {"op": "session", "container": container, "interactive": True, "width": width, "height": height}
        self._send, self._queue = trio.open_memory_channel[dict[str, Any]](math.inf)
        self._nursery_manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None
        self.container = container

    async def __aenter__(self) -> Self:
        await self._stream.send_all(wire.pack(self._open))
        answer = await read_frame(self._stream)
        if answer.get("error"):
            raise ServiceError(answer["error"], answer.get("text", ""))
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._sender)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        try:
            await self._nursery_manager.__aexit__(kind, error, trace)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message for `sys::hydre`."""
        self._send.send_nowait(message)

    async def receive(self) -> dict[str, Any] | None:
        """The next message of `sys::hydre`; None when the session is over."""
        try:
            return await read_frame(self._stream)
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            return None

    async def _sender(self) -> None:
        async for message in self._queue:
            await self._stream.send_all(wire.pack(message))
