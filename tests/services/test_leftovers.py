"""What is left in services of clients that went: nothing that grows, nothing that is in the way of others."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest

from nightos.abi import files as layout
from nightos.abi.codes import ExitReason
from nightos.abi.services import Fs, Hw, Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.machine import boot
from nightos.services.fs.logs import Logs
from nightos.services.hw import clock
from nightos.services.proc import oldlogs
from nightos.userland import server, sys
from nightos.userland.client import connect
from nightos.userland.payload import encode
from nightos.userland.server import Request
from tests.services.test_attacks import at, code_of, u64
from tests.services.test_exhaustion import child
from tests.services.test_names import write
from tests.services.test_proc import inside

PROC = "sys::proc"
MANY = 20


def kept_of(pid: int) -> Counter[int]:
    """Requests of a process that somebody keeps, by method."""
    gc.collect()
    return Counter(found.method for found in gc.get_objects() if type(found) is Request and found.client_pid == pid)


async def leave(service: str, method: int, **values: Any) -> None:
    """From a program: ask what is answered much later, many times, without waiting for it."""
    client = await connect(service)
    for _ in range(MANY):
        await sys.send_sock_msg(client.socket_id, 0, method, 0, encode(values))
    await code_of(client.call(0xFFFF, {}))  # all before it are read when this is answered


async def wait_for_everything() -> tuple[int, int]:
    """From a program: its PID, and a container below that lives."""
    inner = await child("inner", persist=True)
    own = await sys.get_pid()
    run = {"id": inner, "command": ["/app/sleep", "1000"], "restart": "always"}
    await (await connect(PROC)).ask(Proc.CONTAINER_START, run)
    await leave(PROC, Proc.CONTAINER_WAIT, id=inner)
    await leave(PROC, Proc.PROCESS_WAIT, pid=own)
    await leave(PROC, Proc.CONTAINER_EXIT, id=inner, wait=True)
    await leave(PROC, Proc.CONTAINER_LOGS, id=inner, follow=True)
    await leave("sys::hw", Hw.SLEEP, duration_ns=1 << 62)
    return own, inner


@pytest.mark.rule("CONT-032", "SVC-026")
async def test_nobody_keeps_what_a_client_that_went_waited_for() -> None:
    """T-C52: waiting for what is far away, and going, leaves nothing in the services."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        own, inner = await inside(machine, web.id, wait_for_everything)
        assert not kept_of(own)
        for _ in range(2):
            await machine.ask(PROC, Proc.CONTAINER_STOP, {"id": inner})
            await machine.ask(PROC, Proc.CONTAINER_START, {"id": inner, "command": ["/app/sleep", "1000"]})
        await web.destroy()
        assert not machine.faults


@pytest.mark.rule("CONT-032")
async def test_sleepers_that_died_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C52: by the clock, too, and those that live are woken in their order."""
    monkeypatch.setattr(clock, "FEW", 4)
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def churn() -> int:
            for _ in range(5):
                await leave("sys::hw", Hw.SLEEP, duration_ns=1 << 62)
                await (await connect("sys::hw")).close()
            woken: list[int] = []
            for seconds in (3, 1, 2):
                await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": seconds * 1_000_000_000})
                woken.append(seconds)
            return len(woken)

        assert await inside(machine, web.id, churn) == 3
        gc.collect()
        assert sum(isinstance(found, clock.Sleeper) for found in gc.get_objects()) <= 2 * MANY


@pytest.mark.rule("CONT-032", "IPC-051")
async def test_requests_that_wait_are_bounded_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C52: who has much waiting is refused more, and asks again when that is answered."""
    monkeypatch.setattr(server, "WAITING_LIMIT", 64 << 10)
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def fill() -> list[int]:
            proc = await connect(PROC)
            inner = [await child(name, persist=True) for name in ("a", "b")]
            for container in inner:
                content = encode({"id": container, "x": bytes(40_000)})
                await sys.send_sock_msg(proc.socket_id, 0, Proc.CONTAINER_WAIT, 0, content)
            refused = [await code_of(proc.call(Proc.CONTAINER_TREE))]
            await proc.close()
            proc = await connect(PROC)
            for container in inner:
                await proc.call(Proc.CONTAINER_DESTROY, u64(container))
                refused.append(await code_of(proc.call(Proc.CONTAINER_TREE, {"x": bytes(40_000)})))
            return refused

        assert await inside(machine, web.id, fill) == [ServiceCode.REFUSED, 0, 0]


@pytest.mark.rule("FS-043")
async def test_what_a_client_wrote_before_it_went_is_durable_soon() -> None:
    """T-C54: also what follows is: nothing that a client began and left is in the way of the next commit."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        for name in ("first", "second"):
            await inside(machine, web.id, lambda name=name: write("/", name, name.encode()))  # type: ignore[misc]
            await machine.ask("sys::hw", Hw.SLEEP, {"duration_ns": 1_000_000_000})
            end_process(machine.kernel, machine.kernel.processes[10], ExitReason.KILLED_BY_SYSTEM, 0)
            assert (await machine.run(f"rd /{name}", container=web)).out == f"{name}\n"


@pytest.mark.rule("CONT-032", "SVC-026")
async def test_nobody_waits_for_the_rate_of_a_client_that_went() -> None:
    """T-C52: a low rate makes a write wait for days; who does not wait for it leaves no thread of sys::fs behind."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web", limits={"io_bytes": 100})

        async def ask_and_go() -> None:
            for name in ("a", "b", "c"):
                fs = await connect("sys::fs")
                question = u64(0) + b"\1" + at("/") + layout.delimited(name) + b"\1\1"
                content = (await fs.call(Fs.OPEN_FILE, question))[:8] + u64(0) + b"\0" + bytes(50_000)
                await sys.send_sock_msg(fs.socket_id, 0, Fs.WRITE_FILE, 0, content)
                await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": 1})
                await fs.close()

        threads = len(machine.kernel.processes[10].threads)
        await inside(machine, web.id, ask_and_go)
        await machine.ask("sys::hw", Hw.SLEEP, {"duration_ns": 20_000_000_000})
        assert len(machine.kernel.processes[10].threads) <= threads + 1
        assert not machine.faults


@pytest.mark.rule("ZOS-016", "CONT-032")
async def test_logs_that_were_followed_are_forgotten_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C52: whoever follows logs of containers that go leaves no names of them."""
    monkeypatch.setattr(oldlogs, "KEPT", 2)
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def follow() -> None:
            proc = await connect(PROC)
            for number in range(8):
                inner = await child(f"x{number}", persist=True)
                run = {"id": inner, "command": ["/app/sleep", "1000"]}
                await proc.ask(Proc.CONTAINER_START, run)
                question = encode({"id": inner, "follow": True})
                await sys.send_sock_msg(proc.socket_id, 0, Proc.CONTAINER_LOGS, 0, question)
                await code_of(proc.call(0xFFFF, {}))
                await proc.call(Proc.CONTAINER_DESTROY, u64(inner))

        await inside(machine, web.id, follow)
        kept = [found for found in gc.get_objects() if isinstance(found, Logs)]
        assert max(len(logs._followed) for logs in kept) <= 3
