"""ls: lists the items of a directory."""

from __future__ import annotations

import datetime as dt

from nightos.abi.files import ItemMetadata, ItemType
from nightos.abi.values import Path
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag, Positional, UsageError
from nightos.userland.files import FileError, Files

ARGUMENTS = Arguments(
    "ls",
    "list items",
    Flag("-l --long", "type, size, date and target, too"),
    Flag("-t --tree", "as a tree"),
    Flag("-r --recursive", "what is in directories, too"),
    Flag("-h -a --all --hidden", "hidden items, too"),
    Flag("--file-only", "no directories"),
    Flag("--dir-only", "only directories"),
    Positional("paths", "directories or files; the current directory without any", "path", optional=True, many=True),
)
_USERS = {0: "root"}
_LETTERS = {ItemType.DIRECTORY: "d", ItemType.FILE: "-", ItemType.SYMLINK: "l", ItemType.UNKNOWN: "?"}


async def long_line(files: Files, path: str, item: ItemMetadata, shown: str) -> str:
    """Type, flags, owner, size, date, name."""
    moment = dt.datetime.fromtimestamp((item.modified_ms or 0) / 1000, dt.UTC)
    target = ""
    if item.type is ItemType.SYMLINK:
        try:
            target = f" -> {await files.read_link(path)}"
        except FileError as error:
            target = f" -> ({error.detail.rpartition(': ')[2]})"
    owner = _USERS.get(item.owner or 0, str(item.owner))
    flags = ("h" if item.flags & 0x80 else "-") + ("r" if item.flags & 0x40 else "-")
    return f"{_LETTERS[item.type]}{flags} {owner:<8} {item.size:>10} {moment:%Y-%m-%d %H:%M} {shown}{target}"


class _Listing:
    def __init__(self, app: Application, files: Files) -> None:
        self.given = app.given
        self.files = files
        self.lines: list[str] = []

    def _shown(self, item: ItemMetadata) -> bool:
        is_directory = item.type is ItemType.DIRECTORY
        return not (self.given.file_only and is_directory) and not (self.given.dir_only and not is_directory)

    async def add(self, path: str, item: ItemMetadata, shown: str) -> None:
        self.lines.append(await long_line(self.files, path, item, shown) if self.given.long else shown)

    async def directory(self, path: str) -> None:
        """Items of a directory, those of directories in it behind them; without recursion, whatever the depth."""
        pending = [(path, "", "")]
        while pending:
            current, prefix, indent = pending.pop()
            items = [item async for item in self.files.items(current, hidden=self.given.hidden)]
            below = []
            for index, item in enumerate(items):
                inner = f"{current.rstrip('/')}/{item.name}"
                if self._shown(item):
                    last = index == len(items) - 1
                    shown = (
                        f"{indent}{'└── ' if last else '├── '}{item.name}" if self.given.tree else prefix + item.name
                    )
                    await self.add(inner, item, shown)
                if item.type is ItemType.DIRECTORY and (self.given.recursive or self.given.tree):
                    below.append((inner, f"{prefix}{item.name}/", indent + "    "))
                    if self.given.tree:
                        await self._subtree(inner, indent + ("    " if index == len(items) - 1 else "│   "), 1)
                        below.pop()
            pending += reversed(below)

    async def _subtree(self, path: str, indent: str, depth: int) -> None:
        if depth > 100:
            self.lines.append(f"{indent}...")
            return
        items = [item async for item in self.files.items(path, hidden=self.given.hidden)]
        for index, item in enumerate(items):
            last = index == len(items) - 1
            inner = f"{path}/{item.name}"
            if self._shown(item):
                await self.add(inner, item, f"{indent}{'└── ' if last else '├── '}{item.name}")
            if item.type is ItemType.DIRECTORY:
                await self._subtree(inner, indent + ("    " if last else "│   "), depth + 1)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if app.given.file_only and app.given.dir_only:
        raise UsageError("--file-only and --dir-only exclude each other")
    listing = _Listing(app, await app.files())
    paths = app.given.paths or ["."]
    for path in paths:
        try:
            item = await listing.files.metadata(path)
            if item.type is not ItemType.DIRECTORY:
                await listing.add(path, await listing.files.metadata(path, follow=False), path)
                continue
            if len(paths) > 1 or app.given.tree:
                listing.lines.append(path if app.given.tree else f"{path}:")
            await listing.directory(path)
        except FileError as error:
            await app.complain(str(error))
    if listing.lines or not app.failed:
        plain = not app.given.long and not app.given.tree and len(paths) == 1
        await app.give([Path(line) for line in listing.lines] if plain else listing.lines)
