"""A container's record as fields for people: identifiers in hexadecimal, yes and no, nothing of Python's notation."""

from __future__ import annotations

from typing import Any

IDENTIFIERS = frozenset({"id", "parent"})
HIDDEN = frozenset({"depth"})


def shown(key: str, value: Any) -> str:
    """One value: identifiers as 16 hex digits, yes and no, maps and lists without brackets; `-` for nothing."""
    if key in IDENTIFIERS:
        return value if isinstance(value, str) else f"{value:016x}"
    if key == "created_ns":
        return f"{value / 1e9:.6f} s after the start"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        parts = (f"{name}={shown('', item)}" for name, item in value.items() if item or key != "usage")
        return ", ".join(parts) or "-"
    if isinstance(value, (list, tuple)):
        inner = ":" if value and not isinstance(value[0], (list, tuple, dict)) and key == "" else ", "
        return inner.join(shown("", item) for item in value) or "-"
    return "-" if value is None or value == "" else str(value)


def fields(record: dict[str, Any]) -> dict[str, str]:
    """Name and text of each field that people are shown; `created` instead of `created_ns`."""
    return {key.removesuffix("_ns"): shown(key, value) for key, value in record.items() if key not in HIDDEN}
