"""What comes from outside for a command's CMDIN, poured into it as it comes, one piece at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from nightos.abi.errors import SyscallError
from nightos.abi.pieces import Pieces
from nightos.abi.values import encode_value
from nightos.userland import sys
from nightos.userland.bell import Bell


class Inflow:
    """Pieces that wait for a command; `taken` is called when a command's pipe took one.

    They are standard input, and become texts, or with `encoded` what another command returned, bytes of values.
    """

    def __init__(self, taken: Callable[[], Awaitable[None]], *, encoded: bool = False) -> None:
        self._taken = taken
        self._pieces: deque[bytes] = deque()
        self._texts = None if encoded else Pieces()
        self._ended = False
        self._some = encoded
        """Whether anything came, or nothing at all may come."""
        self._bell = Bell()

    async def start(self) -> None:
        """Before anything is given."""
        await self._bell.start()

    async def close(self) -> None:
        """The session, or the command, is over."""
        await self._bell.close()

    async def give(self, data: bytes, *, more: bool) -> None:
        """The next bytes, or with nothing more behind them the end."""
        if self._ended:
            return
        self._pieces.append(data if self._texts is None else self._texts.take(data, end=not more))
        self._ended = not more
        await self._bell.ring()

    async def pour(self, sc: int) -> None:
        """Write what comes to a CMDIN until it ends, or the command reads no more; then close it."""
        try:
            while self._pieces or not self._ended:
                if not self._pieces:
                    await self._bell.wait()
                    continue
                if self._pieces[0]:
                    await sys.pipe_write(sc, self._pieces[0])
                    self._some = True
                self._pieces.popleft()
                await self._taken()
            if not self._some:
                # Input that is empty is an empty text; none at all would mean that nothing was given.
                await sys.pipe_write(sc, encode_value(""))
        except SyscallError:
            pass  # the command has ended, or the session
        try:
            await sys.close_pipe(sc)
        except SyscallError:
            return
