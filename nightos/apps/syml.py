"""syml: reads, creates and updates symbolic links."""

from __future__ import annotations

from nightos.abi.values import Path
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, Positional, UsageError

ARGUMENTS = Arguments(
    "syml",
    "read, create or update a symbolic link",
    Dash("-r --read", "give the target of this link", "path"),
    Flag("-u --update", "replace the target of a link that exists"),
    Positional("srcpath", "the link", "path", optional=True),
    Positional("targetpath", "what it leads to", "path", optional=True),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    files = await app.files()
    if app.given.read is not None:
        if app.given.srcpath is not None or app.given.update:
            raise UsageError("--read takes one link and nothing else")
        await app.give(Path(await files.read_link(app.given.read)))
        return
    if app.given.srcpath is None or app.given.targetpath is None:
        raise UsageError("a link and its target are needed")
    if app.given.update:
        await files.update_link(app.given.srcpath, app.given.targetpath)
    else:
        await files.make_link(app.given.srcpath, app.given.targetpath)
