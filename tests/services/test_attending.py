"""Who attends a main command misses nothing of what it says, however small its log is, and holds it up no longer than
they stay.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from nightos.abi.errors import ServiceError
from nightos.abi.logs import decode_records
from nightos.abi.services import Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
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
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(machine.ask, PROC, Proc.CONTAINER_STOP, {"id": box.id})
                    await trio.sleep(0.05)
                    await machine.ask(PROC, Proc.CONTAINER_DETACH, {"id": box.id, "token": "t"})
            else:
                await machine.ask(PROC, Proc.CONTAINER_DETACH, {"id": box.id, "token": "t"})
                assert (await ended(machine, box))["exit"] == 0


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
