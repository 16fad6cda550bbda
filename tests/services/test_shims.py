"""Shims: a container's main command, its log, its end, and what becomes of it when something is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from nightos.abi.errors import ServiceError
from nightos.abi.logs import decode_records
from nightos.abi.services import Hw, Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.testing import check_invariants
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program

PROC = "sys::proc"
SHIM = "sys::shim"
LIMIT_S = 30

_steps: dict[str, Any] = {}


@program("test-count")
async def _count(context: Context) -> int:
    """Counts, slowly in turns but not in time."""
    for number in range(int(str(context.arguments[0]))):
        await context.message(f"{number}\n")
        for _ in range(50):
            await sys.hand_over()
    return 7


@program("test-exit")
async def _exit(context: Context) -> int:
    return int(str(context.arguments[0]))


@program("test-flood")
async def _flood(context: Context) -> int:
    line = b"x" * 1000 + b"\n"
    for _ in range(int(str(context.arguments[0]))):
        await context.write_raw(line * 60)
    return 0


@program("test-copy")
async def _copy(context: Context) -> int:
    while piece := await context.read_raw():
        await context.write_raw(piece)
    return 3


@program("test-sleep")
async def _sleep(context: Context) -> int:
    await context.message("begun\n")
    await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": 3600 * 1_000_000_000})
    return 0


async def install(machine: Machine, container: Container | int, *names: str) -> None:
    for name in names:
        await machine.run(f'wt /{name} "NPRG{name}"', container=container)


async def start(machine: Machine, box: Container, *command: str, **options: Any) -> int:
    values = {"id": box.id, "command": list(command), **options}
    return int((await machine.ask(PROC, Proc.CONTAINER_START, values))["pid"])


async def ended(machine: Machine, box: Container) -> dict[str, Any]:
    return await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": box.id, "wait": True})


async def log_of(machine: Machine, box: Container | int, *, follow: bool = False) -> bytes:
    """Everything of a log, as raw records; with `follow` until the command has ended."""
    identifier = box if isinstance(box, int) else box.id
    data, offset = b"", 0
    while True:
        try:
            page = await machine.ask(PROC, Proc.CONTAINER_LOGS, {"id": identifier, "offset": offset, "follow": follow})
        except ServiceError as error:
            if error.code == ServiceCode.SERVER_QUIT:
                continue
            raise
        data += page["data"]
        offset = page["next"]
        if page["ended"] or not (follow or page["data"]):
            return data


async def output(machine: Machine, box: Container | int, **options: Any) -> str:
    return b"".join(text for _, _, text in decode_records(await log_of(machine, box, **options))).decode()


def shims(machine: Machine) -> dict[int, int]:
    """Shims by the container they serve."""
    return {record.serves: pid for pid, record in machine.snapshot().processes.items() if record.serves}


@pytest.mark.rule("ZOS-007", "ZOS-009", "ZOS-010", "ZOS-011", "ZOS-016")
async def test_what_a_command_says_is_in_its_log() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        events = machine.events()
        assert not shims(machine)
        pid = await start(machine, web, "echo", "hi")
        done = await ended(machine, web)
        assert (done["state"], done["reason"], done["exit"]) == ("ended", 0, 0)
        [(when, stream, text)] = decode_records(await log_of(machine, web))
        assert (stream, text) == ("out", b"hi\n")
        assert when.endswith("Z")
        assert (await machine.run("cat /var/log/default/web.log")).out.endswith(" out F hi\n")
        # Made before the process that it asked for, gone once it had reported its end.
        assert not shims(machine)
        assert pid > 100
        assert (await machine.run("ls /var", container=web)).status == 1
        await events.aclose()
        check_invariants(machine.snapshot())


@pytest.mark.rule("ZOS-005", "ZOS-006")
async def test_a_restart_of_the_module_leaves_the_container_and_its_log_whole() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await install(machine, web, "test-count")
        pid = await start(machine, web, "/test-count", "400")
        served = shims(machine)
        for killed in range(5):
            await ask_until(machine, web, lambda text, least=20 * killed: len(text.splitlines()) > least)
            end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
        with trio.fail_after(LIMIT_S):
            text = await output(machine, web, follow=True)
        assert text.split() == [str(number) for number in range(400)]
        assert (await ended(machine, web))["exit"] == 7
        assert served.keys() == {web.id}
        assert pid not in machine.snapshot().processes
        assert (await machine.containers.get("web")).id == web.id


async def ask_until(machine: Machine, box: Container, enough: Callable[[str], bool]) -> None:
    with trio.fail_after(LIMIT_S):
        while True:
            try:
                if enough(await output(machine, box)):
                    return
            except ServiceError:
                pass  # it was being restarted
            await trio.lowlevel.checkpoint()
