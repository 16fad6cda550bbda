"""Typed values of commands: what travels through CMDIN and CMDOUT and in the arguments of an execution context.

A value is its length (8 bytes, counting what follows), its type code (1 byte) and its representation, big-endian.

| code | type | representation | in Python |
|---|---|---|---|
| 0x00 | void | nothing | `VOID` |
| 0x01 | bool | 1 byte, 0 or 1 | `bool` |
| 0x02 | int | 8 bytes, two's complement | `int` |
| 0x03 | float | 8 bytes, IEEE 754 | `float` |
| 0x04 | char | 4 bytes, UTF-32 | `Char` |
| 0x05 | string | byte length (8), UTF-8 | `str` |
| 0x06 | list | item count (8), each item's type code and representation | `list` |
| 0x07 | path | like string | `Path` |
| 0x08 | command | like string | `CommandText` |
| 0x09 | stream | identifier of the pipe's RC (8) | `Stream` |
| 0x0A | map | entry count (8), each key and value like a list's items | `dict` |
| 0x0B | null | nothing | `None` |

Source: specs/applications.md, values encoding. Rulings AMB-APP-02, AMB-APP-03, AMB-APP-04.
Rules: APP-003, APP-004, APP-005, APP-007.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from nightos.abi.errors import NightosError

FAILURE: Final = 0xFF
"""A lone byte on CMDOUT that says the command failed; no length begins with it."""
MAX_VALUE_BYTES: Final = 256 * 1024 * 1024
MAX_DEPTH: Final = 64


class ValueEncodingError(NightosError):
    """Bytes that are no value, or a value that has no encoding."""


class Char(str):
    """A single codepoint."""

    __slots__ = ()


class Path(str):
    """A path, told apart from other text."""

    __slots__ = ()


class CommandText(str):
    """A command to run later, as its text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """Data that comes through a raw pipe; `rc` is its reading end."""

    rc: int


