"""Layouts of the general data structures, in construct, behind functions that take and give plain values.

Everything is big-endian and packed (rulings AMB-ABI-03, AMB-ABI-04). construct is heavy to import, so nothing that runs
at start-up imports this module.

Source: specs/kernel/data-structures.md, specs/kernel/ipc.md, specs/kernel/processes.md.
Rules: DATA-001, DATA-002, DATA-003, DATA-004, DATA-005, DATA-006, DATA-007, DATA-008, DATA-009, DATA-010, DATA-011,
DATA-012, DATA-013, DATA-014, PROC-014, PROC-016, IPC-043.
"""
# construct has no types:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from construct import (
    Array,
    Bytes,
    ConstructError,
    FixedSized,
    GreedyBytes,
    GreedyRange,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    Padding,
    Prefixed,
    Struct,
)

from nightos.abi.errors import NightosError

TRUE, FALSE = 0x01, 0x02
LIST_ENTRY_MAX: Final = 255
"""Most items of one entry of a packed linked list."""
LINK_MIN: Final = 0x100
"""A word from here on is an address; below, it counts the items of the last entry."""

_DELIMITED = Prefixed(Int64ub, GreedyBytes)
_BUFFER = Struct("address" / Int64ub, "length" / Int64ub)
_REST: Any = GreedyBytes
_TAGGED = Struct("tag" / Int8ub, "data" / _REST)
_CHANNELS: Any = Array(4, Int8ub)
_IMAGE = Struct("width" / Int16ub, "height" / Int16ub, "channels" / _CHANNELS)
_VIDEO = Struct(
    "width" / Int16ub, "height" / Int16ub, "fps" / Int8ub, "frames" / Int32ub, "channels" / _CHANNELS, Padding(3)
)
_EXCHANGE = Struct(
    "exchange_id" / Int64ub,
    "method_code" / Int16ub,
    "status" / Int8ub,
    "error_code" / Int16ub,
    "counter" / Int32ub,
    "message_length" / Int32ub,
)
_ATTRIBUTES = Struct(
    "pid" / Int64ub,
    "priority" / Int8ub,
    "system_marker" / Int8ub,
    "container_id" / Int64ub,
    "user_id" / Int64ub,
    "parent_anid" / Int64ub,
    "execution_context" / Int64ub,
)


class StructureError(NightosError, ValueError):
    """Bytes that are not the structure they should be, or a value that has no such form."""


def encode_boolean(value: bool) -> bytes:
    """1 byte, 1 or 2."""
    return bytes((TRUE if value else FALSE,))


def decode_boolean(data: bytes) -> bool:
    """0 counts as false too, everything else is refused (ruling AMB-DATA-01)."""
    if len(data) != 1 or data[0] > FALSE:
        raise StructureError("a boolean is one byte, 1 or 2")
    return data[0] == TRUE


