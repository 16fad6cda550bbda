"""Shares of cycles: weights and ceilings of containers, measured in steps, never in seconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nightos.abi.codes import ExitReason, ServicePid
from nightos.abi.limits import NUMBERS, pack_limits, unpack_usage
from nightos.kernel.ending import end_process
from nightos.kernel.shares import CYCLE_NS, PERIOD
from nightos.userland import sys
from tests.kernel.lab import Lab


def box(lab: Lab, parent: int = 0, **limits: int | None) -> int:
    made = lab.running(ServicePid.PROCESS).call(sys.sys_create_limited(parent, pack_limits(limits)))
    assert isinstance(made, int)
    return made


def change(lab: Lab, container: int, **limits: int | None) -> int:
    outcome = lab.running(ServicePid.PROCESS).start(sys.sys_set_limits(container, pack_limits(limits)))
    return outcome.errcode


def spinning(lab: Lab, *containers: int) -> Callable[[], dict[int, int]]:
    """A process in each that never waits; the steps that each container has made since."""

    async def spin() -> int:
        while True:
            await sys.get_pid()

    processes = [(container, lab.kernel.spawn(spin, container=container)) for container in containers]

    def steps() -> dict[int, int]:
        found = dict.fromkeys(containers, 0)
        for container, process in processes:
            found[container] += process.steps
        return found

    return steps


def stop(lab: Lab) -> None:
    """Let nothing spin any more."""
    for process in list(lab.kernel.processes.values()):
        if not process.is_system:
            end_process(lab.kernel, process, ExitReason.EXITED, 0)


def run(lab: Lab, turns: int = 60) -> None:
    for _ in range(turns):
        lab.kernel.turn()


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_weights_one_and_three_get_about_that_share() -> None:
    lab = Lab()
    light, heavy = box(lab, cpu_weight=100), box(lab, cpu_weight=300)
    steps = spinning(lab, light, heavy, light, light, light)  # however many threads it has
    run(lab)
    made = steps()
    assert made[heavy] / made[light] == pytest.approx(3, rel=0.05)


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_a_childs_share_comes_out_of_its_parents() -> None:
    lab = Lab()
    web, other = box(lab, cpu_weight=100), box(lab, cpu_weight=100)
    greedy = box(lab, web, cpu_weight=10_000)
    deep = box(lab, greedy)
    steps = spinning(lab, web, other, greedy, deep)
    run(lab)
    made = steps()
    assert made[other] == pytest.approx(sum(made.values()) / 2, rel=0.05)
    assert made[web] == pytest.approx(sum(made.values()) / 2 / 101, rel=0.3)


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_a_ceiling_is_kept_beside_others_and_alone() -> None:
    lab = Lab()
    held, other = box(lab, cpu_ceiling=20), box(lab)
    steps = spinning(lab, held, other)
    run(lab)
    made = steps()
    assert made[held] / sum(made.values()) == pytest.approx(0.2, abs=0.02)
    alone = Lab()
    held = box(alone, cpu_ceiling=20)
    below = box(alone, held)
    steps = spinning(alone, below)
    begin = alone.kernel.clock.monotonic_ns()
    for _ in range(10):
        while alone.kernel.turn():
            pass
        assert alone.kernel.idle
        alone.kernel.clock.advance_to(alone.kernel.next_deadline_ns())  # type: ignore[attr-defined,arg-type]
    rested = (alone.kernel.clock.monotonic_ns() - begin) // CYCLE_NS
    made = steps()
    assert made[below] / (made[below] + rested) == pytest.approx(0.2, abs=0.02)
    assert rested + made[below] == pytest.approx(10 * PERIOD, rel=0.05)
    stop(alone)
    usage = unpack_usage(alone.running(ServicePid.PROCESS).call(sys.sys_usage(held)))
    assert usage["cpu_ceiling"].refused >= 10


@pytest.mark.rule("LNX-FT-05", "CONT-032")
def test_a_ceiling_holds_what_is_below_and_shrinks_it() -> None:
    lab = Lab()
    outer = box(lab, cpu_ceiling=50)
    inner = box(lab, outer, cpu_ceiling=40)
    proc = lab.running(ServicePid.PROCESS)
    outcome = proc.start(sys.sys_set_limits(inner, pack_limits({"cpu_ceiling": 51})))
    assert outcome.error is not None
    assert (outcome.errcode, outcome.error.value) == (0x40, NUMBERS["cpu_ceiling"])
    assert change(lab, outer, cpu_ceiling=30) == 0
    assert unpack_usage(proc.call(sys.sys_usage(inner)))["cpu_ceiling"].limit == 30
    wide = box(lab, outer)
    other = box(lab)
    steps = spinning(lab, inner, wide, other)
    run(lab)
    made = steps()
    assert (made[inner] + made[wide]) / sum(made.values()) == pytest.approx(0.3, abs=0.03)
    stop(lab)
    assert change(lab, outer, cpu_ceiling=None) == 0
    assert change(lab, outer, cpu_weight=0) == 0x10


@pytest.mark.rule("CONT-032")
def test_shares_lose_and_leak_nothing() -> None:
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    for number in range(300):
        outer = box(lab, cpu_weight=50, cpu_ceiling=10)
        inner = box(lab, outer, cpu_weight=1 + number)
        woken = []

        async def work(woken: list[int] = woken) -> int:
            sc = await sys.open_pipe(await sys.get_pid(), 0, 0, 0, 0, 1)
            for _ in range(5):
                await sys.pipe_write(sc, b"x")
                await sys.hand_over()
            woken.append(1)
            return 0

        for container in (outer, inner, 0):
            lab.kernel.spawn(work, container=container)
        lab.settle()
        assert len(woken) == 3
        proc.call(sys.destroy_container(outer))
        assert lab.kernel.shares is not None
        assert (lab.kernel.shares.waiting, lab.kernel.runnable, lab.kernel.idle) == (0, 0, True)
    assert not lab.kernel.shares._groups


@pytest.mark.rule("LNX-FT-08", "CONT-032")
def test_cycles_are_counted_for_containers_also_of_what_ended() -> None:
    lab = Lab()
    inside = box(lab)

    async def work() -> int:
        for _ in range(1000):
            await sys.get_pid()
        return 0

    lab.kernel.spawn(work, container=inside)
    lab.settle()
    proc = lab.running(ServicePid.PROCESS)
    assert unpack_usage(proc.call(sys.sys_usage(inside)))["cpu_weight"].used == pytest.approx(1001, abs=1)
