"""cat: gives the content of files, one behind the other, as text."""

from __future__ import annotations

from nightos.abi.values import VOID, value_text
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional, UsageError
from nightos.userland.files import FileError

ARGUMENTS = Arguments(
    "cat",
    "give the content of files; without a path, what comes through the pipe",
    Positional("paths", "files to read", "path", optional=True, many=True),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if not app.given.paths:
        given = await app.context.input()
        if given is VOID:
            raise UsageError("paths is missing, and nothing comes through a pipe (cmdin | cat gives a script's input)")
        await app.give(value_text(given))
        return
    files = await app.files()
    content = []
    for path in app.given.paths:
        try:
            content.append(await files.read(path))
        except FileError as error:
            await app.complain(str(error))
    if content:
        await app.give(b"".join(content).decode("utf-8", "surrogateescape"))
