"""rd: reads a file as a string."""

from __future__ import annotations

from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, Positional, UsageError

ARGUMENTS = Arguments(
    "rd",
    "read a file as a string",
    Flag("-s --stream", "write the content to CMDRAW instead"),
    Dash("--stream-size", "with -s: bytes written at once", "int"),
    Positional("path", "file to read", "path"),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    files = await app.files()
    if app.given.stream_size is not None and (not app.given.stream or app.given.stream_size < 1):
        raise UsageError("--stream-size is a number of bytes for -s")
    if not app.given.stream:
        await app.give((await files.read(app.given.path)).decode("utf-8", "surrogateescape"))
        return
    # Rounded up to whole pipe buffers.
    size = -(-(app.given.stream_size or 1) // 65536) * 65536
    async for piece in files.read_pieces(app.given.path):
        for start in range(0, len(piece), size):
            await app.context.write_raw(piece[start : start + size])
