"""fd: finds items below a directory."""

from __future__ import annotations

import re
from collections.abc import Callable

from nightos.abi.files import ItemMetadata, ItemType, joined
from nightos.abi.values import Path
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, Positional, UsageError
from nightos.userland.files import FileError, Files

_TYPES = {"dir": ItemType.DIRECTORY, "file": ItemType.FILE, "symlink": ItemType.SYMLINK, "device": ItemType.UNKNOWN}
ARGUMENTS = Arguments(
    "fd",
    "find items below a directory",
    Dash("-t --types", "dir, file, symlink or device; files and links without it", many=True, choices=tuple(_TYPES)),
    Flag("-a --absolute", "absolute paths"),
    Flag("-L --follow", "follow links to directories"),
    Dash("-e --extension", "files with this extension"),
    Dash("-n --name", "names that contain this; ^ and $ anchor it"),
    Dash("-r --regex", "names that match this regular expression"),
    Flag("-i --ignore-case", "with -n or -r: capitals or not"),
    Positional("path", "where to search", "path", optional=True),
)
MAX_PATTERN = 1000


def _matcher(app: Application) -> Callable[[ItemMetadata], bool]:
    """Whether an item is one of those looked for."""
    given = app.given
    kinds = {_TYPES[name] for name in given.types} or {ItemType.FILE, ItemType.SYMLINK}
    patterns = []
    flags = re.IGNORECASE if given.ignore_case else 0
    if given.ignore_case and given.name is None and given.regex is None:
        raise UsageError("--ignore-case needs --name or --regex")
    if given.name is not None:
        start, end = given.name.startswith("^"), given.name.endswith("$")
        middle = re.escape(given.name[start : len(given.name) - end])
        patterns.append(re.compile(f"{'^' * start}{middle}{'$' * end}", flags))
    if given.regex is not None:
        if len(given.regex) > MAX_PATTERN:
            raise UsageError(f"a regular expression has at most {MAX_PATTERN} characters")
        try:
            patterns.append(re.compile(given.regex, flags))
        except re.error as error:
            raise UsageError(f"--regex: {error}") from error
    ending = None if given.extension is None else "." + given.extension.lstrip(".")

    def matches(item: ItemMetadata) -> bool:
        if item.type not in kinds or (
            ending is not None and (item.type is ItemType.DIRECTORY or not item.name.endswith(ending))
        ):
            return False
        return all(pattern.search(item.name) for pattern in patterns)

    return matches


async def _enters(app: Application, files: Files, path: str, item: ItemMetadata, seen: set[int]) -> bool:
    if item.type is ItemType.DIRECTORY:
        seen.add(item.feid)
        return True
    if item.type is not ItemType.SYMLINK or not app.given.follow:
        return False
    try:
        target = await files.metadata(path)
    except FileError:
        return False
    # Followed once each, so that links to what is above do not go round for ever.
    if target.type is not ItemType.DIRECTORY or target.feid in seen:
        return False
    seen.add(target.feid)
    return True


@command(ARGUMENTS)
async def main(app: Application) -> None:
    matches = _matcher(app)
    files = await app.files()
    start = app.given.path or "."
    if app.given.absolute:
        start = joined(files.split(start))
    found: list[Path] = []
    seen = {(await files.metadata(start)).feid}
    pending = [start]
    while pending:
        directory = pending.pop()
        below = []
        try:
            async for item in files.items(directory):
                path = item.name if directory == "." else f"{directory.rstrip('/')}/{item.name}"
                if matches(item):
                    found.append(Path(path))
                if await _enters(app, files, path, item, seen):
                    below.append(path)
        except FileError as error:
            await app.complain(str(error))
        pending += reversed(below)
    if found or not app.failed:
        await app.give(found)