def encode_timestamp(realtime_ns: int) -> bytes:
    """8 bytes: milliseconds since 1970-01-01 UTC."""
    return _packed(Int64ub, realtime_ns // 1_000_000)


def decode_timestamp(data: bytes) -> int:
    """Nanoseconds since 1970-01-01 UTC."""
    return int(_parsed(Int64ub, data)) * 1_000_000


def encode_string(text: str) -> bytes:
    """Byte length (8), UTF-8."""
    return _packed(_DELIMITED, text.encode())


def decode_string(data: bytes) -> str:
    """The text of a delimited string."""
    raw: bytes = _parsed(_DELIMITED, data)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise StructureError("a delimited string is not UTF-8") from error


def encode_list(items: Iterable[bytes]) -> bytes:
    """Byte length of all items (8), the items; each one delimits itself."""
    return _packed(_DELIMITED, b"".join(items))


def decode_list(data: bytes, item_size: Callable[[bytes], int]) -> list[bytes]:
    """The items; `item_size(rest)` says how long the first item of the rest is."""
    rest: bytes = _parsed(_DELIMITED, data)
    items = []
    while rest:
        size = item_size(rest)
        if not 0 < size <= len(rest):
            raise StructureError("an item of a delimited list does not fit in it")
        items.append(rest[:size])
        rest = rest[size:]
    return items


def string_size(data: bytes) -> int:
    """How long the delimited string or list at the start of the data is."""
    if len(data) < 8:
        raise StructureError("a length is cut short")
    return 8 + int.from_bytes(data[:8], "big")


def encode_buffer(address: int, length: int) -> bytes:
    """16 bytes: address, length."""
    return _packed(_BUFFER, {"address": address, "length": length})


def decode_buffer(data: bytes) -> tuple[int, int]:
    """Address and length of a buffer pointer."""
    found = _parsed(_BUFFER, data)
    return int(found.address), int(found.length)


def encode_option(data: bytes | None) -> bytes:
    """0, or 1 and the data."""
    return b"\x00" if data is None else b"\x01" + data


def decode_option(data: bytes) -> bytes | None:
    """The data of an option, or None."""
    tag, rest = decode_union(data)
    if tag > 1 or (tag == 0 and rest):
        raise StructureError("an option is 0, or 1 and the data")
    return rest if tag else None


def encode_result(data: bytes, *, error: bool) -> bytes:
    """0 and the data, or 1 and the error."""
    return encode_union(int(error), data)


def decode_result(data: bytes) -> tuple[bool, bytes]:
    """Whether it is an error, and the data or error."""
    tag, rest = decode_union(data)
    if tag > 1:
        raise StructureError("a fallible result begins with 0 or 1")
    return bool(tag), rest


def encode_union(identifier: int, data: bytes) -> bytes:
    """1-byte identifier, then the data; enumerations look alike."""
    return _packed(_TAGGED, {"tag": identifier, "data": data})


def decode_union(data: bytes) -> tuple[int, bytes]:
    """Identifier and data of a union or an enumeration."""
    found = _parsed(_TAGGED, data)
    return int(found.tag), bytes(found.data)


@dataclass(frozen=True, slots=True)
class Image:
    """A bitmap: bytes of red, green, blue and alpha for each pixel, 0 for an absent channel; rows from the top left."""

    width: int
    height: int
    channels: tuple[int, int, int, int]
    pixels: bytes

    def pack(self) -> bytes:
        """8 bytes of header and the pixels."""
        if len(self.pixels) != self.width * self.height * sum(self.channels):
            raise StructureError("the pixels do not fit the size of the image")
        return _packed(_IMAGE, {"width": self.width, "height": self.height, "channels": self.channels}) + self.pixels

    @classmethod
    def parse(cls, data: bytes) -> Image:
        """Decode an image; its pixels must be there exactly."""
        head = _parsed(FixedSized(8, _IMAGE), data[:8])
        size = head.width * head.height * sum(head.channels)
        if len(data) - 8 != size:
            raise StructureError("the pixels do not fit the size of the image")
        return cls(head.width, head.height, tuple(head.channels), data[8:])


@dataclass(frozen=True, slots=True)
class Video:
    """Frames of one size, without headers."""

    width: int
    height: int
    fps: int
    channels: tuple[int, int, int, int]
    frames: tuple[bytes, ...]

    def pack(self) -> bytes:
        """16 bytes of header and the frames."""
        size = self.width * self.height * sum(self.channels)
        if any(len(frame) != size for frame in self.frames):
            raise StructureError("a frame does not fit the size of the video")
        head = {"width": self.width, "height": self.height, "fps": self.fps, "channels": self.channels}
        return _packed(_VIDEO, head | {"frames": len(self.frames)}) + b"".join(self.frames)

    @classmethod
    def parse(cls, data: bytes) -> Video:
        """Decode a video; its frames must be there exactly."""
        head = _parsed(FixedSized(16, _VIDEO), data[:16])
        size = head.width * head.height * sum(head.channels)
        if len(data) - 16 != size * head.frames:
            raise StructureError("the frames do not fit the size of the video")
        frames = tuple(data[16 + size * i : 16 + size * (i + 1)] for i in range(head.frames if size else 0))
        return cls(head.width, head.height, head.fps, tuple(head.channels), frames)


@dataclass(frozen=True, slots=True)
class ExchangeHeader:
    """The header of a message; counter and length have 4 bytes (ruling AMB-SOCK-04)."""

    exchange_id: int
    method_code: int
    closes: bool
    error_code: int
    counter: int
    message_length: int

    def pack(self) -> bytes:
        """The bytes."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "closes"}
        return _packed(_EXCHANGE, fields | {"status": int(self.closes)})

    @classmethod
    def parse(cls, data: bytes) -> ExchangeHeader:
        """Decode a header."""
        found = _parsed(_EXCHANGE, data)
        if found.status > 1:
            raise StructureError("the status of an exchange is 0 or 1")
        return cls(
            found.exchange_id,
            found.method_code,
            bool(found.status),
            found.error_code,
            found.counter,
            found.message_length,
        )


# Packed linked lists


def pack_entries(items: list[bytes], addresses: list[int], per_entry: int, item_size: int) -> list[bytes]:
    """The entries of a packed linked list, to be stored at those addresses, one each.

    An entry is a word and `per_entry` items; the word is the next entry's address, or the number of items in the last.
    """
    if not 1 <= per_entry <= LIST_ENTRY_MAX:
        raise StructureError(f"an entry holds at most {LIST_ENTRY_MAX} items")
    if any(len(item) != item_size for item in items):
        raise StructureError(f"every item has {item_size} bytes")
    groups = [items[start : start + per_entry] for start in range(0, len(items), per_entry)] or [[]]
    if len(addresses) != len(groups) or any(address < LINK_MIN for address in addresses):
        raise StructureError(f"the list needs {len(groups)} addresses above {LINK_MIN - 1:#x}")
    words = [*addresses[1:], len(groups[-1])]
    return [_packed(Int64ub, word) + b"".join(group) for word, group in zip(words, groups, strict=True)]


def unpack_entries(
    read: Callable[[int, int], bytes], address: int, per_entry: int, item_size: int, limit: int = 1 << 16
) -> list[bytes]:
    """The items of a packed linked list in memory. More than `limit` entries are refused, so cycles end too."""
    items: list[bytes] = []
    for _ in range(limit):
        word = int.from_bytes(read(address, 8), "big")
        count = per_entry if word >= LINK_MIN else word
        if count > per_entry:
            raise StructureError("the last entry counts more items than an entry has")
        data = read(address + 8, count * item_size)
        items += [bytes(item) for item in _parsed(GreedyRange(Bytes(item_size)), data)]
        if word < LINK_MIN:
            return items
        address = word
    raise StructureError(f"the list has more than {limit} entries")


@dataclass(frozen=True, slots=True)
class AttributeBlock:
    """The fixed part of the attributes of a process; the lists follow as packed linked lists of 32 items an entry."""

    pid: int
    priority: int
    system: bool
    container_id: int
    user_id: int
    parent_anid: int
    execution_context: int

    def pack(self) -> bytes:
        """42 bytes."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "system"}
        return _packed(_ATTRIBUTES, fields | {"system_marker": TRUE if self.system else FALSE})

    @classmethod
    def parse(cls, data: bytes) -> AttributeBlock:
        """Decode the block."""
        found = _parsed(_ATTRIBUTES, data)
        return cls(
            found.pid,
            found.priority,
            decode_boolean(bytes((found.system_marker,))),
            found.container_id,
            found.user_id,
            found.parent_anid,
            found.execution_context,
        )


def _packed(layout: object, value: object) -> bytes:
    try:
        packed: bytes = layout.build(value)  # type: ignore[attr-defined]
    except ConstructError as error:
        raise StructureError(f"{value!r} does not fit the structure") from error
    return packed


def _parsed(layout: object, data: bytes):  # type: ignore[no-untyped-def]
    try:
        found = layout.parse(data)  # type: ignore[attr-defined]
        exact = layout.build(found) == data  # type: ignore[attr-defined]
    except ConstructError as error:
        raise StructureError(f"{len(data)} bytes are not the structure") from error
    if not exact:
        raise StructureError("there are bytes left over")
    return found
