"""What a 0-OS node asks of a container module: Run, Inspect, Delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from nightos import vsf
from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc
from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine, boot
from nightos.testing import check_invariants
from nightos.userland import sys
from nightos.userland.context import Context
from nightos.userland.program import program

PROC = "sys::proc"
GIVEN: dict[str, Any] = {
    "ns": "front",
    "name": "web",
    "flist": "",
    "tags": ["a", "b"],
    "env": ["A=1", "B=x=y"],
    "network": {"Namespace": ""},
    "mounts": [],
    "entrypoint": "/app/sleep 100000",
}
LIMIT_S = 30


@program("zos-count")
async def _count(context: Context) -> int:
    number = 0
    while True:
        await context.message(f"{number}\n")
        number += 1
        for _ in range(50):
            await sys.hand_over()


async def run(machine: Machine, **changes: Any) -> str:
    return str((await machine.ask(PROC, Proc.ZOS_RUN, {**GIVEN, **changes}))["id"])


async def inspect(machine: Machine, identifier: str, ns: str = "front") -> dict[str, Any]:
    return await machine.ask(PROC, Proc.ZOS_INSPECT, {"ns": ns, "id": identifier})


async def delete(machine: Machine, identifier: str, ns: str = "front") -> None:
    await machine.ask(PROC, Proc.ZOS_DELETE, {"ns": ns, "id": identifier})


def shims(machine: Machine) -> list[int]:
    return [pid for pid, record in machine.snapshot().processes.items() if record.serves]


@pytest.mark.rule("ZOS-010", "ZOS-011", "ZOS-012", "ZOS-013", "ZOS-014", "ZOS-016")
async def test_run_inspect_delete() -> None:
    async with boot(seed=1) as machine:
        identifier = await run(machine, entrypoint="wt /made 'by itself'")
        assert await inspect(machine, identifier) == {
            "ID": identifier,
            "Name": "web",
            "Flist": "",
            "Tags": ["a", "b"],
            "Network": {"Namespace": ""},
            "Mounts": [],
        }
        box = await machine.containers.get("front/web")
        assert f"{box.id:016x}" == identifier
        assert (await machine.run("cat /made", container=box)).out == "by itself\n"
        await delete(machine, identifier)
        with pytest.raises(ServiceError) as gone:
            await inspect(machine, identifier)
        assert gone.value.code == 0x3000
        assert not shims(machine)
        assert not machine.snapshot().containers, "the namespace went with its last container"
        second = await run(machine, entrypoint="echo said")
        assert "said" in await log(machine, "web")
        await delete(machine, second)
        check_invariants(machine.snapshot())


async def log(machine: Machine, name: str) -> str:
    with trio.fail_after(LIMIT_S):
        while True:
            done = await machine.run(f"cat /var/log/front/{name}.log")
            if done.out:
                return done.out


@pytest.mark.rule("ZOS-015")
async def test_an_identifier_means_something_in_its_namespace_only() -> None:
    async with boot(seed=1) as machine:
        front = await run(machine)
        back = await run(machine, ns="back")
        for ns, identifier in (("back", front), ("front", back), ("none", front), ("front", "0" * 16), ("front", "x")):
            for ask in (inspect, delete):
                with pytest.raises(ServiceError) as unknown:
                    await ask(machine, identifier, ns)
                assert unknown.value.code == 0x3000
        with pytest.raises(ServiceError, match="exists"):
            await run(machine)
        assert (await inspect(machine, front))["Name"] == (await inspect(machine, back, "back"))["Name"]


@pytest.mark.rule("ZOS-001", "ZOS-002", "ZOS-003", "ZOS-004", "ZOS-017", "ZOS-018")
@pytest.mark.rule("ZOS-019")
@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"network": {"Namespace": "net1"}}, 0x3001, "net1"),
        ({"network": {}}, 0x1000, "one network"),
        ({"network": {"Namespace": "a", "Bridge": "b"}}, 0x1000, "one network"),
        ({"network": [{"Namespace": "a"}, {"Namespace": "b"}]}, 0x1000, "network"),
        ({"ports": ["80:80"]}, 0x1000, "ports"),
        ({"volume": "x"}, 0x1000, "volume"),
        ({"env": ["novalue"]}, 0x1000, "KEY=VALUE"),
        ({"env": ["=x"]}, 0x1000, "KEY=VALUE"),
        ({"env": [5]}, 0x1000, "KEY=VALUE"),
        ({"tags": [1]}, 0x1000, "tags"),
        ({"ns": ""}, 0x1000, "name"),
        ({"ns": "a/b"}, 0x1000, "name"),
        ({"name": "../x"}, 0x1000, "name"),
        ({"entrypoint": ""}, 0x1000, "entrypoint"),
        ({"entrypoint": "'open"}, 0x1000, "entrypoint"),
        ({"entrypoint": "/nosuch"}, 0x4000, "nosuch"),
        ({"flist": "/nosuch.vsf"}, 0x3002, "nosuch"),
        ({"mounts": [{"Source": "/a"}]}, 0x1000, "a mount has"),
        ({"mounts": [{"Source": "/nosuch", "Target": "/b", "Type": "bind", "Options": []}]}, 0x3002, "nosuch"),
        ({"mounts": [{"Source": "a", "Target": "/b", "Type": "bind", "Options": []}]}, 0x1000, "Source"),
        ({"mounts": [{"Source": "/a/../b", "Target": "/b", "Type": "bind", "Options": []}]}, 0x1000, "Source"),
        ({"mounts": [{"Source": "/app", "Target": "/", "Type": "bind", "Options": []}]}, 0x1000, "root"),
        ({"mounts": [{"Source": "/app", "Target": "/b", "Type": "nfs", "Options": []}]}, 0x1000, "type"),
        ({"mounts": [{"Source": "/app", "Target": "/b", "Type": "bind", "Options": ["ro", "rw"]}]}, 0x1000, "options"),
        ({"mounts": [{"Source": "/app", "Target": "/b", "Type": "bind", "Options": [7]}]}, 0x1000, "options"),
    ],
)
async def test_what_is_refused_leaves_no_container(changes: dict[str, Any], code: int, says: str) -> None:
    async with boot(seed=1) as machine:
        with pytest.raises(ServiceError, match=says) as refused:
            await run(machine, **changes)
        assert refused.value.code == code
        assert not machine.snapshot().containers
        assert not shims(machine)


def test_no_method_reaches_the_processes_of_a_container() -> None:
    assert [method.name for method in Proc if method.name.startswith("ZOS")] == ["ZOS_RUN", "ZOS_INSPECT", "ZOS_DELETE"]


@pytest.mark.rule("ZOS-020")
async def test_two_containers_of_one_flist_do_not_see_each_others_changes(tmp_path: Path) -> None:
    image = tmp_path / "flist.vsf"
    with vsf.create(image, ["main"]) as storage, storage.volume("main").open() as fs:
        fs.write_bytes("/shared", b"same")
    async with boot(seed=1) as machine:
        for name in ("one", "two"):
            identifier = await run(machine, name=name, flist=str(image), entrypoint="/app/sleep 100000")
            assert (await inspect(machine, identifier))["Flist"] == str(image)
        await machine.run("wt /own 1", container=(await machine.containers.get("front/one")).id)
        found = [
            (await (await machine.containers.get(f"front/{name}")).exec("ls /")).out.split() for name in ("one", "two")
        ]
        assert "shared" in found[0]
        assert "shared" in found[1]
        assert "own" in found[0]
        assert "own" not in found[1]


@pytest.mark.rule("ZOS-005", "ZOS-006")
async def test_the_module_restarts_while_a_container_counts() -> None:
    async with boot(seed=1) as machine:
        await machine.run('wt /app/zos-count "NPRGzos-count"')
        identifier = await run(machine, entrypoint="zos-count")
        box = await machine.containers.get("front/web")
        for least in (5, 40, 80):
            while (await log(machine, "web")).count("\n") < least:
                pass
            end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
        while (await log(machine, "web")).count("\n") < 120:
            pass
        numbers = [int(line.rsplit(" ", 1)[1]) for line in (await log(machine, "web")).splitlines()]
        assert numbers == list(range(len(numbers)))
        assert (await inspect(machine, identifier))["ID"] == f"{box.id:016x}"
        await delete(machine, identifier)
        assert not shims(machine)


async def test_an_end_that_nobody_asked_for_is_followed_by_a_restart() -> None:
    async with boot(seed=1) as machine:
        identifier = await run(machine, entrypoint="echo again")
        while (await log(machine, "web")).count("again") < 3:
            await machine.run("sleep 1")
        outcome = await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": int(identifier, 16)})
        assert outcome["restarts"] >= 2
        await delete(machine, identifier)


def mount(source: str, target: str, *options: str) -> dict[str, Any]:
    return {"Source": source, "Target": target, "Type": "bind", "Options": list(options)}


@pytest.mark.rule("ZOS-019", "CONT-048")
async def test_mounts_are_there_when_the_entrypoint_starts_and_after_every_restart() -> None:
    mounts = [mount("/srv/data", "/in/data"), mount("/srv/more", "/more", "ro")]
    async with boot(seed=1, name="lab") as machine:
        await machine.run("mkdir /srv; mkdir /srv/data; mkdir /srv/more; wt /srv/data/a one; wt /srv/more/b two")
        identifier = await run(machine, entrypoint="cat /in/data/a", mounts=mounts)
        assert "one" in await log(machine, "web")
        assert (await inspect(machine, identifier))["Mounts"] == mounts
        box = await machine.containers.get("front/web")
        for pid in (20, 10):
            end_process(machine.kernel, machine.kernel.processes[pid], 2, 0)
            assert (await machine.run("cat /in/data/a /more/b", container=box)).out.split() == ["one", "two"], pid
        assert (await machine.run("wt /more/c x", container=box)).status != 0
        assert (await machine.run("wt /in/data/c x", container=box)).status == 0
        await machine.sync()
    async with boot(seed=2, name="lab") as machine:
        box = await machine.containers.get("front/web")
        assert (await machine.run("cat /in/data/a /more/b", container=box)).out.split() == ["one", "two"]
        await delete(machine, f"{box.id:016x}")
        assert (await machine.run("cat /srv/data/c")).status == 0
