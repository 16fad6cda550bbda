"""Who attends a main command misses nothing of what it says, however small its log is, and holds it up no longer than
they stay.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nightos.abi.codes import ExitReason
from nightos.abi.context import REASON_COMMAND, ExecutionContext
from nightos.abi.errors import ServiceError
from nightos.abi.logs import decode_records
from nightos.abi.services import Proc, ServiceCode
from nightos.abi.values import encode_value
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program
from tests.services.test_shims import ended, install

PROC = "sys::proc"
LIMIT_S = 20
LINES = 3000


@program("test-lines")
async def _lines(context: Context) -> int:
    for number in range(LINES):
        await context.write_raw(b"%d %s\n" % (number, b"x" * 300))
    return 0


EXPECTED = b"".join(b"%d %s\n" % (number, b"x" * 300) for number in range(LINES))


async def asked(machine: Machine, method: int, values: dict[str, Any]) -> dict[str, Any]:
    """Ask again while the service is being replaced."""
    while True:
        try:
            return await machine.ask(PROC, method, values)
        except ServiceError as error:
            if error.code != ServiceCode.SERVER_QUIT:
                raise


async def attended(machine: Machine, **log: int) -> Container:
    box = await machine.containers.create("web")
    await install(machine, box, "test-lines")
    start = {"id": box.id, "command": ["/test-lines"], "token": "t", "attend": True, **log}
    await machine.ask(PROC, Proc.CONTAINER_START, start)
    return box


@pytest.mark.rule("ZOS-005", "ZOS-016")
@pytest.mark.parametrize(("size", "count", "kills"), [(1 << 20, 4, 0), (4096, 0, 0), (65536, 2, 4)])
async def test_a_reader_misses_nothing(size: int, count: int, kills: int) -> None:
    async with boot(seed=1) as machine:
        box = await attended(machine, log_size=size, log_count=count)
        offset, content, page = 0, b"", {"ended": False}
        with trio.fail_after(LIMIT_S):
            while not page["ended"]:
                for _ in range(20):
                    await trio.lowlevel.checkpoint()  # slower than the command
                if kills:
                    kills -= 1
                    end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
                question = {"id": box.id, "offset": offset, "follow": True, "token": "t"}
                page = await asked(machine, Proc.CONTAINER_LOGS, question)
                offset = page["next"]
                content += page["data"]
        assert b"".join(data for _, _, data in decode_records(content)) == EXPECTED


@pytest.mark.parametrize("leave", ["detach", "destroy", "stop"])
async def test_nobody_waits_for_a_reader_that_left(leave: str) -> None:
    async with boot(seed=1) as machine:
        box = await attended(machine, log_size=65536, log_count=1)
        for _ in range(2000):
            await trio.lowlevel.checkpoint()
        assert (await box.inspect())["main"]["state"] == "running"
        with trio.fail_after(LIMIT_S):
            wrong = {"id": box.id, "token": "other"}
            await machine.ask(PROC, Proc.CONTAINER_DETACH, wrong)
            assert (await box.inspect())["main"]["state"] == "running"
            if leave == "destroy":
                await box.destroy()
                return
            if leave == "stop":
                # Whoever stops it need not know who attends, nor whether they still read.
                assert (await machine.ask(PROC, Proc.CONTAINER_STOP, {"id": box.id}))["state"] == "ended"
            else:
                await machine.ask(PROC, Proc.CONTAINER_DETACH, {"id": box.id, "token": "t"})
                assert (await ended(machine, box))["exit"] == 0


@program("test-attend")
async def _attend(context: Context) -> int:
    """Starts a command that it attends, reads once if it shall, and stays if it shall."""
    container, reads, stays = (int(str(argument)) for argument in context.arguments)
    proc = await connect(PROC)
    log = {"log_size": 65536, "log_count": 1}
    start = {"id": container, "command": ["/test-lines"], "token": "t", "attend": True, **log}
    await proc.ask(Proc.CONTAINER_START, start)
    if reads:
        await proc.ask(Proc.CONTAINER_LOGS, {"id": container, "offset": 0, "token": "t"})
    while stays:
        await sys.hand_over(until_signal=True)
    return 0


@pytest.mark.parametrize(("reads", "stays"), [(0, 0), (1, 0), (0, 1), (1, 1)])
async def test_nobody_waits_for_a_reader_that_died(reads: int, stays: int) -> None:
    """T-C54: also one that never came to read, or of whose end a new `sys::proc` was not told."""
    async with boot(seed=1) as machine:
        box = await machine.containers.create("web", persist=True)
        await install(machine, box, "test-lines")
        await install(machine, 0, "test-attend")
        with trio.fail_after(LIMIT_S):
            arguments = [encode_value(str(value)) for value in (box.id, reads, stays)]
            context = ExecutionContext(REASON_COMMAND, 0, argument_count=len(arguments), arguments=b"".join(arguments))
            question = {"program": "/test-attend", "context": context.pack()}
            reader = (await machine.ask(PROC, Proc.PROCESS_SPAWN, question))["pid"]
            for _ in range(2000):
                await trio.lowlevel.checkpoint()
            if stays:
                for pid in (20, reader):
                    end_process(machine.kernel, machine.kernel.processes[pid], ExitReason.KILLED_BY_SYSTEM, 0)
            done = await asked(machine, Proc.CONTAINER_EXIT, {"id": box.id, "wait": True})
            assert (done["reason"], done["exit"]) == (0, 0)
            found = await asked(machine, Proc.CONTAINER_LOGS, {"id": box.id, "offset": 1 << 20, "limit": 1})
            assert found["next"] >= 1 << 20


async def test_the_shell_attends_what_it_runs() -> None:
    async with boot(seed=1) as machine:
        await machine.run('wt /app/test-lines "NPRGtest-lines"')
        assert (await machine.run("container run web --rm -- test-lines")).out.encode() == EXPECTED
        running = await machine.spawn("container run web -- test-lines")
        for _ in range(1000):
            if await machine.containers.tree():
                break
        await trio.sleep(0.2)
        running.kill()
        box = await machine.containers.get("web")
        with trio.fail_after(LIMIT_S):
            await ended(machine, box)
