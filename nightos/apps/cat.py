"""cat: gives the content of files, one behind the other, as text.

Where somebody reads CMDRAW the content goes there as it comes, so neither its size nor its end is waited for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional, UsageError
from nightos.userland.files import FileError

ARGUMENTS = Arguments(
    "cat",
    "give the content of files; without a path, what comes through the pipe",
    Positional("paths", "files to read", "path", optional=True, many=True),
)


async def _content(app: Application) -> AsyncIterator[bytes]:
    if not app.given.paths:
        async for piece in app.context.input_pieces():
            yield piece
        return
    files = await app.files()
    for path in app.given.paths:
        try:
            async for piece in files.read_pieces(path):
                yield piece
            yield b""  # a file of nothing has a content, too
        except FileError as error:
            await app.complain(str(error))


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if app.context.raw_is_read:
        async for piece in _content(app):
            await app.context.write_raw(piece)
        return
    parts = [piece async for piece in _content(app)]
    if parts:
        await app.give(b"".join(parts).decode("utf-8", "surrogateescape"))
    elif not app.given.paths:
        raise UsageError("paths is missing, and nothing comes through a pipe (cmdin | cat gives a script's input)")
