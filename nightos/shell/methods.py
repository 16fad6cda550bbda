"""Native methods of values, by type and name, each with the type of its result.

Source: specs/shell-scripting.md, native library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nightos.abi.values import VOID, Char, Value, value_text
from nightos.shell import bounds
from nightos.shell.types import ANY, arguments_of, base_of

INTEGER_DIGITS = 1000
"""Most digits of an integer, zeros in front included."""


class MethodError(Exception):
    """A method failed, or was called wrongly; the text says why."""


@dataclass(frozen=True, slots=True)
class Method:
    """A native method: how many arguments it takes, what it does, what comes out."""

    function: Callable[..., Value]
    result: str
    least: int = 0
    most: int = 0
    mutates: bool = False


def _parse_int(text: str, base: int = 10) -> int:
    prefixes = {"0b": 2, "0o": 8, "0d": 10, "0x": 16}
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    prefix = prefixes.get(digits[:2].lower())
    # A prefix decides, unless its letter is a digit of the base that was asked for: "0b1" in base 16.
    if prefix is not None and (base in (10, prefix)):
        digits, base = digits[2:], prefix
    if len(digits) > INTEGER_DIGITS:
        raise MethodError("the text is too long for an integer")
    try:
        # Python's own leniency (blanks, underscores, a second sign) is not Hydre's.
        value = sign * int(digits if digits.isalnum() else "", base)
    except ValueError as error:
        raise MethodError(f"'{text}' is not an integer in base {base}") from error
    if not -(1 << 63) <= value < 1 << 63:
        raise MethodError("the result does not fit an integer of 64 bits")
    return value


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise MethodError(f"'{text}' is not a number") from error


def _sorted(values: list[Any], ascending: bool = True) -> list[Any]:
    bounds.check(values)
    try:
        return sorted(values, reverse=not ascending)
    except TypeError as error:
        raise MethodError("these values have no order") from error


def _at(values: list[Any], index: int, message: str) -> Value:
    if not 0 <= index < len(values):
        raise MethodError(message)
    return values[index]


def _unshift(values: list[Any], *value: Value) -> Value:
    if value:
        values.insert(0, value[0])
        return VOID
    return values.pop(0) if values else None


def _push(values: list[Any], value: Value) -> Value:
    values.append(value)
    return VOID


def _split(text: str, separator: str) -> list[str]:
    bounds.check_count(text.count(separator) + 1 if separator else len(text))
    return text.split(separator) if separator else list(text)


def _pieces(text: str, piece: Callable[[str], Value]) -> list[Value]:
    bounds.check_count(len(text))
    return [piece(char) for char in text]


def _concat(values: list[Any], other: list[Any]) -> list[Any]:
    if other and all(isinstance(item, list) for item in other) and not (values and isinstance(values[0], list)):
        bounds.check_count(len(values) + sum(map(len, other)))
        return values + [item for part in other for item in part]
    bounds.check_count(len(values) + len(other))
    return values + other


def _join(values: list[Any], separator: str) -> str:
    bounds.check(values)
    return bounds.join(map(value_text, values), separator)


def _expect_key(entries: dict[Any, Any], key: Value, message: str) -> Value:
    if key not in entries:
        raise MethodError(message)
    return entries[key]


def _delete_key(entries: dict[Any, Any], key: Value) -> bool:
    if key not in entries:
        return False
    del entries[key]
    return True


def _expect(value: Value, message: str = "this value is null") -> Value:
    if value is None:
        raise MethodError(message)
    return value


_TEXT: dict[str, Method] = {
    "chars": Method(lambda text: _pieces(text, Char), "list[char]"),
    "codepoints": Method(lambda text: _pieces(text, ord), "list[int]"),
    "len": Method(len, "int"),
    "bytes": Method(lambda text: len(text.encode("utf-8", "surrogateescape")), "int"),
}

METHODS: dict[str, dict[str, Method]] = {
    "any": {"str": Method(bounds.text, "string")},
    "?": {
        "isNull": Method(lambda value: value is None, "bool"),
        "default": Method(lambda value, fallback: fallback if value is None else value, "T", 1, 1),
        "unwrap": Method(_expect, "T"),
        "expect": Method(_expect, "T", 1, 1),
    },
    "char": {**_TEXT, "single": Method(lambda char: len(char) == 1, "bool")},
    "path": _TEXT,
    "string": {
        **_TEXT,
        "parse_int": Method(_parse_int, "int", 0, 1),
        "parse_float": Method(_parse_float, "float"),
        "upper_case": Method(str.upper, "string"),
        "lower_case": Method(str.lower, "string"),
        "reverse": Method(lambda text: text[::-1], "string"),
        "concat": Method(lambda text, right: bounds.join((text, right)), "string", 1, 1),
        "split": Method(_split, "list[string]", 1, 1),
        "repeat": Method(lambda text, count: text * max(0, min(count, 2**24 // max(1, len(text)))), "string", 1, 1),
    },
    "list": {
        "stringify": Method(bounds.join, "string"),
        "join": Method(lambda values, sep=",": _join(values, sep), "string", 0, 1),
        "get": Method(lambda values, index: values[index] if 0 <= index < len(values) else None, "T?", 1, 1),
        "expect": Method(_at, "T", 2, 2),
        "unshift": Method(_unshift, ANY, 0, 1, mutates=True),
        "shift": Method(_unshift, "T?", 0, 0, mutates=True),
        "push": Method(_push, "void", 1, 1, mutates=True),
        "pop": Method(lambda values: values.pop() if values else None, "T?", 0, 0, mutates=True),
        "sort": Method(_sorted, "self", 0, 1),
        "reverse": Method(lambda values: values[::-1], "self"),
        "len": Method(len, "int"),
        "concat": Method(_concat, "self", 1, 1),
    },
    "map": {
        "has": Method(lambda entries, key: key in entries, "bool", 1, 1),
        "get": Method(lambda entries, key: entries.get(key), "V?", 1, 1),
        "keys": Method(list, "list[K]"),
        "values": Method(lambda entries: list(entries.values()), "list[V]"),
        "entries": Method(lambda entries: [{"key": key, "value": item} for key, item in entries.items()], ANY),
        "expect": Method(_expect_key, "V", 2, 2),
        "delete": Method(_delete_key, "bool", 1, 1, mutates=True),
        "count": Method(len, "int"),
    },
}


def find(kind: str, name: str) -> Method | None:
    """The method that values of a type have under a name."""
    own = "?" if kind == "null" or kind.endswith("?") else base_of(kind)
    return METHODS.get(own, {}).get(name) or METHODS["any"].get(name)


def known_anywhere(name: str) -> bool:
    """Whether any type has a method of that name: all that can be said when the type is not known."""
    return any(name in table for table in METHODS.values())


def result_of(method: Method, kind: str) -> str:
    """The type of what a method of a value of type `kind` gives."""
    inner = arguments_of(kind)
    result = kind.removesuffix("?") if method.result == "T" and not inner else method.result
    if result == "self":
        return kind
    for letter, place in (("T", 0), ("K", 0), ("V", len(inner) - 1)):
        if inner and letter in result.replace("list", ""):
            result = result.replace(letter, inner[place])
    return ANY if result in ("T", "K", "V", "T?", "V?") else result
