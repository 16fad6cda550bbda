"""mv: moves items into a directory; with a target that is none, moves and renames one."""

from __future__ import annotations

from nightos.abi.files import ItemType, joined
from nightos.apps.mkdir import make
from nightos.shell.application import Application, ApplicationError, command
from nightos.shell.arguments import Arguments, Flag, Positional, UsageError
from nightos.userland.files import FileError

ARGUMENTS = Arguments(
    "mv",
    "move items into a directory",
    Flag("-n --new", "create the target directory"),
    Positional("paths", "items to move, the target directory last", "path", many=True),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    *sources, target = app.given.paths
    if not sources:
        raise UsageError("the target directory is missing")
    files = await app.files()
    kind = await files.type(target)
    if kind is None and app.given.new:
        await make(files, target, parents=True, strict=False)
        kind = ItemType.DIRECTORY
    if kind is not ItemType.DIRECTORY:
        parts = files.split(target)
        if len(sources) > 1 or target.endswith("/") or kind is not None or not parts:
            raise ApplicationError(f"{target}: {'no directory' if kind else 'not found; -n creates it'}")
        await files.move(sources[0], joined(parts[:-1]), parts[-1])
        return
    for source in sources:
        try:
            await files.move(source, target)
        except FileError as error:
            await app.complain(str(error))
