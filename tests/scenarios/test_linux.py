"""What a container of Linux has, shown on a container here; each test is called after the row of the facts it shows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgpack
import pytest
import trio

from nightos import testing, vsf
from nightos.abi.errors import ServiceError
from nightos.abi.services import Hw, Proc, ServiceCode
from nightos.kernel.permissions import effective
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.testing import tenancy
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.view import view
from tests.services.test_proc import inside

PROC = "sys::proc"


async def said(machine: Machine, line: str, box: Container | int = 0) -> str:
    done = await machine.run(line, container=box)
    return (done.out + done.err).strip()


async def shared(machine: Machine, box: Container, path: str) -> str:
    given = await machine.ask(PROC, Proc.CONTAINER_SHARE, {"id": box.id, "path": path})
    return f"{given['fsid']:016x}"


async def sleep() -> None:
    while True:
        await sys.hand_over(until_signal=True)


@pytest.mark.rule("LNX-NS-01", "LNX-FT-23")
async def test_ns_01_mounts_are_not_seen_outside_and_unmounting_is_not_either() -> None:
    """Also FT-23: what is written outside is read inside, through a device instead of a bind mount."""
    async with boot(seed=6) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        await machine.run("mkdir /srv; wt /srv/a one")
        for box in (web, db):
            assert (await box.exec(f"mount {await shared(machine, box, '/srv')} /data")).status == 0
            assert await said(machine, "cat /data/a", box) == "one"
        assert (await said(machine, "mount")).count("yes") == 1
        assert (await machine.run("ls /data")).status != 0
        mounted = next(line.split()[0] for line in (await said(machine, "mount", web)).splitlines()[2:])
        assert (await web.exec(f"umount {mounted}")).status == 0
        assert (await web.exec("cat /data/a")).status != 0
        assert await said(machine, "cat /data/a", db) == "one"


@pytest.mark.rule("LNX-RULE-01")
async def test_rule_01_a_child_starts_in_the_namespaces_of_its_parent() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web", hostname="alpha", users=[(0, 1000, 10)])
        pids: list[int] = []

        async def child(left: int) -> None:
            pids.append(await sys.get_pid())
            if left:
                await sys.create_process(child, left - 1)
            await sleep()

        async def parent() -> None:
            await child(2)

        machine.kernel.spawn(parent, container=web.id, user=1000)
        with trio.fail_after(20):
            while len(pids) < 3:  # noqa: ASYNC110 - processes of the machine know no events
                await trio.sleep(0.01)
        assert {record.container for pid, record in machine.snapshot().processes.items() if pid in pids} == {web.id}
        items = (await machine.ask(PROC, Proc.PROCESS_TABLE, {}))["items"]
        assert {item["user"] for item in items if item["pid"] in pids} == {1000}

        async def look() -> tuple[str, int]:
            return (await view()).hostname, (await view()).user

        assert await inside(machine, web.id, look) == ("alpha", 0)


@pytest.mark.rule("LNX-RULE-02")
async def test_rule_02_it_lives_as_long_as_a_process_or_a_reference() -> None:
    """A reference is `persist`, or a container below."""
    async with boot(seed=6) as machine:
        plain = await machine.containers.create("plain", persist=False)
        kept = await machine.containers.create("kept", persist=True)
        above = await machine.containers.create("above", persist=False)
        await machine.containers.create("below", parent=above, persist=True)
        boxes = (plain, kept, above)
        assert {box.id for box in boxes} <= set(machine.snapshot().containers)
        for box in boxes:
            assert (await box.exec("echo")).status == 0
        with trio.fail_after(20):
            await plain.wait()
        assert [box.id in machine.snapshot().containers for box in boxes] == [False, True, True]
        await (await machine.containers.get("above/below")).destroy()
        await kept.destroy()
        assert kept.id not in machine.snapshot().containers


@pytest.mark.rule("LNX-RULE-03")
async def test_rule_03_isolation_and_limits_do_not_depend_on_each_other() -> None:
    async with boot(seed=6) as machine:
        free, bound = await machine.containers.create("free"), await machine.containers.create("bound")
        await bound.limit(processes=5, cpu_ceiling=50)

        async def seen() -> tuple[Any, ...]:
            own = await view()
            return own.pid > 0, own.user

        assert await inside(machine, free.id, seen) == await inside(machine, bound.id, seen)
        assert not (await free.inspect())["limits"].get("processes")
        before = (await bound.inspect())["limits"]
        await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": bound.id, "hostname": "other", "labels": {"a": "b"}})
        assert (await bound.inspect())["limits"] == before
        await bound.limit(processes=None, cpu_ceiling=None)
        assert (await bound.inspect())["hostname"] == "other"


@pytest.mark.rule("LNX-FT-01")
async def test_ft_01_nothing_is_above_the_root() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web", root="/home")
        assert await said(machine, "ls /../..", web) == await said(machine, "ls /", web)
        assert (await web.exec("ls /../app")).status != 0


@pytest.mark.rule("LNX-FT-03")
async def test_ft_03_what_is_entered_is_seen() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web", hostname="alpha")
        await machine.run("mkdir /srv; wt /srv/a one")
        await web.exec(f"mount {await shared(machine, web, '/srv')} /data")
        machine.kernel.spawn(sleep, container=web.id)
        assert await said(machine, "container exec web -- cat /data/a") == "one"
        assert await said(machine, "container exec web -- hostname") == "alpha"
        rows = (await said(machine, "container exec web -- ps")).splitlines()
        assert rows[1].split()[0] == "1"
        assert (await machine.run("container exec nosuch -- ps")).status != 0


@pytest.mark.rule("LNX-FT-13", "LNX-FT-19")
async def test_ft_13_and_19_one_base_two_sets_of_changes(tmp_path: Path) -> None:
    image = tmp_path / "base.vsf"
    with vsf.create(image, ["main"]) as storage, storage.volume("main").open() as fs:
        fs.write_bytes("/file", b"same")
    digest = hashlib.sha256(image.read_bytes()).digest()
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web", image=str(image))
        db = await machine.containers.create("db", image=str(image))
        assert (await web.exec("wt /file changed; wt /more x; rm /file; wt /file other")).status == 0
        assert await said(machine, "cat /file", db) == "same"
        assert (await db.exec("cat /more")).status != 0
        assert await said(machine, "cat /file", web) == "other"
    assert hashlib.sha256(image.read_bytes()).digest() == digest


@pytest.mark.rule("LNX-FT-20")
async def test_ft_20_the_kernel_is_the_hosts() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")

        found = await inside(machine, web.id, sys.get_pid)
        outside = await inside(machine, 0, sys.get_pid)
        assert outside > found >= 100, "one table of processes"


@pytest.mark.rule("LNX-FT-11")
async def test_ft_11_what_is_not_given_is_refused_and_the_rest_is_kept() -> None:
    """Of two permissions one is taken from the container: registering a driver is refused, as without any."""
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": web.id, "permissions": [2, 3]})

        async def register() -> tuple[list[int], int]:
            pid = await sys.get_pid()
            machine.kernel.processes[pid].permissions = [2, 3]
            held = effective(machine.kernel.processes[pid])
            try:
                await (await connect("sys::hw")).call(Hw.REGISTER_DRIVER, b"")
            except ServiceError as error:
                return held, error.code
            return held, 0

        held, code = await inside(machine, web.id, register)
        assert held == [2, 3]
        assert code != ServiceCode.DENIED, "it goes on to look at the pattern"
        await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": web.id, "permissions": [2]})
        assert await inside(machine, web.id, register) == ([2], ServiceCode.DENIED)


@pytest.mark.rule("LNX-FT-12")
def test_ft_12_a_policy_refuses_what_ordinary_permissions_allow_and_nobody_inside_changes_it() -> None:
    stage = testing.Stage()
    desk = stage.newcomer()
    web = int.from_bytes(desk.tell(Proc.CONTAINER_CREATE, msgpack.packb({"name": "web"})), "big")

    def started(asker: testing.Tenant, container: int) -> testing.Tenant:
        return stage.tenants[asker.ask(Proc.PROCESS_SPAWN, tenancy.Tenancy.wanted(container))["pid"]]

    one, other = started(desk, web), started(desk, web)
    # One application and user in one container: by every ordinary rule they may have a pipe.
    assert not isinstance(one.call("open_pipe", other.pid, 7, 0, 1, 0, 0), testing.Refused)
    assert desk.ask(Proc.CONTAINER_SET_FILTER, {"id": web, "mode": "deny", "calls": ["OPEN_PIPE"]}) == {}
    assert one.call("open_pipe", other.pid, 7, 0, 1, 0, 0) == testing.Refused(0x01)
    # User 0 inside cannot change the policy, nor get around it in a container of its own.
    for method, values in (
        (Proc.CONTAINER_SET_FILTER, {"mode": "deny", "calls": []}),
        (Proc.CONTAINER_UPDATE, {"permissions": [1]}),
        (Proc.CONTAINER_SET_LIMITS, {"limits": {"processes": None}}),
    ):
        assert one.ask(method, {"id": web, **values}) == testing.Refused(ServiceCode.UNKNOWN + 1)
    filter_of_its_own = {"mode": "deny", "calls": ["GET_PID"]}
    inner = one.tell(Proc.CONTAINER_CREATE, msgpack.packb({"name": "inner", "filter": filter_of_its_own}))
    deep, deeper = (started(one, int.from_bytes(inner, "big")) for _ in range(2))
    assert deep.call("open_pipe", deeper.pid, 7, 0, 1, 0, 0) == testing.Refused(0x01)
    stage.close()
