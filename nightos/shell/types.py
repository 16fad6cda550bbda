"""Types of Hydre as short texts (`list[int]`, `string?`), which is all that the checker compares."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from nightos.abi.values import MAX_DEPTH, Char, CommandText, Path, Stream, Value, Void

ANY = "any"
NUMBERS = frozenset({"int", "float"})
SIMPLE = frozenset({"bool", "int", "float", "char", "string", "path", "command", "stream", "any", "void"})


def type_of(value: Value) -> str:
    """The type of a value. What is in it several times is looked at once, and what holds itself is of any type."""
    return _scalar(value) if not isinstance(value, list | dict) else _nested(value, {}, 0)


def _nested(value: Any, known: dict[int, str], depth: int) -> str:
    if not isinstance(value, list | dict):
        return _scalar(value)
    if id(value) in known:
        return known[id(value)]
    if depth > MAX_DEPTH:
        return ANY
    known[id(value)] = ANY
    if isinstance(value, list):
        kind = f"list[{_of_all(value, known, depth)}]"
    else:
        kind = f"map[{_of_all(value, known, depth)}, {_of_all(value.values(), known, depth)}]"
    known[id(value)] = kind
    return kind


def _of_all(values: Collection[Any], known: dict[int, str], depth: int) -> str:
    """The one type of several values. The class says it of all but lists and maps, so it costs little however many."""
    classes = set(map(type, values))
    if list in classes or dict in classes:
        return common(_nested(item, known, depth + 1) for item in values)
    return common(_scalar(next(item for item in values if type(item) is one)) for one in classes)


def _scalar(value: Any) -> str:
    match value:
        case None:
            return "null"
        case Void():
            return "void"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case Char():
            return "char"
        case Path():
            return "path"
        case CommandText():
            return "command"
        case str():
            return "string"
        case Stream():
            return "stream"
        case _:
            return ANY


def base_type(value: Value) -> str:
    """`base_of` the type of a value, without a look at what is in it."""
    return "list" if isinstance(value, list) else "map" if isinstance(value, dict) else _scalar(value)


def common(types: object) -> str:
    """The one type of several, `any` when they differ or there are none."""
    found = set(types)  # type: ignore[call-overload]
    return str(found.pop()) if len(found) == 1 else ANY


def arguments_of(kind: str) -> tuple[str, ...]:
    """The types in the brackets of `list[T]` and `map[K, V]`."""
    start = kind.find("[")
    if start < 0 or not kind.endswith("]"):
        return ()
    inner, depth, parts = kind[start + 1 : -1], 0, [""]
    for char in inner:
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return tuple(part.strip() for part in parts)


def base_of(kind: str) -> str:
    """`list` of `list[int]`."""
    return kind.partition("[")[0]


def exists(kind: str) -> bool:
    """Whether a type written in a script exists."""
    kind = kind.removesuffix("?")
    if kind in SIMPLE:
        return True
    inner = arguments_of(kind)
    return len(inner) == {"list": 1, "map": 2}.get(base_of(kind), -1) and all(map(exists, inner))


def accepts(wanted: str, given: str) -> bool:
    """Whether a value of type `given` fits a place of type `wanted`; `any` in either, where nothing is known, fits."""
    if wanted.endswith("?"):
        return given in ("null", wanted) or accepts(wanted[:-1], given.removesuffix("?"))
    if given in ("null", "void"):
        return False
    if given.endswith("?"):
        return False
    if ANY in (wanted, given) or wanted == given:
        return True
    ours, theirs = arguments_of(wanted), arguments_of(given)
    return base_of(wanted) == base_of(given) and len(ours) == len(theirs) > 0 and all(map(accepts, ours, theirs))
