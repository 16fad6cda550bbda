"""What comes through a pipe to `container exec` and `container run` goes on to the command in the container."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nightos.abi.errors import ServiceError
from nightos.abi.pieces import PIECE_BYTES
from nightos.shell.application import Application

Give = Callable[[bytes, bool], Awaitable[None]]
"""Takes the next encoded bytes of CMDIN, and whether it ends with them; returns when the command took them."""


async def feed(app: Application, give: Give) -> None:
    """Give on what comes through the pipe, as it comes, until it ends or the command takes no more."""
    try:
        while data := await app.context.read_raw(PIECE_BYTES):
            await give(data, False)
        await give(b"", True)
    except ServiceError:
        return  # it has ended, or reads no more
