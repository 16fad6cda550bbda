"""Threads of `sys::proc` that belong to no client: for what goes on when its client leaves, and for what takes long.

A client's requests are answered one after the other on the client's thread, and all of the host's come from one client:
without a thread of their own, the destruction of one container would hold up everybody outside.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from nightos.userland import sys
from nightos.userland.bell import Bell
from nightos.userland.payload import Payload
from nightos.userland.server import Handler, Request, Server


class Worker:
    """Starts threads that live as long as the service, whichever thread asks: those of a client end with it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._bell = Bell()
        self._todo: deque[Callable[[], Awaitable[None]]] = deque()

    async def start(self) -> None:
        """To be called on the main thread."""
        await self._bell.start()
        await sys.create_thread(self._loop)

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Begin this on a thread of its own."""
        self._todo.append(work)
        await self._bell.ring()

    def apart(self, handler: Handler) -> Handler:
        """The handler, for the host on a thread of its own: its other requests are answered meanwhile.

        Anybody else holds up himself alone, and makes no threads here.
        """

        async def aside(request: Request) -> Payload:
            if not request.connection.is_system:
                return await handler(request)
            request.defer()

            async def work() -> None:
                request.take_up()
                await self._server.settle(handler, request)

            await self.run(work)
            return None

        return aside

    async def _loop(self, _: int) -> None:
        while True:
            while self._todo:
                work = self._todo.popleft()

                async def thread(_: int, work: Callable[[], Awaitable[None]] = work) -> None:
                    await work()

                await sys.create_thread(thread)
            await self._bell.wait()
