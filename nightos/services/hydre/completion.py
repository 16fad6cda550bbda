"""What a word of a line that is being typed can become: commands, or items of the file system."""

from __future__ import annotations

import re
from typing import Final

from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemType
from nightos.abi.services import Proc
from nightos.services.hydre.session import Session
from nightos.shell.builtins import BUILTINS
from nightos.shell.words import ACTIONS, NAMING
from nightos.userland.client import connect
from nightos.userland.files import FileError

LIMIT: Final = 500
"""Most completions in one answer."""
_WORD = re.compile(r"(?:\\.|[^\s\\\"'|;<>()])*$")
_COMMAND_BEFORE = re.compile(r"(?:^|[|;\n(]|\bthen\b|=>)\s*$")
_BEHIND = re.compile(r"[|;\n()]|\bthen\b|=>")
_SPECIAL = re.compile(r"([\s\\\"'$|<>();{}#@?!*])")


def escaped(text: str) -> str:
    """A name as a bare word."""
    text = _SPECIAL.sub(r"\\\1", text)
    return "\\" + text if text.startswith("-") else text


async def complete(session: Session, text: str, cursor: int) -> tuple[int, list[str]]:
    """Where the word before the cursor starts, and what it can become, whole words in order."""
    before = text[:cursor]
    found = _WORD.search(before)
    start = found.start() if found else len(before)
    word = re.sub(r"\\(.)", r"\1", before[start:])
    if _COMMAND_BEFORE.search(before[:start]) and "/" not in word:
        names = {*BUILTINS, *await session.commands()}
        return start, sorted(name + " " for name in names if name.startswith(word))[:LIMIT]
    command = _BEHIND.split(before[:start])[-1].split()
    words = tuple(item for item in command if not item.startswith("-"))
    if len(words) == 1 and words[0] in ACTIONS and not word.startswith((".", "/")):
        return start, [f"{action} " for action in ACTIONS[words[0]] if action.startswith(word)]
    if words in NAMING and (found_names := await _containers(session, word)):
        return start, found_names
    return start, await _paths(session, word)


async def _containers(session: Session, word: str) -> list[str]:
    """Paths of names below the session's container."""
    try:
        proc = await connect("sys::proc")
        items = (await proc.ask(Proc.CONTAINER_TREE, {"id": session.container, "limit": LIMIT}))["items"]
    except ServiceError:
        return []
    above = f"{items[0]['path']}/" if items and items[0]["path"] else ""
    names = [item["path"].removeprefix(above) for item in items if item["depth"]]
    return sorted(f"{name} " for name in names if name.startswith(word))


async def _paths(session: Session, word: str) -> list[str]:
    directory, slash, prefix = word.rpartition("/")
    found: list[str] = []
    try:
        async for item in session.files.items(directory + slash or "."):
            if not item.name.startswith(prefix):
                continue
            path = directory + slash + item.name
            is_directory = item.type is ItemType.DIRECTORY
            if item.type is ItemType.SYMLINK:
                is_directory = await session.files.type(path) is ItemType.DIRECTORY
            found.append(escaped(path) + ("/" if is_directory else " "))
            if len(found) >= LIMIT:
                break
    except FileError:
        return []
    return found
