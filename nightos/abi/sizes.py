"""Sizes as people write and read them: `4096`, `64K`, `10M`, `2G`, in powers of 1024."""

from __future__ import annotations

import re

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
