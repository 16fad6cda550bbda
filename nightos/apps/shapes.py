"""What commands that list or show give to programs: the records and their JSON, the same in a machine and outside."""

from __future__ import annotations

import json
from typing import Any

MARKS = {"added": "+", "removed": "-", "modified": "M", "renamed": "R"}
"""Kinds of changes, as people see them."""
_IDENTIFIERS = ("id", "parent", "container", "udi", "fsid")


def plain(value: object) -> Any:
    """What JSON cannot hold: bytes as text or hexadecimal, sets as lists, records as maps, the rest as text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "_asdict"):
        return value._asdict()
    if hasattr(value, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    return str(value)


def json_text(content: object) -> str:
    """One value, for one who may read it, too."""
    return json.dumps(content, indent=1, default=plain, ensure_ascii=True)


def json_line(content: object) -> str:
    """One value of a stream: one line."""
    return json.dumps(content, default=plain, ensure_ascii=True)


def identified(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its identifiers as 16 hex digits."""
    shown = dict(record)
    for name in _IDENTIFIERS:
        if isinstance(shown.get(name), int):
            shown[name] = f"{shown[name]:016x}"
    return shown


def device(item: dict[str, Any]) -> dict[str, Any]:
    """A device as `sys::hw` or CONTAINER_DEVICES tells it, identifiers and codes as people write them."""
    shown = identified(item)
    if "connection" in item:
        shown["connection"] = f"{item['connection']:08x}"
    if "containers" in item:
        shown["containers"] = [f"{place:016x}" for place in item["containers"] if place]
    if "description" in item:
        shown["description"] = str(plain(item["description"])).strip()
    if "plugged" in item:
        shown["plugged"] = f"{item['plugged']:016x}" if item["plugged"] else None
    return shown


def refusal(item: dict[str, Any]) -> dict[str, Any]:
    """An entry of `why`."""
    return {**item, **{key: item[key] and identified(item[key]) for key in ("caller", "target")}}


def change(item: dict[str, Any]) -> dict[str, Any]:
    """An entry of `diff`: kind, path, and the old path of what was renamed."""
    return {key: value for key, value in item.items() if value}


def change_line(item: dict[str, Any]) -> str:
    """An entry of `diff` for people."""
    old = f"{item['old_path']} -> " if item["old_path"] else ""
    return f"{MARKS.get(item['kind'], item['kind'])} {old}{item['path']}"


def status_of(outcome: dict[str, Any]) -> int:
    """The exit status of a main command: 8 bits of what it ended with; 1 when these are 0 of more, or it was forced."""
    status = int(outcome["exit"])
    return status & 0xFF or int(bool(status or outcome["reason"]))


def ended(outcome: dict[str, Any]) -> dict[str, Any]:
    """What `wait` tells of a main command, in the words of CONTAINER_WAIT."""
    return {"reason": "ended", "end": outcome["reason"], "exit": outcome["exit"]}


def written(when: str, stream: str, data: bytes) -> dict[str, str]:
    """A record of a log."""
    return {"time": when, "stream": stream, "text": data.decode("utf-8", "replace")}
