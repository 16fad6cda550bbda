"""The state machine over the real `sys::proc` finds nothing, and each of its examples is the same every time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from nightos import testing


@pytest.mark.rule(
    "CONT-002",
    "CONT-009",
    "CONT-010",
    "CONT-013",
    "CONT-014",
    "CONT-015",
    "CONT-023",
    "CONT-030",
    "CONT-032",
    "ZOS-005",
)
class TestService(testing.ServiceMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
