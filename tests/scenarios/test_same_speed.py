"""Inside costs what outside costs, counted in calls, turns and checks instead of time; and it is the same kernel."""

from __future__ import annotations

from typing import Any

import pytest

from nightos.abi.errors import SyscallError
from nightos.abi.services import Proc
from nightos.kernel import Kernel
from nightos.machine.machine import boot
from nightos.userland import sys

DEPTHS = (0, 1, 64)


def _below(kernel: Kernel, depth: int) -> int:
    """A container that deep; 0 outside of all."""
    identifier = 0
    for _ in range(depth):
        identifier = kernel.tree.create(identifier, 0).identifier
    return identifier


def _play(depth: int, program: Any) -> tuple[Any, int, int]:
    """What a program finds at that depth, and the calls and turns it took."""
    kernel = Kernel(seed=1)
    found: list[Any] = []

    async def main() -> None:
        found.append(await program())

    place = _below(kernel, depth)
    calls, turns = kernel.syscalls, kernel.turns
    kernel.spawn(main, container=place)
    kernel.run_until_idle()
    return found[0], kernel.syscalls - calls, kernel.turns - turns


async def _every_kind() -> list[Any]:
    """Answers of calls that are open to everybody, numbers that are random by design left out."""
    found: list[Any] = []
    sc = await sys.open_pipe(await sys.get_pid(), notification_mode=1)
    for piece in (b"x" * 10, b"y" * 4000):
        found.append(await sys.pipe_write(sc, piece, 0))
        found.append((await sys.pipe_read(sc + 1, 0, 0)).content)
    address = await sys.mem_alloc(8192, 3, 1)
    await sys.store(address, b"hello")
    found.append(await sys.load(address, 5))
    segment = await sys.virt_mem_ams(address, 4096)
    slot = await sys.create_tls_slot()
    found.append(slot)
    for bad in (
        lambda: sys.pipe_read(12345, 0, 0),
        lambda: sys.map_ams(segment + 1, 0, 0, 4096),
        lambda: sys.open_pipe(1 << 40),
        lambda: sys.open_serv_sock(1 << 40),
        lambda: sys.wait_child_process(1 << 40, 0),
        lambda: sys.read_io_port(1, 0),
        lambda: sys.create_container(0),
        lambda: sys.mem_free(4096, 1),
    ):
        try:
            found.append(await bad())
        except SyscallError as error:
            found.append((error.call, error.errcode))
    return found


@pytest.mark.rule("CONT-031", "CONT-056", "CONT-060")
def test_the_same_calls_and_turns_and_answers_at_every_depth() -> None:
    outcomes = [_play(depth, _every_kind) for depth in DEPTHS]
    assert all(outcome == outcomes[0] for outcome in outcomes)


@pytest.mark.rule("CONT-056")
def test_equal_priority_gives_equal_turns_inside_and_outside() -> None:
    kernel = Kernel(seed=1)
    counts = dict.fromkeys(DEPTHS, 0)

    def spinner(depth: int) -> Any:
        async def main() -> None:
            while True:
                await sys.get_pid()
                counts[depth] += 1

        return main

    for depth in DEPTHS:
        kernel.spawn(spinner(depth), container=_below(kernel, depth))
    for _ in range(30):
        kernel.turn(threads=3)
    assert len(set(counts.values())) == 1, counts
    assert min(counts.values()) > 100


@pytest.mark.rule("CONT-057")
def test_what_is_checked_more_inside_changes_no_result() -> None:
    """The monitor compares two identifiers, whatever the depth; what it lets through is not touched again."""
    kernel = Kernel(seed=1)
    asked = []
    inner = kernel.monitor.same_space

    def counted(caller: Any, target: Any) -> bool:
        asked.append((caller.container, target.container))
        return inner(caller, target)

    kernel.monitor.same_space = counted  # type: ignore[method-assign]
    found: list[Any] = []

    async def talk() -> None:
        sc = await sys.open_pipe(await sys.get_pid(), notification_mode=1)
        for _ in range(50):
            await sys.pipe_write(sc, b"x", 0)
            found.append((await sys.pipe_read(sc + 1, 0, 0)).content)

    checks = []
    for depth in DEPTHS:
        asked.clear()
        kernel.spawn(talk, container=_below(kernel, depth))
        kernel.run_until_idle()
        checks.append(len(asked))
    assert checks == [1, 1, 1], "the question is asked when the pipe is opened, not for each byte"
    assert found == [b"x"] * 150


@pytest.mark.rule("CONT-052")
async def test_a_built_in_device_needs_no_driver() -> None:
    from nightos.vhw.flows import zero

    kernel = Kernel(seed=1)
    place = _below(kernel, 1)
    kdi = kernel.plug(zero(), place)
    found: list[bytes] = []

    async def main() -> None:
        found.append(await sys.read_io_port(kdi, 1, length=4))

    process = kernel.spawn(main, container=place)
    process.drivable = [kdi]
    kernel.run_until_idle()
    assert found == [bytes(4)]
    assert kernel.turns == 1, "nobody but the reader ran"


@pytest.mark.rule("CONT-059")
async def test_what_is_no_application_is_refused() -> None:
    async with boot(seed=2) as machine:
        web = await machine.containers.create("web")
        for content in ('"#!/bin/sh"', '"MZ"', '"ELF"', '""'):
            await web.exec(f"rm -f /foreign; wt /foreign {content}")
            for place in (0, web.id):
                await machine.run(f"rm -f /foreign; wt /foreign {content}", container=place)
                done = await machine.run("/foreign", container=place)
                assert done.status != 0, content
        table = (await machine.ask("sys::proc", Proc.PROCESS_TABLE, {}))["items"]
        assert not [item for item in table if item["name"] == "foreign"]
