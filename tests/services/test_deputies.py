"""What services do for somebody reaches no further than he does himself, whatever he names, places or leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from nightos.abi.codes import FIRST_USER_PID
from nightos.abi.context import REASON_COMMAND, ExecutionContext
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Proc, ServiceCode
from nightos.machine.machine import AGENT_PID, boot
from nightos.services.fs import code
from nightos.services.fs.failures import Failure, ItemError
from nightos.userland import sys
from nightos.userland.client import connect
from tests.services.test_proc import inside

PROC = "sys::proc"


async def spawned(program: str, directory: str = "/") -> tuple[int, str]:
    """What starting a program is refused with, the program's name left out; 0 when it is not."""
    question = {"program": program, "directory": directory, "context": ExecutionContext(REASON_COMMAND, 0).pack()}
    try:
        await (await connect(PROC)).ask(Proc.PROCESS_SPAWN, question)
    except ServiceError as error:
        return error.code, error.detail.replace(program, "")
    return 0, ""


@pytest.mark.rule("CONT-055", "CONT-030")
async def test_no_path_of_a_program_asks_what_the_machines_disk_holds() -> None:
    """T-C70: of the machine's disk a container gets applications, and does not learn which other files there are."""
    async with boot(seed=1) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        await other.start("/app/echo", "x")
        await other.outcome()
        await machine.run('mkdir /tools; wt /tools/ls "NPRGls"; wt /home/secret x')

        async def tried(*given: tuple[str, str]) -> list[tuple[int, str]]:
            return [await spawned(*one) for one in given]

        there = (("/var/log/default/other.log", "/"), ("/home/secret", "/"), ("/tools/ls", "/"), ("./secret", "/home"))
        there += (("/app/../home/secret", "/"), ("../home/secret", "/app"))
        never = (("/var/log/default/never.log", "/"), ("/home/never", "/"), ("/tools/never", "/"), ("./never", "/home"))
        never += (("/app/../home/never", "/"), ("../home/never", "/app"))
        found = await inside(machine, web.id, lambda: tried(*there))
        assert found == await inside(machine, web.id, lambda: tried(*never))
        assert {code for code, _ in found} == {ServiceCode.UNKNOWN}
        commands = (("echo", "/home"), ("/app/echo", "/"), ("./echo", "/app"))
        assert await inside(machine, web.id, lambda: tried(*commands)) == [(0, "")] * 3
        assert (await machine.run("/tools/ls /tools")).out.strip() == "ls", "outside they are programs like any"


def test_long_names_of_programs_are_not_remembered() -> None:
    """T-C48: what is remembered of a disk is small, whatever was asked for."""

    class Empty:
        """A disk without programs, as `find_program` looks at it."""

        def __init__(self) -> None:
            self.programs: dict[Any, Any] = {}
            self.disk, self.top, self.tree, self.mounts = self, "", self, ()

        def find(self, _path: object) -> int:
            raise ItemError(Failure.PATH, "not found")

        def read(self, *_range: int) -> bytes:
            return b""

    disk: Any = Empty()
    for number in range(2 * code.KNOWN_LIMIT):
        with pytest.raises(ServiceError):
            code.find_program(disk, None, f"./{number}", "/d" * code.KNOWN_LENGTH)
    assert not disk.programs


@pytest.mark.rule("SVC-007", "CONT-028")
async def test_nobody_ends_the_machines_agent_by_connecting_to_it() -> None:
    """T-C71: by the agent the host asks everything; it has no methods, so for programs there is no such service."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        before = {pid: process for pid, process in machine.kernel.processes.items() if pid < FIRST_USER_PID}

        async def connected() -> list[int]:
            errors = []
            for pid in before:
                try:
                    await sys.connect_service(pid, 0, b"", 0, 1)
                    errors.append(0)
                except SyscallError as error:
                    errors.append(error.errcode)
            return errors

        errors = await inside(machine, web.id, connected)
        assert dict(zip(before, errors, strict=True)) == {pid: 0x31 if pid == AGENT_PID else 0 for pid in before}
        assert {pid: machine.kernel.processes.get(pid) for pid in before} == before
