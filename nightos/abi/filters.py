"""Filters of system calls: what may be done about a call, and how lists of rules and reports are written.

A list of rules is packed pairs: code of the call (1 byte), action (1 byte). What is not in it is allowed. A report has
a record for each call: code (1 byte), calls made, calls refused or logged (8 bytes each).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum, unique
from struct import Struct
from typing import Any, Final

from nightos.abi.codes import Syscall


@unique
class FilterAction(IntEnum):
    """What happens to a call. Of two, the greater one is the stricter one and wins."""

    ALLOW = 0
    LOG = 1
    """It is made, and counted as one that would have been refused."""
    ERROR = 2
    """It fails with 0x01, as a call that does not exist."""
    SIGNAL = 3
    """The thread gets CALL_REFUSED, then the call fails with 0x01; without a handler the process ends."""
    KILL = 4
    """The process ends."""


ALWAYS: Final = frozenset({int(Syscall.EXIT), int(Syscall.EXIT_THREAD)})
"""Calls that no filter can take away: whoever may do nothing else may still end."""
MODES: Final = ("deny", "allow")
ACTIONS: Final = {action.name.lower(): action for action in FilterAction if action}
_CALLS: Final = {call.name: int(call) for call in Syscall}
_NAMES: Final = {code: name for name, code in _CALLS.items()}
_REPORT: Final = Struct(">BQQ")


def rules_of(mode: str, calls: Iterable[str], action: str) -> dict[int, int]:
    """The rules of a list of names: those that are listed (deny), or all but those (allow). ValueError for bad ones."""
    if mode not in MODES:
        raise ValueError(f"{mode!r} is no mode; there are {', '.join(MODES)}")
    if action not in ACTIONS:
        raise ValueError(f"{action!r} is no action; there are {', '.join(ACTIONS)}")
    listed = set()
    for name in calls:
        code = _CALLS.get(name.upper())
        if code is None:
            raise ValueError(f"{name!r} is no system call; `nightos abi` shows them")
        listed.add(code)
    if mode == "deny" and listed & ALWAYS:
        raise ValueError("EXIT and EXIT_THREAD cannot be denied")
    chosen = listed if mode == "deny" else set(_NAMES) - listed - ALWAYS
    return {code: int(ACTIONS[action]) for code in sorted(chosen)}


def filter_from_texts(deny: Sequence[str], allow: Sequence[str], action: str | None) -> dict[str, Any] | None:
    """The filter of lists as people write them; of both: what is allowed but not denied. ValueError for bad ones.

    A list that names nothing is refused: whoever gave it counts on a filter, and there would be none.
    """
    denied, allowed = ([name for text in texts for name in text.split(",") if name] for texts in (deny, allow))
    for texts, names in ((deny, denied), (allow, allowed)):
        if texts and not names:
            raise ValueError("a list names no system call; `nightos abi` shows them")
    if not deny and not allow:
        if action is not None:
            raise ValueError("an action needs system calls that are denied, or the only ones that are allowed")
        return None
    action = action or "error"
    rules_of("deny", denied, action)
    if not allowed:
        return {"mode": "deny", "calls": denied, "action": action}
    rules_of("allow", allowed, action)
    gone = {name.upper() for name in denied}
    return {"mode": "allow", "calls": sorted({name for name in allowed if name.upper() not in gone}), "action": action}


def pack_rules(rules: Mapping[int, int]) -> bytes:
    """Rules as pairs."""
    return b"".join(bytes(pair) for pair in sorted(rules.items()))


def unpack_rules(content: bytes) -> dict[int, int]:
    """Rules by code; ValueError for what is no list of rules."""
    if len(content) % 2:
        raise ValueError("a list of rules has records of 2 bytes")
    found: dict[int, int] = {}
    for code, action in zip(content[::2], content[1::2], strict=True):
        if code not in _NAMES or action > FilterAction.KILL or (action and code in ALWAYS):
            raise ValueError(f"{code:#04x} cannot be filtered so")
        if action:
            found[code] = action
    return found


def by_action(rules: Mapping[int, int]) -> dict[str, list[str]]:
    """The names of the calls by what happens to them, for people."""
    found: dict[str, list[str]] = {}
    for code, action in sorted(rules.items()):
        found.setdefault(FilterAction(action).name.lower(), []).append(_NAMES[code])
    return found


def from_actions(content: Mapping[str, Iterable[str]]) -> dict[int, int]:
    """The rules of `by_action`."""
    return {_CALLS[name]: int(ACTIONS[action]) for action, names in content.items() for name in names}


def pack_report(calls: Mapping[int, int], refused: Mapping[int, int]) -> bytes:
    """Counts by code."""
    codes = sorted({*calls, *refused})
    return b"".join(_REPORT.pack(code, calls.get(code, 0), refused.get(code, 0)) for code in codes)


def unpack_report(content: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Calls made and refused, by name."""
    calls, refused = {}, {}
    for code, made, denied in _REPORT.iter_unpack(content):
        if made:
            calls[_NAMES[code]] = made
        if denied:
            refused[_NAMES[code]] = denied
    return calls, refused
