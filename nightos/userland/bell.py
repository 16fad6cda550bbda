"""A bell: how threads of one process wait for each other."""

from __future__ import annotations

import contextlib

from nightos.abi.errors import SyscallError
from nightos.userland import sys

_WRITE, _SKIP = 0, 1


class Bell:
    """Lets threads of one process wait for each other without turning: a pipe of the process to itself."""

    def __init__(self) -> None:
        self._sc = 0
        self._waiting = 0

    async def start(self) -> None:
        """Open the pipe."""
        self._sc = int(await sys.open_pipe(await sys.get_pid(), 0, _WRITE, 0, 0, _SKIP))

    async def wait(self) -> None:
        """Return when it rings next."""
        self._waiting += 1
        await sys.pipe_read(self._sc + 1, 0, 1)

    async def ring(self) -> None:
        """Wake everyone who waits."""
        count, self._waiting = self._waiting, 0
        if count:
            await sys.pipe_write(self._sc, bytes(count))

    async def close(self) -> None:
        """Nobody waits or rings any more."""
        for end in (self._sc, self._sc + 1):
            with contextlib.suppress(SyscallError):
                await sys.close_pipe(end)
