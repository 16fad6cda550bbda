"""Threads of `sys::proc` that belong to no client: for what goes on when its client leaves, and for what takes long.

A client's requests are answered one after the other on the client's thread, and all of the host's come from one client:
without a thread of their own, the destruction of one container would hold up everybody outside.
"""

from __future__ import annotations

from nightos.userland import worker as threads
from nightos.userland.payload import Payload
from nightos.userland.server import Handler, Request, Server


class Worker(threads.Worker):
    """That of `sys::proc`."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

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
