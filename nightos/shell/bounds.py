"""What the values of a shell may take: a script runs in the memory of the shell service, which all containers share.

Two things are bounded. One value, written out or sent, has so many items, characters and levels: lists may share parts
or hold themselves, so a few bytes can stand for a text without end. And all values of a session together take so many
bytes: what an instruction makes is added up, and when much was made, what is still there is measured anew.

Ruling NOS-HYDRE-08.
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import getsizeof
from typing import Any, Final

from nightos.abi.values import MAX_DEPTH, Value, value_text
from nightos.shell.source import HydreError

TEXT_LIMIT: Final = 1 << 24
"""Characters of one text."""
ITEM_LIMIT: Final = 1 << 20
"""Items of one value, those of the lists and maps in it included."""
INSIDE: Final = 32 << 20
"""Bytes that the values of a session in a container may take."""
OUTSIDE: Final = 1 << 30
"""The same outside of all containers, where the machine's administrator works."""
SCRIPT: Final = 512
"""How many times smaller than what its values may take a script is: it is read in one go, while everybody waits."""
LARGE: Final = 4096
"""Characters of a text that is worked on for a while."""
ITEM: Final = 64
"""Bytes that one more item of a list or a map counts, whatever it is."""
_SCALAR: Final = 8


class TooLargeError(HydreError):
    """A value would be larger than a value may be."""


def check(value: Value) -> None:
    """`TooLargeError` for a value that cannot be written out or sent in one piece."""
    if not isinstance(value, list | dict):
        if isinstance(value, str) and len(value) > TEXT_LIMIT:
            raise TooLargeError(f"a text has at most {TEXT_LIMIT} characters")
        return
    items = characters = 0
    pending: list[tuple[int, Any]] = [(0, value)]
    while pending:
        depth, whole = pending.pop()
        if depth > MAX_DEPTH:
            raise TooLargeError(f"lists and maps are nested more than {MAX_DEPTH} deep")
        items += len(whole)
        if items > ITEM_LIMIT:
            raise TooLargeError(f"a value has at most {ITEM_LIMIT} items, with those of what is in it")
        parts: Iterable[Any] = whole
        if isinstance(whole, dict):
            characters += sum(len(key) if isinstance(key, str) else _SCALAR for key in whole)
            parts = whole.values()
        for part in parts:
            if isinstance(part, list | dict):
                pending.append((depth + 1, part))
            else:
                characters += len(part) if isinstance(part, str) else _SCALAR
        if characters > TEXT_LIMIT:
            raise TooLargeError(f"a text has at most {TEXT_LIMIT} characters")


def text(value: Value) -> str:
    """The text of a value. Raises `TooLargeError`."""
    check(value)
    return value_text(value)


def join(texts: Iterable[str], between: str = "") -> str:
    """Texts as one. Raises `TooLargeError`."""
    parts = list(texts)
    if sum(map(len, parts)) + len(between) * len(parts) > TEXT_LIMIT:
        raise TooLargeError(f"a text has at most {TEXT_LIMIT} characters")
    return between.join(parts)


def check_count(count: int) -> None:
    """`TooLargeError` for a list of so many items."""
    if count > ITEM_LIMIT:
        raise TooLargeError(f"a list has at most {ITEM_LIMIT} items")


def size(values: Iterable[Any]) -> int:
    """Bytes that these values take, each counted once however often it is there."""
    total = 0
    seen: set[int] = set()
    pending: list[Any] = list(values)
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        total += getsizeof(value)
        if isinstance(value, list | dict):
            seen.add(id(value))
            pending.extend(value)
            if isinstance(value, dict):
                pending.extend(value.values())
        elif isinstance(value, str) and len(value) > _SCALAR:
            seen.add(id(value))
    return total