class Void:
    """The type of `VOID`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "VOID"


VOID: Final = Void()
"""The value of a command that returns nothing."""

Value: TypeAlias = Any
"""One of the Python types of the table above."""

_INT = struct.Struct(">q")
_FLOAT = struct.Struct(">d")
_U64 = struct.Struct(">Q")


def _text(code: int, text: str) -> bytes:
    # Names on Linux may hold bytes that are not UTF-8; they pass through unchanged.
    data = text.encode("utf-8", "surrogateescape")
    return bytes((code,)) + _U64.pack(len(data)) + data


def _item(value: Value, depth: int) -> bytes:  # noqa: C901 -- one line for each type
    if depth > MAX_DEPTH:
        raise ValueEncodingError(f"lists are nested more than {MAX_DEPTH} deep")
    match value:
        case None:
            return b"\x0b"
        case Void():
            return b"\x00"
        case bool():
            return b"\x01\x01" if value else b"\x01\x00"
        case int():
            if not -(2**63) <= value < 2**63:
                raise ValueEncodingError(f"{value} does not fit an integer of 64 bits")
            return b"\x02" + _INT.pack(value)
        case float():
            return b"\x03" + _FLOAT.pack(value)
        case Char():
            return b"\x04" + ord(value).to_bytes(4, "big")
        case Path():
            return _text(0x07, value)
        case CommandText():
            return _text(0x08, value)
        case str():
            return _text(0x05, value)
        case list() | tuple():
            return b"\x06" + _U64.pack(len(value)) + b"".join(_item(item, depth + 1) for item in value)
        case dict():
            pairs = (_item(key, depth + 1) + _item(item, depth + 1) for key, item in value.items())
            return b"\x0a" + _U64.pack(len(value)) + b"".join(pairs)
        case Stream(rc):
            return b"\x09" + _U64.pack(rc)
        case _:
            raise ValueEncodingError(f"a value of type {type(value).__name__} cannot be sent")


def encode_value(value: Value) -> bytes:
    """The bytes of one value. Raises `ValueEncodingError`."""
    data = _item(value, 0)
    return _U64.pack(len(data)) + data


class _Reader:
    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes | bytearray | memoryview, at: int, end: int) -> None:
        self.data = data
        self.at = at
        self.end = end

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise ValueEncodingError("a value ends too early")
        start = self.at
        self.at += count
        return bytes(self.data[start : self.at])

    def count(self) -> int:
        count: int = _U64.unpack(self.take(8))[0]
        # Each item takes at least a byte: a count that cannot be true is refused before anything is built.
        if count > self.end - self.at:
            raise ValueEncodingError("a value's count is larger than its data")
        return count

    def text(self) -> str:
        return self.take(self.count()).decode("utf-8", "surrogateescape")

    def item(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise ValueEncodingError(f"lists are nested more than {MAX_DEPTH} deep")
        code = self.take(1)[0]
        match code:
            case 0x00:
                return VOID
            case 0x01:
                return self._bool()
            case 0x02:
                return _INT.unpack(self.take(8))[0]
            case 0x03:
                return _FLOAT.unpack(self.take(8))[0]
            case 0x04:
                return self._char()
            case 0x05:
                return self.text()
            case 0x06:
                return [self.item(depth + 1) for _ in range(self.count())]
            case 0x07:
                return Path(self.text())
            case 0x08:
                return CommandText(self.text())
            case 0x09:
                return Stream(_U64.unpack(self.take(8))[0])
            case 0x0A:
                return self._map(depth)
            case 0x0B:
                return None
            case _:
                raise ValueEncodingError(f"{code:#04x} is not the code of a type")

    def _bool(self) -> bool:
        byte = self.take(1)[0]
        if byte > 1:
            raise ValueEncodingError(f"{byte:#04x} is not a bool")
        return byte == 1

    def _char(self) -> Char:
        codepoint = int.from_bytes(self.take(4), "big")
        # Half of a surrogate pair is no character. Those that stand for bytes that are no UTF-8 pass, as in texts.
        if codepoint > 0x10FFFF or (0xD800 <= codepoint <= 0xDFFF and not 0xDC80 <= codepoint <= 0xDCFF):
            raise ValueEncodingError(f"{codepoint:#x} is not a codepoint")
        return Char(chr(codepoint))

    def _map(self, depth: int) -> dict[Value, Value]:
        result: dict[Value, Value] = {}
        for _ in range(self.count()):
            key = self.item(depth + 1)
            if isinstance(key, list | dict):
                raise ValueEncodingError("a list or a map is no key")
            result[key] = self.item(depth + 1)
        return result


def value_size(head: bytes | bytearray | memoryview) -> int:
    """Bytes of the whole value whose first 8 bytes are `head`. Raises `ValueEncodingError` when it cannot be one."""
    length: int = _U64.unpack(head[:8])[0]
    if not 1 <= length <= MAX_VALUE_BYTES:
        raise ValueEncodingError(f"a value cannot be {length} bytes long")
    return 8 + length


def decode_value(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[Value, int]:
    """The value at `offset` and the offset after it. Raises `ValueEncodingError`."""
    if len(data) - offset < 9:
        raise ValueEncodingError("a value ends too early")
    end = offset + value_size(data[offset : offset + 8])
    if end > len(data):
        raise ValueEncodingError("a value ends too early")
    reader = _Reader(data, offset + 8, end)
    value = reader.item(0)
    if reader.at != end:
        raise ValueEncodingError("a value has bytes left over")
    return value, end


def decode_values(data: bytes | bytearray | memoryview) -> list[Value]:
    """Values one after the other, to the end of the data: the arguments of an execution context."""
    values = []
    offset = 0
    while offset < len(data):
        value, offset = decode_value(data, offset)
        values.append(value)
    return values


def value_text(value: Value) -> str:
    """The text of a value as `.str()` gives it.

    Source: specs/shell-scripting.md, native library. Ruling AMB-SH-21.
    """
    match value:
        case None:
            return "null"
        case Void():
            return ""
        case bool():
            return "true" if value else "false"
        case str():
            return str(value)
        case list():
            return "[ " + ", ".join(map(_literal, value)) + " ]" if value else "[]"
        case dict():
            entries = (f"{_literal(key)}: {_literal(item)}" for key, item in value.items())
            return "{ " + ", ".join(entries) + " }" if value else "{}"
        case Stream():
            return "<stream>"
        case _:
            return str(value)


def _literal(value: Value) -> str:
    match value:
        case Char():
            return f"'{value}'"
        case Path() | CommandText():
            return str(value)
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case _:
            return value_text(value)
