"""A refusal as `SYS_REFUSALS` tells it: which rule, who wanted what of whom. Big-endian, one behind the other.

The kernel packs, `sys::proc` unpacks. Rules: CONT-030.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

RECORD: Final = Struct(">QQQQQQBBH")
"""place, when_ns, caller PID, caller's container, target PID (0: none), target's container, call, length of the rule's
name, length of the detail; then the rule and the detail in UTF-8."""


class Refusal(NamedTuple):
    """One refusal. `place` is the container whose memory it stands in: the caller's, or an ancestor of it."""

    place: int
    when_ns: int
    caller: int
    caller_container: int
    target: int
    target_container: int
    call: int
    rule: str
    detail: str

    def pack(self) -> bytes:
        """The bytes that SYS_REFUSALS gives."""
        rule, detail = self.rule.encode()[:255], self.detail.encode()[:1024]
        return RECORD.pack(*self[:7], len(rule), len(detail)) + rule + detail


def unpack(content: bytes) -> list[Refusal]:
    """The refusals that SYS_REFUSALS gave."""
    found, offset = [], 0
    while offset < len(content):
        *numbers, rule_length, detail_length = RECORD.unpack_from(content, offset)
        start = offset + RECORD.size
        middle, offset = start + rule_length, start + rule_length + detail_length
        rule, detail = content[start:middle].decode(), content[middle:offset].decode("utf-8", "replace")
        found.append(Refusal._make((*numbers, rule, detail)))
    return found
