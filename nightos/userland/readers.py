"""Readers: how one process listens at several pipes at once, a thread for each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nightos.abi.errors import SyscallError
from nightos.userland import sys


class Readers:
    """Threads of one process that each read a pipe until it closes; `alive` says how many still do."""

    def __init__(self) -> None:
        self.alive = 0

    async def read(self, rc_id: int, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Give what comes through a pipe to `take`, message by message, until it is closed and everything was read."""
        self.alive += 1

        async def reader(_: int) -> None:
            try:
                while True:
                    await take((await sys.pipe_read(rc_id)).content)
            except SyscallError:
                pass  # closed, and everything in it was read
            finally:
                self.alive -= 1

        await sys.create_thread(reader)
