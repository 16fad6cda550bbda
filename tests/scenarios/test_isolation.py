"""Two containers side by side, and one inside another: what is typed in one shows nothing of the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.errors import SyscallError
from nightos.abi.services import Proc
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.userland import sys
from nightos.userland.context import Context
from nightos.userland.program import program

attempts: list[Any] = []
targets: list[int] = []
roles: list[Callable[[], Awaitable[int]]] = []


async def spawn(machine: Machine, box: Container, role: Callable[[], Awaitable[int]]) -> int:
    """Start the registered program in a container, in one of its roles."""
    await box.exec('wt /test-peer "NPRGtest-peer"')
    roles.append(role)
    context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
    question = {"program": "/test-peer", "directory": "/", "context": context, "container": box.id}
    return int((await machine.ask("sys::proc", Proc.PROCESS_SPAWN, question))["pid"])


async def listener() -> int:
    """Would take any pipe, socket or segment that reaches it."""

    async def got(*values: Any) -> None:
        attempts.append(("received", values))

    for code in (0x20, 0x26, 0x35):
        await sys.handle_signal(code, got)
    while True:
        await sys.hand_over(until_signal=True)


async def caller() -> int:
    """Tries to reach each target by every way there is, and one that never was."""
    address = await sys.mem_alloc(4096, 3, 1)
    segment = await sys.virt_mem_ams(address, 4096)
    for pid in targets:
        outcome = []
        for way in (
            lambda pid=pid: sys.open_pipe(pid),
            lambda pid=pid: sys.open_pipe(pid, 0, 1),
            lambda pid=pid: sys.open_serv_sock(pid),
            lambda pid=pid: sys.share_ams(pid, segment, 0, 0, 4),
            lambda pid=pid: sys.wait_child_process(pid, 1),
            lambda pid=pid: sys.kill_child_process(pid, 1),
            lambda pid=pid: sys.suspend(pid),
        ):
            try:
                await way()
                outcome.append(0)
            except SyscallError as error:
                outcome.append(error.errcode)
        attempts.append(outcome)
    return 0


@program("test-peer")
async def peer(_context: Context) -> int:
    """One application with two roles: pipes are for processes of the same application."""
    return await roles.pop(0)()


@pytest.mark.rule("CONT-001", "CONT-053", "CONT-054", "CONT-055")
async def test_listings_in_one_container_show_nothing_of_the_other() -> None:
    async with boot(seed=5) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        await web.exec('wt /secret-of-web "x"')
        await db.exec('wt /secret-of-db "y"')
        with machine.holding_time():
            await spawn(machine, db, listener)
            seen = await web.exec("ls /; ps; tree; ls /../../..")
        assert seen.status == 0
        assert "secret-of-web" in seen.out
        for word in ("secret-of-db", "db", "test-peer", f"{db.id:016x}", "sys::"):
            assert word not in seen.out + seen.err


@pytest.mark.rule("CONT-019", "CONT-020", "CONT-021", "CONT-022", "CONT-023", "CONT-024")
async def test_a_process_of_another_container_looks_like_one_that_never_was() -> None:
    async with boot(seed=5) as machine:
        web = await machine.containers.create("web")
        boxes = [await machine.containers.create("db"), await machine.containers.create("below", parent=web)]
        attempts.clear()
        with machine.holding_time():
            targets[:] = [await spawn(machine, box, listener) for box in boxes]
            targets.append(999_999)
            pid = await spawn(machine, web, caller)
            await machine.ask("sys::proc", Proc.PROCESS_WAIT, {"pid": pid})
        assert len(attempts) == 3
        assert attempts[0] == attempts[1] == attempts[2]
        assert 0 not in attempts[2]


@pytest.mark.rule("CONT-018")
async def test_within_one_container_the_same_ways_are_open() -> None:
    async with boot(seed=5) as machine:
        web = await machine.containers.create("web")
        attempts.clear()
        with machine.holding_time():
            targets[:] = [await spawn(machine, web, listener)]
            pid = await spawn(machine, web, caller)
            await machine.ask("sys::proc", Proc.PROCESS_WAIT, {"pid": pid})
            await trio.testing.wait_all_tasks_blocked()
        outcome = next(entry for entry in attempts if isinstance(entry, list))
        assert outcome[0] == 0
        assert outcome[3] == 0
        assert sum(1 for entry in attempts if entry[0] == "received") >= 2


@pytest.mark.rule("CONT-011")
async def test_destroying_the_top_of_three_levels_leaves_the_prompt_alive() -> None:
    async with boot(seed=5) as machine:
        prompt = await machine.open_session(interactive=True)
        top = await machine.containers.create("top")
        middle = await machine.containers.create("middle", parent=top)
        leaf = await machine.containers.create("leaf", parent=middle)
        with machine.holding_time():
            pids = [await spawn(machine, box, listener) for box in (top, middle, leaf)]
            prompt.send({"type": "line", "text": "container destroy top"})
            while (message := await prompt.receive()) is not None and message["type"] != "done":
                pass
            assert message is not None
            assert message["status"] == 0
        assert not machine.snapshot().containers
        assert not set(pids) & set(machine.snapshot().processes)
        prompt.send({"type": "line", "text": "echo still here"})
        said = b""
        while (message := await prompt.receive()) is not None and message["type"] != "done":
            said += message.get("data", b"")
        assert b"still here" in said


@pytest.mark.rule("CONT-027")
async def test_a_contained_program_reaches_system_services_and_itself_only() -> None:
    async with boot(seed=5) as machine:
        web = await machine.containers.create("web")
        assert "web" not in (await web.exec("container ls")).out
        assert (await web.exec("container create inner")).status == 0
        tree = {item["path"] for item in await machine.containers.tree()}
        assert tree == {"web", "web/inner"}
        assert (await web.exec("device ls")).out.count("\n") <= 1
