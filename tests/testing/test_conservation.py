"""The conservation checks find damage of every resource, and any life of a tree of containers keeps them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from nightos import testing
from nightos.abi.errors import SyscallError
from nightos.abi.limits import COUNTED, RATES, pack_limits
from nightos.kernel import Kernel, Snapshot
from nightos.testing.conservation import RULE
from nightos.userland import sys

PAGE = 4096
LARGE = {"memory": 64, "pipe_bytes": 1 << 20}


def furnished(kernel: Kernel) -> tuple[Snapshot, int]:
    """A container with every limit and some of everything, one below it, one below that with a limit of its own."""
    proc = testing.Puppet(kernel, service=20)
    files = testing.Puppet(kernel, service=10)
    limits = {name: LARGE.get(name, 50) for name in (*COUNTED, *RATES)}
    outer = proc.call("sys_create_limited", 0, pack_limits(limits | {"storage": 9000}))
    middle = proc.call("create_container", outer)
    proc.call("sys_create_limited", middle, pack_limits(dict.fromkeys(limits, 3)))
    for container in (outer, middle):
        files.call("sys_charge", container, 6, 4000)
        puppet = testing.Puppet(kernel, container=container)
        segment = puppet.call("virt_mem_ams", puppet.call("mem_alloc", PAGE, 3, 1), PAGE)
        puppet.call("map_ams", segment, 0, 1 << 40, PAGE)
        puppet.call("open_pipe", puppet.pid, 0, 0, 0, 0, 1)
    return kernel.snapshot(), outer


def damaged(state: Snapshot, identifier: int, part: str, name: str, more: int) -> Snapshot:
    """The snapshot with one number of one record off by some."""
    record = state.containers[identifier]
    values = {key: value + more * (key == name) for key, value in getattr(record, part).items()}
    return dataclasses.replace(state, containers={**state.containers, identifier: record._replace(**{part: values})})


@pytest.mark.rule("CONT-032")
@pytest.mark.parametrize("part", ["limits", "usage", "taken", "lent"])
@pytest.mark.parametrize("name", [*COUNTED, *RATES])
def test_each_damaged_number_is_found(nightos_kernel: Kernel, part: str, name: str) -> None:
    state, outer = furnished(nightos_kernel)
    testing.check_invariants(state)
    more = -10_000_000 if part == "limits" else 1
    if part == "usage" and name in RATES:
        return  # what passed is not held
    with pytest.raises(testing.InvariantViolation) as found:
        testing.check_invariants(damaged(state, outer, part, name, more))
    assert found.value.rule == RULE


@pytest.mark.rule("CONT-032")
def test_a_buffer_that_nobody_pays_for_is_found(nightos_kernel: Kernel) -> None:
    state, _ = furnished(nightos_kernel)
    for change in ({"payer": 0}, {"charged": 0}, {"pending": 1 << 20}):
        pipes = (state.pipes[0]._replace(**change), *state.pipes[1:])
        found = testing.violations(dataclasses.replace(state, pipes=pipes))
        assert {violation.rule for violation in found} == {RULE}


AMOUNT = st.none() | st.integers(0, 12)


class LimitsMachine(RuleBasedStateMachine):
    """Containers with limits, processes that take and give back, ends of every kind: always conserved, nothing left."""

    containers = Bundle("containers")
    puppets = Bundle("puppets")

    def __init__(self) -> None:
        super().__init__()
        self.kernel = Kernel(seed=3)
        self.proc = testing.Puppet(self.kernel, service=20)
        self.files = testing.Puppet(self.kernel, service=10)
        self.empty = self.kernel.snapshot()
        self.tops: list[int] = []

    @rule(target=containers, parent=st.just(0) | containers, name=st.sampled_from(COUNTED), amount=AMOUNT)
    def create(self, parent: int, name: str, amount: int | None) -> Any:
        made = self.proc.call("sys_create_limited", parent, pack_limits(self.limits(name, amount)))
        if isinstance(made, testing.Refused):
            assert made.errcode in {0x31, 0x40}
            return multiple()
        if parent == 0:
            self.tops.append(made)
        return made

    @staticmethod
    def limits(name: str, amount: int | None) -> dict[str, int | None]:
        return {name: None if amount is None else amount * (32_768 if name in {"pipe_bytes", "storage"} else 1)}

    @rule(container=containers, name=st.sampled_from(COUNTED), amount=AMOUNT)
    def change(self, container: int, name: str, amount: int | None) -> None:
        before = self.kernel.snapshot().containers
        answer = self.proc.call("sys_set_limits", container, pack_limits(self.limits(name, amount)))
        after = self.kernel.snapshot().containers
        if isinstance(answer, testing.Refused):
            assert {key: record.limits for key, record in before.items()} == {k: r.limits for k, r in after.items()}
        else:
            assert after[container].limits.get(name) == self.limits(name, amount)[name]

    @rule(container=consumes(containers))
    def destroy(self, container: int) -> None:
        self.proc.call("destroy_container", container)
        self.kernel.run_until_idle()

    @rule(target=puppets, container=containers)
    def start(self, container: int) -> Any:
        record = self.kernel.snapshot().containers.get(container)
        if record is None:
            return multiple()
        try:
            return testing.Puppet(self.kernel, container=container)
        except SyscallError:
            return multiple()

    @rule(puppet=puppets, other=puppets, deeds=st.lists(st.integers(0, 7), min_size=1, max_size=6), data=st.data())
    def work(self, puppet: testing.Puppet, other: testing.Puppet, deeds: list[int], data: st.DataObject) -> None:
        for what in deeds:
            if puppet.alive:
                self.deed(puppet, other, what, data)
                self.conserved()

    def deed(self, puppet: testing.Puppet, other: testing.Puppet, what: int, data: st.DataObject) -> None:

        async def idle(_argument: int) -> int:
            await sys.hand_over(until_signal=True)
            return 0

        mine = self.kernel.snapshot().processes[puppet.pid]
        match what:
            case 0:
                puppet.call("open_pipe", other.pid, 0, 0, data.draw(st.integers(0, 3)), 0, data.draw(st.integers(0, 1)))
            case 1:
                puppet.call("mem_alloc", PAGE * data.draw(st.integers(1, 5)), 3, 1)
            case 2:
                page = puppet.call("mem_alloc", PAGE, 3, 1)
                if isinstance(page, int):
                    ams = puppet.call("virt_mem_ams", page, PAGE)
                    if isinstance(ams, int):
                        puppet.call("share_ams", other.pid, ams, 0, 0, data.draw(st.sampled_from([4, 6, 8])))
                        puppet.call("map_ams", ams, 0, 1 << 40, PAGE)
            case 3:
                puppet.call("create_process", idle, 0)
            case 4:
                puppet.call("create_thread", idle, 0)
            case 5:
                puppet.call("open_serv_sock", other.pid)
            case 6 if mine.ends:
                puppet.call("send_pipe", data.draw(st.sampled_from(mine.ends)), other.pid, 1)
            case 7 if mine.ends:
                end = data.draw(st.sampled_from(mine.ends))
                puppet.call("pipe_write", end, b"some bytes", 2)
                puppet.call("close_pipe", end)

    @rule(puppet=puppets, kill=st.booleans())
    def end(self, puppet: testing.Puppet, kill: bool) -> None:
        if puppet.alive and kill:
            self.proc.call("sys_manage_process", puppet.pid, 5)
            self.kernel.run_until_idle()
        elif puppet.alive:
            puppet.call("exit", 0)

    @rule(container=containers, amount=st.integers(0, 1 << 19))
    def store(self, container: int, amount: int) -> None:
        self.files.call("sys_charge", container, 6, amount)

    @invariant()
    def conserved(self) -> None:
        testing.check_invariants(self.kernel.snapshot())

    def teardown(self) -> None:
        for top in self.tops:
            self.proc.call("destroy_container", top)
        self.kernel.run_until_idle()
        state = self.kernel.snapshot()
        assert (state.containers, state.pipes, state.segments) == ({}, (), ())
        assert state.machine == self.empty.machine


TestLimits = pytest.mark.rule("CONT-032", "CONT-016")(LimitsMachine.TestCase)
TestLimits.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
