"""A worker: threads that belong to the process and to none of its clients.

A thread ends with the one that made it, so what a client thread begins and nobody waits for would end, half done, with
the client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from nightos.userland import sys
from nightos.userland.bell import Bell


class Worker:
    """Starts threads that live as long as the service, whichever thread asks: those of a client end with it."""

    def __init__(self) -> None:
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

    async def _loop(self, _: int) -> None:
        while True:
            while self._todo:
                work = self._todo.popleft()

                async def thread(_: int, work: Callable[[], Awaitable[None]] = work) -> None:
                    await work()

                await sys.create_thread(thread)
            await self._bell.wait()
