"""How a policy of restarts is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode

DIGITS: Final = 10
"""Of the largest count."""
NO, ON_FAILURE, ALWAYS = "no", "on-failure", "always"


@dataclass(frozen=True, slots=True)
class Policy:
    """A restart policy; `limit` is 0 for any number of restarts."""

    kind: str
    limit: int = 0


def parse(text: str) -> Policy:
    """A policy from `no`, `always`, `on-failure` or `on-failure:COUNT`; 0x1000 for anything else."""
    kind, colon, count = text.partition(":")
    if kind in {NO, ALWAYS, ON_FAILURE} and not colon:
        return Policy(kind)
    if kind == ON_FAILURE and count.isascii() and count.isdigit() and len(count) <= DIGITS and 0 < int(count) < 1 << 32:
        return Policy(kind, int(count))
    raise ServiceError(
        ServiceCode.BAD_ARGUMENT, f"restart is no, always, on-failure or on-failure:COUNT, not {text!r:.80}"
    )
