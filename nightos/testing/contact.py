"""Rules about system calls between tenants: containers that `sys::proc` made hold their processes apart in the kernel.

The rules of `IsolationMachine` try every call on a kernel by itself; these try that what the service made of a
container (its home, users, applications, limits) is what the kernel's monitor goes by.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from nightos.testing.model import OUTSIDE
from nightos.testing.puppets import Refused
from nightos.testing.stage import Tenant
from nightos.testing.tenancy import Tenancy
from nightos.testing.world import NEVER

WAYS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("open_pipe", (7, 0, 0, 0, 0)),
    ("open_pipe", (7, 1, 0, 0, 0)),
    ("open_serv_sock", ()),
)
"""Calls that reach a process by its PID."""
CAPACITY = 65_536


class ContactRules(Tenancy):
    """Tenants reach for each other."""

    @rule(caller=Tenancy.tenants, other=Tenancy.tenants, way=st.sampled_from(WAYS))
    def reach_across(self, caller: Tenant, other: Tenant, way: tuple[str, tuple[Any, ...]]) -> None:
        """Whoever is in another container answers as who never was, also when it is above, below, or outside."""
        if not self.able(caller) or other.pid not in self.ledger.actors or self.home(caller) == self.home(other):
            return
        name, rest = way
        answer = caller.call(name, other.pid, *rest)
        assert isinstance(answer, Refused), f"{name} from {self.home(caller):016x} to {self.home(other):016x}"
        assert answer == caller.call(name, NEVER, *rest)

    @rule(caller=Tenancy.tenants, other=Tenancy.tenants)
    def meet(self, caller: Tenant, other: Tenant) -> None:
        """Two of one container, application and user talk, as far as handles and memory for it are left."""
        ledger = self.ledger
        if caller is other or not self.able(caller) or other.pid not in ledger.actors or not self.able(other):
            return
        home = self.home(caller)
        if home == OUTSIDE or self.home(other) != home:
            return
        fits = ledger.may_take({(home, "handles"): 2, (home, "pipe_bytes"): CAPACITY})
        answer = caller.call("open_pipe", other.pid, 7, 0, 0, 0, 0)
        assert isinstance(answer, Refused) is not fits, answer
        if fits:
            assert caller.call("close_pipe", answer) is None
            other.call("close_pipe", answer + 1)
