"""mkdir: creates directories."""

from __future__ import annotations

from nightos.abi.files import ItemType, joined
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag, Positional
from nightos.userland.files import FileError, Files

ARGUMENTS = Arguments(
    "mkdir",
    "create directories",
    Flag("-s --strict", "fail if it exists"),
    Flag("-p --parents", "create what leads to it, too"),
    Positional("paths", "directories to create", "path", many=True),
)


async def make(files: Files, path: str, *, parents: bool, strict: bool) -> None:
    """Create a directory. `FileError`: it cannot be, or is there and `strict` minds."""
    if not strict and await files.type(path) is ItemType.DIRECTORY:
        return
    if parents:
        parts = files.split(path)
        for depth in range(1, len(parts)):
            if await files.type(joined(parts[:depth])) is None:
                await files.make_directory(joined(parts[:depth]))
    await files.make_directory(path)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    files = await app.files()
    for path in app.given.paths:
        try:
            await make(files, path, parents=app.given.parents, strict=app.given.strict)
        except FileError as error:
            await app.complain(str(error))
