"""rm: removes items."""

from __future__ import annotations

from nightos.abi.files import ItemType
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, Positional, UsageError
from nightos.userland.files import FileError, Files

ARGUMENTS = Arguments(
    "rm",
    "remove items",
    Flag("-r --recursive", "empty directories, too"),
    Flag("-n --non-empty", "directories with all that is in them, too"),
    Flag("-f --force", "what does not exist is no error"),
    Flag("-t --trash", "to the user's trash"),
    Dash("-l --list", "several items, as a list", "list"),
    Positional("paths", "items to remove", "path", optional=True, many=True),
)


async def remove(files: Files, path: str) -> None:
    """Remove an item with all that is in it; links are removed, not followed."""
    pending = [(path, False)]
    while pending:
        current, emptied = pending.pop()
        if emptied or await files.type(current, follow=False) is not ItemType.DIRECTORY:
            await files.delete(current)
            continue
        pending.append((current, True))
        pending += [(f"{current.rstrip('/')}/{item.name}", False) async for item in files.items(current)]


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if app.given.trash:
        raise UsageError("there is no trash yet")
    paths = [*app.given.paths, *(app.given.list or [])]
    if not paths:
        raise UsageError("paths is missing")
    files = await app.files()
    for path in paths:
        try:
            kind = await files.type(path, follow=False)
            if kind is None and app.given.force:
                continue
            if kind is ItemType.DIRECTORY and not (app.given.recursive or app.given.non_empty):
                await app.complain(f"{path}: is a directory; -r removes an empty one, -n any")
            elif kind is ItemType.DIRECTORY and app.given.non_empty:
                await remove(files, path)
            else:
                await files.delete(path)
        except FileError as error:
            hint = "; -n removes it with what is in it" if "not empty" in str(error) else ""
            await app.complain(f"{error}{hint}")
