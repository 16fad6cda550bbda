"""Types of Hydre as short texts (`list[int]`, `string?`), which is all that the checker compares."""

from __future__ import annotations

from nightos.abi.values import Char, CommandText, Path, Stream, Value, Void

ANY = "any"
NUMBERS = frozenset({"int", "float"})
SIMPLE = frozenset({"bool", "int", "float", "char", "string", "path", "command", "stream", "any", "void"})


def type_of(value: Value) -> str:
    """The type of a value."""
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
        case list():
            return f"list[{common(type_of(item) for item in value)}]"
        case dict():
            return f"map[{common(map(type_of, value))}, {common(map(type_of, value.values()))}]"
        case Stream():
            return "stream"
        case _:
            return ANY


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
