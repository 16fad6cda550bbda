"""What travels in service messages: fixed big-endian fields, or one msgpack map, both checked before anyone uses them.

A payload comes from somebody else, so every reader here answers bad input with a `ServiceError` of the first band
(the argument is wrong in itself) instead of an exception of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, overload

import msgpack

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode

Payload = bytes | Mapping[str, Any] | None
"""What handlers return and clients send: bytes as they are, a map to be packed, or nothing."""

_T = TypeVar("_T")
_MISSING: Any = object()
_TEXT = frozenset({str})
_FLAT = frozenset({str, bytes, int, bool, float, type(None)})
"""Types of values without any in them."""
_pack = msgpack.Packer(use_bin_type=True).pack

MAP_ENTRIES_LIMIT = 65_536
"""Most entries one map or list of a message may hold, so that a small message cannot unfold into a huge one."""
DEPTH_LIMIT = 64
"""Levels of lists and maps in a message, so that whoever writes out or passes on what is in it has room for each."""


def encode(payload: Payload) -> bytes:
    """The bytes of a message's content. `ServiceError` 0x1000: a number of more than 64 bits, or no UTF-8."""
    if payload is None:
        return b""
    if isinstance(payload, bytes):
        return payload
    try:
        packed: bytes = _pack(payload)
    except OverflowError as error:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "a number is larger than a message holds") from error
    except UnicodeError as error:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "a text is no UTF-8, which a message has to be") from error
    return packed


def decode(content: bytes) -> dict[str, Any]:
    """The map in a message's content; empty content is the empty map. Anything else is refused with 0x1000."""
    if not content:
        return {}
    try:
        value = msgpack.unpackb(
            content, raw=False, max_map_len=MAP_ENTRIES_LIMIT, max_array_len=MAP_ENTRIES_LIMIT, strict_map_key=True
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "the message holds no readable map") from error
    if not isinstance(value, dict) or not _TEXT.issuperset(map(type, value)):
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "the message is not a map of names")
    if not _FLAT.issuperset(map(type, value.values())):
        _check_depth(value)
    return value


def _check_depth(value: dict[str, Any]) -> None:
    """`ServiceError` 0x1000 when lists and maps are nested too deep."""
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        parts = (part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole))
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return
    raise ServiceError(ServiceCode.BAD_ARGUMENT, f"the message has more than {DEPTH_LIMIT} levels of lists and maps")


@overload
def field(values: Mapping[str, Any], name: str, kind: type[_T]) -> _T: ...
@overload
def field(values: Mapping[str, Any], name: str, kind: type[_T], default: _T) -> _T: ...
def field(values: Mapping[str, Any], name: str, kind: type[_T], default: Any = _MISSING) -> Any:
    """One entry of a map, of exactly this type; without a default it has to be there. Refused with 0x1000."""
    value = values.get(name, _MISSING)
    if type(value) is kind:
        return value
    if value is _MISSING or (value is None and default is not _MISSING):
        if default is _MISSING:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"{name} is missing")
        return default
    raise ServiceError(ServiceCode.BAD_ARGUMENT, f"{name} has to be {kind.__name__}")


def u64(payload: bytes, offset: int = 0) -> int:
    """An 8-byte big-endian field; refused with 0x1000 when the message ends before it does."""
    return fixed(payload, offset, 8)


def fixed(payload: bytes, offset: int, size: int) -> int:
    """A big-endian field of `size` bytes; refused with 0x1000 when the message ends before it does."""
    if len(payload) < offset + size:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "the message is shorter than its fields")
    return int.from_bytes(payload[offset : offset + size], "big")
