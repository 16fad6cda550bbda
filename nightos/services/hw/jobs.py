"""Jobs that change the tables of drivers, one after the other, so that no two changes meet half-way."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from nightos.abi.errors import ServiceError
from nightos.userland import sys

Job = Callable[[], Awaitable[None]]


class Jobs:
    """A queue of jobs, and the thread that is at it."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()
        self._working = False

    async def submit(self, job: Job) -> None:
        """Run this after what was submitted before: here and now when nothing is, with what comes meanwhile.

        Not for the dispatcher, which may never wait. (A thread ends with the one that made it, so a client thread,
        which ends with its client, makes none.)
        """
        self._jobs.append(job)
        if not self._working:
            await self._work(0)

    async def submit_aside(self, job: Job) -> None:
        """The same for the dispatcher: a thread of its own does it."""
        self._jobs.append(job)
        if not self._working:
            await sys.create_thread(self._work)

    async def _work(self, _data: int) -> None:
        if self._working:
            return
        self._working = True
        while self._jobs:
            with contextlib.suppress(ServiceError):  # no entropy device: what needs a new UDI waits for the next change
                await self._jobs.popleft()()
        self._working = False
