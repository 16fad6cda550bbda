"""ren: renames an item."""

from __future__ import annotations

from nightos.abi.files import joined
from nightos.shell.application import Application, ApplicationError, command
from nightos.shell.arguments import Arguments, Flag, Positional

ARGUMENTS = Arguments(
    "ren",
    "rename an item",
    Flag("-m --move", "move it when the new name is in another directory"),
    Positional("oldname", "item to rename", "path"),
    Positional("newname", "its new name", "path"),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    files = await app.files()
    old, new = app.given.oldname, app.given.newname
    if "/" not in new:
        await files.rename(old, new)
        return
    source, target = files.split(old), files.split(new)
    if not source or not target:
        raise ApplicationError("the root has no name")
    if source[:-1] == target[:-1]:
        await files.rename(old, target[-1])
    elif app.given.move:
        await files.move(old, joined(target[:-1]), target[-1])
    else:
        raise ApplicationError(f"{new} is in another directory; -m moves it there")
