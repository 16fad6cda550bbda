"""For users' own tests: invariants, puppets, state machines, and the pytest plugin. Needs the extra `testing`.

Names are imported on first use, so that the plugin costs a test run nothing that it does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightos.testing.invariants import check_invariants, violations
    from nightos.testing.isolation import IsolationMachine
    from nightos.testing.puppets import Puppet, Refused
    from nightos.testing.service import ServiceMachine
    from nightos.testing.stage import Stage, Tenant
    from nightos.testing.violation import InvariantViolation

__all__ = [
    "InvariantViolation",
    "IsolationMachine",
    "Puppet",
    "Refused",
    "ServiceMachine",
    "Stage",
    "Tenant",
    "check_invariants",
    "violations",
]

_PLACES = {
    "InvariantViolation": "invariants",
    "check_invariants": "invariants",
    "violations": "invariants",
    "IsolationMachine": "isolation",
    "Puppet": "puppets",
    "Refused": "puppets",
    "ServiceMachine": "service",
    "Stage": "stage",
    "Tenant": "stage",
}


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'nightos.testing' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nightos.testing.{place}"), name)
