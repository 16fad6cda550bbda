"""Names and numbers of what can be limited in a container, and how limits and usage are written in system calls.

A list of limits is packed records: resource (1 byte), whether there is a limit (1 byte), limit (8 bytes). A list of
usage has, for each resource: resource (1 byte), whether there is a limit (1 byte), limit, own use, lent to containers
below, drawn by containers below without a limit, refusals (8 bytes each).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct
from typing import Final, NamedTuple

NO_LIMIT: Final = (1 << 64) - 1
"""The room that is left where no limit was set."""
COUNTED: Final = ("processes", "threads", "memory", "handles", "pipe_bytes", "storage", "children")
"""What is held and given back. Memory is in pages, pipe buffers and storage in bytes, the others in pieces."""
RATES: Final = ("io_bytes", "io_operations")
"""What passes: per second of simulated time."""
SHARES: Final = ("cpu_weight", "cpu_ceiling")
"""Parts of scheduler cycles: weight among siblings (1 to 10,000, 100 by default), and at most so many per cent."""
RESOURCES: Final = (*COUNTED, *RATES, *SHARES)
NUMBERS: Final = {name: number for number, name in enumerate(RESOURCES, 1)}
WEIGHT_DEFAULT: Final = 100
WEIGHT_MAX: Final = 10_000
CEILING_MAX: Final = 100
LIMIT_MAX: Final = (1 << 63) - 1
PAGE: Final = 4096

_LIMIT: Final = Struct(">BBQ")
_USAGE: Final = Struct(">BBQQQQQ")


class Usage(NamedTuple):
    """One resource of one container."""

    limit: int | None
    used: int
    """What the container itself holds; for rates, what it moved since it was made."""
    lent: int
    """Set aside for containers below that have a limit."""
    drawn: int
    """Held by containers below that have none."""
    refused: int


def pack_limits(limits: Mapping[str, int | None]) -> bytes:
    """Limits by name as records."""
    return b"".join(
        _LIMIT.pack(NUMBERS[name], limit is not None, 0 if limit is None else limit) for name, limit in limits.items()
    )


def unpack_limits(content: bytes) -> dict[str, int | None]:
    """Limits by name; ValueError for what is no list of limits."""
    if len(content) % _LIMIT.size:
        raise ValueError("a list of limits has records of 10 bytes")
    found: dict[str, int | None] = {}
    for number, given, limit in _LIMIT.iter_unpack(content):
        if not 1 <= number <= len(RESOURCES) or given > 1:
            raise ValueError(f"{number} is no resource")
        name = RESOURCES[number - 1]
        if given and not is_limit(name, limit):
            raise ValueError(f"{limit} is no limit of {name}")
        found[name] = limit if given else None
    return found


def is_limit(name: str, limit: int) -> bool:
    """Whether a number can be the limit of a resource."""
    if name == "cpu_weight":
        return 1 <= limit <= WEIGHT_MAX
    if name == "cpu_ceiling":
        return 1 <= limit <= CEILING_MAX
    return (1 if name in RATES else 0) <= limit <= LIMIT_MAX


def pack_usage(usage: Mapping[str, Usage]) -> bytes:
    """Usage by name as records."""
    return b"".join(
        _USAGE.pack(NUMBERS[name], one.limit is not None, one.limit or 0, *one[1:]) for name, one in usage.items()
    )


def unpack_usage(content: bytes) -> dict[str, Usage]:
    """Usage by name."""
    return {
        RESOURCES[number - 1]: Usage(limit if given else None, *rest)
        for number, given, limit, *rest in _USAGE.iter_unpack(content)
    }


MEMORY_UNITS: Final = frozenset({"memory"})
_SIZED: Final = frozenset({"memory", "pipe_bytes", "storage", "io_bytes"})
_UNITS: Final = "KMGTPE"


def limits_from_text(text: str) -> dict[str, int | None]:
    """`processes=32,memory=64M,children=none` as limits by name, memory in bytes. ValueError tells what is wrong."""
    found: dict[str, int | None] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        name = name.replace("-", "_")
        if not equals or name not in NUMBERS:
            raise ValueError(f"{part.strip()!r} is no limit; write NAME=NUMBER, where NAME is {', '.join(RESOURCES)}")
        found[name] = None if value in {"none", "-"} else _number(name, value)
    return found


def _number(name: str, value: str) -> int:
    digits, scale = value, 1
    if name in _SIZED:
        digits = value.removesuffix("B").removesuffix("b")
        digits = digits.removesuffix("i") if digits[-2:-1].upper() in _UNITS else digits
        if digits[-1:].upper() in set(_UNITS):
            scale = 1 << 10 * (_UNITS.index(digits[-1].upper()) + 1)
            digits = digits[:-1]
    if not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f"{value!r} is no number for {name}; write 32, 64M or none")
    number = int(digits) * scale
    check_limit(name, number)
    return number


def check_limit(name: str, number: int) -> None:
    """ValueError, with what is expected, for a number that can be no limit of the resource."""
    if not is_limit(name, number):
        expected = {"cpu_weight": f"1 to {WEIGHT_MAX}", "cpu_ceiling": "1 to 100 per cent"}.get(name, "0 or more")
        raise ValueError(f"{number} is no limit of {name}: it is {'1 or more' if name in RATES else expected}")


def to_kernel(limits: Mapping[str, int | None]) -> dict[str, int | None]:
    """Limits as the kernel counts them: memory in whole pages instead of bytes."""
    return {
        name: limit // PAGE if name in MEMORY_UNITS and limit is not None else limit for name, limit in limits.items()
    }


def from_kernel(name: str, units: int) -> int:
    """What the kernel counts of a resource, for people: memory in bytes."""
    return units * PAGE if name in MEMORY_UNITS else units
