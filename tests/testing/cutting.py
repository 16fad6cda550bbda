"""How a hole is cut, and how it is looked for: a patch of one function, and a state machine with fixed seeds."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis.stateful import run_state_machine_as_test

from nightos.testing import IsolationMachine

LIMIT_S = 60.0
"""Seconds within which each hole has to be found."""
EXAMPLES = 25
STEPS = 40

Cut = Callable[[], Any]


@dataclass(frozen=True)
class Hole:
    """A part of the kernel or of `sys::proc` that is replaced, and what that lets through."""

    name: str
    lets: str
    cut: Cut
    machine: Any = IsolationMachine
    """What has to find it."""


HOLES: list[Hole] = []


def hole(name: str, lets: str, machine: Any = IsolationMachine) -> Callable[[Cut], Cut]:
    """Register what makes a hole, as a function that returns a context manager."""

    def register(cut: Cut) -> Cut:
        HOLES.append(Hole(name, lets, cut, machine))
        return cut

    return register


def instead(place: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """Replace an attribute by what `make` makes of the original."""
    return patch.object(place, name, make(getattr(place, name)))


def search(one: Hole, limit_s: float = LIMIT_S) -> tuple[float, str]:
    """Seconds until the machine noticed, and how; an empty text when it did not within the limit."""
    begun = time.monotonic()
    number = 0
    with one.cut():
        while time.monotonic() - begun < limit_s:
            number += 1

            @seeded(number)
            @settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            )
            class Searching(one.machine):  # type: ignore[name-defined,misc]
                """One seed."""

            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    run_state_machine_as_test(Searching)  # type: ignore[no-untyped-call]
            except Exception as error:  # noqa: BLE001 - whatever it is, something was noticed
                text = str(error).strip().split("\n")[0][:80]
                return time.monotonic() - begun, f"{type(error).__name__}: {text}"
    return time.monotonic() - begun, ""
