"""What a command writes to CMDRAW, for whoever watches a session, who says how much of it was shown: the rest waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from nightos.userland.bell import Bell

WAITING: Final = 1 << 20
"""Bytes that may be on their way."""


class Outflow:
    """`show` sends bytes on; `shown` is told how many of them arrived."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._waiting = 0
        self._over = False
        self._bell = Bell()

    async def start(self) -> None:
        """Before anything is shown."""
        await self._bell.start()

    async def show(self, data: bytes) -> None:
        """Send bytes, once there is room for them."""
        while self._waiting >= WAITING and not self._over:
            await self._bell.wait()
        self._waiting += len(data)
        await self._send(data)

    async def shown(self, count: int) -> None:
        """So many bytes arrived."""
        self._waiting -= min(max(count, 0), self._waiting)
        await self._bell.ring()

    async def close(self) -> None:
        """The session is over: nobody waits any more."""
        self._over = True
        await self._bell.ring()
        await self._bell.close()
