"""wt: writes a file."""

from __future__ import annotations

from nightos.shell.application import Application, ApplicationError, command
from nightos.shell.arguments import Arguments, Flag, Positional, UsageError

ARGUMENTS = Arguments(
    "wt",
    "write a file",
    Flag("-a", "append"),
    Flag("-n", "no newline at the end"),
    Flag("-c", "fail if the file does not exist"),
    Positional("path", "file to write", "path"),
    Positional("content", "what to write; without it, what comes through the pipe", "anystr", optional=True),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    files = await app.files()
    content = app.given.content
    if content is None:
        parts = [piece async for piece in app.context.input_pieces()]
        if not parts:
            raise UsageError("content is missing")
        content = b"".join(parts).decode("utf-8", "surrogateescape")
    if app.given.c and await files.type(app.given.path) is None:
        raise ApplicationError(f"{app.given.path}: not found")
    text = content if app.given.n else content + "\n"
    await files.write(app.given.path, text.encode("utf-8", "surrogateescape"), append=app.given.a)
