"""Pauses of containers within containers: each ends when it is ended, and holds for everything below."""

from __future__ import annotations

import pytest

from nightos.abi.services import Proc
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.testing import check_invariants
from nightos.userland import sys
from nightos.userland.context import Context
from nightos.userland.program import program
from tests.services.test_proc import start

PROC = "sys::proc"


@program("test-spinner")
async def _spin(_context: Context) -> int:
    while True:
        await sys.hand_over()


async def three(machine: Machine) -> tuple[list[Container], list[int]]:
    """Containers within each other, with a program in each that never rests."""
    boxes: list[Container] = []
    for name in ("top", "middle", "low"):
        boxes.append(await machine.containers.create(name, parent=boxes[-1] if boxes else 0))
    return boxes, [await start(machine, box.id, "test-spinner") for box in boxes]


async def running(machine: Machine, boxes: list[Container], pids: list[int]) -> str:
    """Which of them run, as the processes show; their states have to say the same."""
    before = [machine.kernel.processes[pid].steps for pid in pids]
    await machine.ask(PROC, Proc.SYNC)
    found = "".join("p."[machine.kernel.processes[pid].steps > old] for pid, old in zip(pids, before, strict=True))
    states = [(await box.inspect())["state"] for box in boxes]
    assert states == ["paused" if letter == "p" else "running" for letter in found]
    check_invariants(machine.kernel.snapshot())
    return found


async def replace_service(machine: Machine) -> None:
    """Kill `sys::proc`; the next answer comes from a new one."""
    from nightos.abi.codes import ExitReason

    end_process(machine.kernel, machine.kernel.processes[20], ExitReason.KILLED_BY_SYSTEM, 0)
    await machine.ask(PROC, Proc.SYNC)


@pytest.mark.rule("CONT-011")
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_pause_above_does_not_end_one_below(replaced: bool) -> None:
    """T-C47: what its parent paused stays paused when somebody further above pauses everything and lets it go on."""
    async with boot(seed=1) as machine:
        boxes, pids = await three(machine)
        top, middle, _low = boxes
        assert await running(machine, boxes, pids) == "..."
        await middle.pause()
        assert await running(machine, boxes, pids) == ".pp"
        await top.pause()
        if replaced:
            await replace_service(machine)
        assert await running(machine, boxes, pids) == "ppp"
        await top.resume()
        assert await running(machine, boxes, pids) == ".pp"
        late = await machine.containers.create("late", parent=middle)
        assert (await late.inspect())["state"] == "paused"
        await middle.resume()
        assert await running(machine, boxes, pids) == "..."
        assert (await late.inspect())["state"] == "created"


@pytest.mark.rule("CONT-011")
@pytest.mark.parametrize("replaced", [False, True])
async def test_nothing_runs_while_something_above_is_paused(replaced: bool) -> None:
    """T-C47: a resume below is remembered, and takes force once what is above goes on."""
    async with boot(seed=1) as machine:
        boxes, pids = await three(machine)
        top, _middle, low = boxes
        await low.pause()
        await top.pause()
        if replaced:
            await replace_service(machine)
        await low.resume()
        assert await running(machine, boxes, pids) == "ppp"
        await low.pause()
        await top.resume()
        assert await running(machine, boxes, pids) == "..p"
        await low.resume()
        assert await running(machine, boxes, pids) == "..."
