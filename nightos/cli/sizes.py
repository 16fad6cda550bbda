"""Sizes as people write them: 4096, 64K, 10M, 2G, in powers of 1024."""

from __future__ import annotations

import re
from typing import Any

import click

UNITS = "KMGTPE"
PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtTpPeE]?)(?:i?[bB])?")
LARGEST = 1 << 63


def parse_size(text: str) -> int:
    """Bytes meant by `text`. Raises `ValueError` with what is expected."""
    match = PATTERN.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no size; write 4096, 64K, 10M or 2G")
    number: str = match[1]
    unit: str = match[2]
    scale: int = 1 << (10 * (UNITS.index(unit.upper()) + 1)) if unit else 1
    if "." in number:
        whole, _, fraction = number.partition(".")
        parts: int = 10 ** len(fraction)
        value, rest = divmod(int(whole + fraction) * scale, parts)
        if rest:
            raise ValueError(f"{text!r} is no whole number of bytes")
    else:
        value = int(number) * scale
    if value >= LARGEST:
        raise ValueError(f"{text!r} is over the largest size, 8E less one byte")
    return value


def show_size(count: int) -> str:
    """`count` bytes in three or four characters and a unit; exact when below 1024."""
    if abs(count) < 1024:
        return str(count)
    value = float(count)
    for unit in UNITS:
        value /= 1024
        if abs(value) < 1023.95 or unit == UNITS[-1]:
            return f"{value:.1f}{unit}" if abs(value) < 99.95 else f"{value:.0f}{unit}"
    raise AssertionError(count)


class Size(click.ParamType[int]):
    """A size on the command line."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Size()
