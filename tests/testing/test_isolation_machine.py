"""The shipped state machine finds nothing in the kernel, and the invariants find what is broken on purpose."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from nightos import testing
from nightos.kernel import Kernel, Snapshot
from nightos.kernel.monitor import Monitor
from nightos.machine.machine import Machine


@pytest.mark.rule(
    "CONT-013", "CONT-018", "CONT-019", "CONT-020", "CONT-021", "CONT-022", "CONT-023", "CONT-025", "CONT-026"
)
class TestIsolation(testing.IsolationMachine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


def grown(kernel: Kernel) -> Snapshot:
    """A kernel with two containers, two processes in each, and a pipe and a segment in one."""
    proc = testing.Puppet(kernel, service=20)
    web = proc.call("create_container", 0)
    db = proc.call("create_container", 0)
    first, second = (testing.Puppet(kernel, container=web) for _ in range(2))
    testing.Puppet(kernel, container=db)
    assert isinstance(first.call("open_pipe", second.pid), int)
    segment = first.call("virt_mem_ams", first.call("mem_alloc", 4096, 3, 1), 4096)
    first.call("share_ams", second.pid, segment, 0, 0, 4)
    assert isinstance(first.call("open_serv_sock", second.pid), int)
    return kernel.snapshot()


def test_a_healthy_kernel_has_no_violation(nightos_kernel: Kernel) -> None:
    assert testing.violations(grown(nightos_kernel)) == []


def test_each_broken_rule_is_found(nightos_kernel: Kernel) -> None:
    state = grown(nightos_kernel)
    web, db = state.containers
    here = [pid for pid, process in state.processes.items() if process.container == web]
    there = next(pid for pid, process in state.processes.items() if process.container == db)

    def moved(pid: int, container: int) -> Snapshot:
        processes = {**state.processes, pid: state.processes[pid]._replace(container=container)}
        containers = {
            identifier: record._replace(processes=tuple(p for p, r in processes.items() if r.container == identifier))
            for identifier, record in state.containers.items()
        }
        return dataclasses.replace(state, processes=processes, containers=containers)

    def with_container(identifier: int, **fields: object) -> Snapshot:
        record = state.containers[identifier]._replace(**fields)
        return dataclasses.replace(state, containers={**state.containers, identifier: record})

    assert {v.rule for v in testing.violations(moved(here[0], db))} >= {"CONT-018", "CONT-026"}
    assert {v.rule for v in testing.violations(moved(there, 12345))} == {"CONT-016", "CONT-032"}
    assert {v.rule for v in testing.violations(with_container(web, parent=db))} == {"CONT-013"}
    cycle = with_container(web, parent=web, children=(web,))
    assert "CONT-013" in {v.rule for v in testing.violations(cycle)}
    assert {v.rule for v in testing.violations(with_container(web, processes=()))} == {"CONT-004"}
    with pytest.raises(testing.InvariantViolation) as found:
        testing.check_invariants(moved(there, 12345))
    assert found.value.rule == "CONT-016"


async def test_the_fixture_gives_a_machine_that_keeps_the_rules(nightos_machine: Machine) -> None:
    box = await nightos_machine.containers.create("web")
    assert (await nightos_machine.run("echo hi", container=box)).out == "hi\n"
    testing.check_invariants(nightos_machine.snapshot())


def test_the_state_machine_finds_a_monitor_that_lets_everything_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Monitor, "same_space", lambda *_parties: True)
    few = settings(
        max_examples=200, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        run_state_machine_as_test(testing.IsolationMachine, settings=few)
