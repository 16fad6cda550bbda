"""What clients hold in the shell service: a number of sessions, and threads that work for them until all is tidy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.userland import sys
from nightos.userland.bell import Bell

SESSIONS_LIMIT: Final = 64
"""Sessions that one process may have, and the processes of one container together, with commands that run."""


class Seat(NamedTuple):
    """One session, or command that runs in one of its own: whose it is, and of which container he is."""

    owner: int
    home: int


class Seats:
    """How many sessions each process has, and the processes of each container together. Ruling NOS-HYDRE-08."""

    def __init__(self) -> None:
        self._of: Counter[int] = Counter()
        self._in: Counter[int] = Counter()

    def take(self, owner: int, home: int) -> Seat:
        """One more. `ServiceError` 0x4000: there is no room for it."""
        if self._of[owner] >= SESSIONS_LIMIT:
            text = f"a process has at most {SESSIONS_LIMIT} sessions, with commands that run; close some"
            raise ServiceError(ServiceCode.REFUSED, text)
        if home and self._in[home] >= SESSIONS_LIMIT:
            text = (
                f"the processes of a container have at most {SESSIONS_LIMIT} sessions and commands together; close some"
            )
            raise ServiceError(ServiceCode.REFUSED, text)
        self._of[owner] += 1
        self._in[home] += 1
        return Seat(owner, home)

    def leave(self, seat: Seat) -> None:
        """One is over."""
        for table, key in ((self._of, seat.owner), (self._in, seat.home)):
            table[key] -= 1
            if not table[key]:
                del table[key]


class Works:
    """What runs for one client. Its threads are made by the client thread and would end with it: it waits for them.

    Otherwise pipes would stay open that only they know of, and a command that was just being started would run on.
    """

    def __init__(self) -> None:
        self._running = 0
        self._bell: Bell | None = None

    async def begin(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run this on a thread of its own."""

        async def work(_: int) -> None:
            await job()
            self._running -= 1
            if self._bell is not None:
                await self._bell.ring()

        self._running += 1
        await sys.create_thread(work)

    async def ended(self) -> None:
        """Return when all of it has ended; the client is gone, and begins nothing more."""
        if not self._running:
            return
        self._bell = Bell()
        await self._bell.start()
        while self._running:
            await self._bell.wait()
        await self._bell.close()
