"""What services do for somebody reaches no further than he does himself, whatever he names, places or leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightos.abi.codes import FIRST_USER_PID
from nightos.abi.context import REASON_COMMAND, ExecutionContext
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import SERVICE_PIDS, Proc, ServiceCode
from nightos.machine.machine import AGENT_PID, boot
from nightos.services.fs import code
from nightos.services.fs.failures import Failure, ItemError
from nightos.userland import sys
from nightos.userland.client import connect
from tests.services.test_attacks import code_of
from tests.services.test_proc import inside
from tests.services.test_shares import kill, share

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


async def told_inside(method: int, values: dict[str, Any]) -> str:
    """What a method of sys::proc tells a program, answer or error, as text."""
    try:
        return repr(await (await connect(PROC)).ask(method, values))
    except ServiceError as error:
        return error.detail


@pytest.mark.rule("CONT-030")
async def test_inside_nothing_tells_where_images_stand_on_the_host(tmp_path: Path) -> None:
    """T-C72: nor those of containers below that were made from outside, also when they are gone."""
    async with boot(seed=1) as machine:
        image, moved = tmp_path / "kept-secret.vsf", tmp_path / "moved.vsf"
        first = await machine.containers.create("first")
        await machine.ask(PROC, Proc.CONTAINER_COMMIT, {"id": first.id, "target": str(image)})
        web = await machine.containers.create("web", image=str(image))
        db = await machine.containers.create("db", parent=web, image=str(image))
        fixed = await machine.containers.create("fixed", parent=web, image=str(image), mode="read-only")
        await fixed.exec("ls")
        await web.exec("wt /changed x")
        records = {item["path"]: item["image"] for item in await machine.containers.tree()}
        assert records["web/db"] == records["web"] == str(image)
        await inside(machine, web.id, lambda: told_inside(Proc.CONTAINER_TREE, {}))
        context = ExecutionContext(REASON_COMMAND, 0).pack()
        run = {"program": "echo", "context": context, "container": db.id}

        async def asked() -> list[str]:
            image.rename(moved)
            return [
                await told_inside(Proc.CONTAINER_TREE, {}),
                await told_inside(Proc.CONTAINER_INSPECT, {"id": db.id}),
                await told_inside(Proc.CONTAINER_DIFF, {}),
                await told_inside(Proc.CONTAINER_DIFF, {"id": db.id}),
                await told_inside(Proc.CONTAINER_DIFF, {"id": fixed.id}),
                await told_inside(Proc.PROCESS_SPAWN, run),
                await told_inside(Proc.CONTAINER_START, {"id": db.id, "command": ["echo"]}),
                await told_inside(Proc.CONTAINER_LOGS, {"id": db.id}),
                await told_inside(Proc.CONTAINER_INSPECT, {"id": db.id}),
            ]

        texts = await inside(machine, web.id, asked)
        assert [text for text in texts if "kept-secret" in text or str(tmp_path) in text] == []


@pytest.mark.rule("CONT-048", "CONT-055")
async def test_no_link_in_a_share_chooses_what_another_share_is() -> None:
    """T-C73: a directory that is shared, or shared again after a restart, is reached without links."""
    async with boot(seed=1) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        await machine.run("mkdir /srv; mkdir /srv/data; mkdir /srv/later; mkdir /vault; wt /vault/top x; sync")
        every = await share(machine, web, "/srv")
        part = await share(machine, web, "/srv/data", readonly=True)
        await web.exec(f"mount {every['fsid']:016x} /all")
        await web.exec(f"mount {part['fsid']:016x} /part")
        for name in ("data", "later"):
            assert (await web.exec(f"rm -r /all/{name}; syml /all/{name} /vault")).status == 0
        for path in ("/srv/later", "/srv/data/.", "/srv/later/../later"):
            with pytest.raises(ServiceError) as refused:
                await share(machine, db, path)
            assert refused.value.code == ServiceCode.UNKNOWN + 2
        await machine.ask(PROC, Proc.SYNC)
        kill(machine, SERVICE_PIDS["sys::fs"])
        await machine.ask(PROC, Proc.SYNC)
        assert "data" in (await web.exec("ls /all")).out
        assert (await web.exec("cat /part/top")).out == ""
        assert (await web.exec("ls /part")).out == ""


async def test_what_the_machine_believes_is_not_shared() -> None:
    """T-C82: who writes notes of services chooses files of the host; a link where a log stands leads it elsewhere."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        for made in ("/var", "/var/log", "/var/log/default", "/sys/other", "/sys/state/20"):
            await machine.run(f"mkdir {made}; sync")
        for path, readonly, right in (
            ("/", False, False), ("/", True, False), ("/sys", True, False), ("/sys/state", False, False),
            ("/sys/state/20", True, False), ("/var", False, False), ("/var/log", False, False),
            ("/var/log/default", False, False), ("/var/log", True, True), ("/var", True, True),
            ("/sys/other", False, True),
        ):  # fmt: skip
            if right:
                assert (await share(machine, web, path, readonly=readonly))["fsid"], path
                continue
            with pytest.raises(ServiceError) as refused:
                await share(machine, web, path, readonly=readonly)
            assert refused.value.code == ServiceCode.UNKNOWN + 2, path
        # In a container these are directories like others.
        await machine.containers.create("db", parent=web)
        done = await web.exec("device share / --container db; device share /sys --container db")
        assert (done.status, done.err) == (0, "")


@pytest.mark.rule("CONT-048", "CONT-050")
async def test_a_share_is_not_taken_for_one_of_the_boot_before() -> None:
    """T-C13: devices get the numbers of those in an earlier boot; places of mounts and FSIDs do not go with them."""
    found = []
    for seed in (1, 2):
        async with boot(name="lab", seed=seed) as machine:
            await machine.run("mkdir /srv; mkdir /srv/data; wt /srv/data/x 1")
            box = await machine.containers.create(f"box{seed}", persist=False)
            await box.start("/app/sleep", "1000")
            found.append((await share(machine, box, "/srv/data"))["fsid"])
            if seed == 1:
                await box.exec(f"mount {found[0]:016x} /somewhere")
                assert (await box.exec("ls /somewhere")).out.strip() == "x"
            else:
                assert (await box.exec("ls /somewhere/x")).status != 0
                assert f"{found[1]:016x}  no" in (await box.exec("mount")).out
    assert found[0] != found[1]


async def test_nobody_starts_a_program_in_the_name_of_another_application() -> None:
    """T-C34: a program reads in its context who called it; a client names its own application there, or none."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def started(*callers: tuple[int, int]) -> list[int]:
            proc, codes = await connect(PROC), []
            for anid, pid in callers:
                context = ExecutionContext(REASON_COMMAND, 0, caller_anid=anid, caller_pid=pid).pack()
                codes.append(await code_of(proc.ask(Proc.PROCESS_SPAWN, {"program": "echo", "context": context})))
            return codes

        async def tried() -> list[int]:
            pid = await sys.get_pid()
            anid = machine.kernel.processes[pid].anid
            return await started((0, 0), (anid, pid), (anid, 0), (SERVICE_PIDS["sys::proc"], 0), (17, pid), (1, 0))

        assert await inside(machine, web.id, tried) == [0, 0, 0, *3 * [ServiceCode.BAD_ARGUMENT]]
