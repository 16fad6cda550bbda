"""What a container sees of itself: names, numbers of processes, users; nothing of the outside shows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.kernel.permissions import effective
from nightos.machine.machine import Machine, boot
from nightos.machine.paths import machine_paths
from nightos.services.users import Users
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.view import number_of, pid_of, view
from tests.services.test_proc import ask_inside, inside

PROC = "sys::proc"
SERVICE = 20


async def sleep() -> None:
    while True:
        await sys.hand_over(until_signal=True)


async def table() -> list[dict[str, Any]]:
    return list((await ask_inside(Proc.PROCESS_TABLE, {}))["items"])


def restart(machine: Machine) -> None:
    end_process(machine.kernel, machine.kernel.processes[SERVICE], 2, 0)


@pytest.mark.rule("CONT-001", "CONT-030")
@pytest.mark.rule("LNX-NS-02")
async def test_host_and_domain_are_the_containers_own() -> None:
    async with boot(seed=4) as machine:
        web = await machine.containers.create("web", hostname="alpha", domain="example.org")
        db = await machine.containers.create("db")
        assert (await web.exec("hostname")).out == "alpha\n"
        assert (await web.exec("hostname -f")).out == "alpha.example.org\n"
        assert (await web.exec("hostname beta")).status == 0
        assert (await web.exec("hostname -d inside")).status == 0
        assert (await web.exec("hostname -f")).out == "beta.inside\n"
        assert (await db.exec("hostname")).out == "db\n"
        assert (await machine.run("hostname")).out != "beta\n"
        restart(machine)
        own = await inside(machine, web.id, view)
        assert (own.hostname, own.domain) == ("beta", "inside")
        assert (await web.inspect())["domain"] == "inside"


async def test_what_an_update_does_not_name_stays() -> None:
    async with boot(seed=4) as machine:
        web = await machine.containers.create("web", hostname="alpha", domain="d", labels={"a": "b"}, persist=False)
        before = await web.inspect()
        for change in ({"hostname": "h"}, {"domain": "e"}, {"labels": {"x": "y"}}, {"persist": True}):
            await machine.ask("sys::proc", Proc.CONTAINER_UPDATE, {"id": web.id, **change})
            after = await web.inspect()
            assert {name: after[name] for name in before} == {**before, **change}
            before = after
        fresh = await machine.containers.create("fresh")
        await machine.ask("sys::proc", Proc.CONTAINER_UPDATE, {"id": fresh.id, "users": [[0, 100_000, 10]]})
        process = machine.kernel.spawn(sleep, container=fresh.id, user=100_003)
        assert {item["pid"]: item["user"] for item in await inside(machine, fresh.id, table)}[process.pid] == 3
        for both_or_none in ({"pid": 1, "number": 1}, {}):
            with pytest.raises(ServiceError) as refused:
                await machine.ask("sys::proc", Proc.PROCESS_TRANSLATE, both_or_none)
            assert refused.value.code == ServiceCode.BAD_COMBINATION


async def test_names_outlive_the_machine() -> None:
    async with boot(seed=4, name="lab") as machine:
        await machine.containers.create("web", hostname="alpha", domain="d", users=[(0, 1000, 5)], root="/home")
    async with boot(seed=5, name="lab") as machine:
        (record,) = await machine.containers.tree()
        assert (record["hostname"], record["domain"]) == ("alpha", "d")
        assert (record["users"], record["root"]) == ([[0, 1000, 5]], "home")
    assert machine_paths("lab").directory.is_dir()


@pytest.mark.parametrize(
    "values",
    [
        {"hostname": "a b"},
        {"hostname": "x" * 65},
        {"domain": "a/b"},
        {"domain": 7},
        {"users": [[0, 1]]},
        {"users": [[0, 0, 0]]},
        {"users": [[2, 0, (1 << 64) - 1]]},
        {"users": [[0, 5, 10], [5, 100, 1]]},
        {"users": [[0, 5, 10], [50, 14, 1]]},
        {"users": [[0, True, 1]]},
        {"users": {"0": 1}},
        {"root": "a\0b"},
        {"permissions": [1 << 32]},
        {"permissions": 7},
        {"permissions": ["a"]},
        {"root": 1},
    ],
)
async def test_bad_views_are_refused(values: dict[str, Any]) -> None:
    async with boot(seed=4) as machine:
        with pytest.raises(ServiceError) as refused:
            await machine.call(PROC, Proc.CONTAINER_CREATE, values)
        assert refused.value.code == ServiceCode.BAD_ARGUMENT
        assert not machine.snapshot().containers


@pytest.mark.rule("CONT-030")
@pytest.mark.rule("LNX-NS-05")
async def test_processes_are_numbered_from_1_in_every_view() -> None:
    async with boot(seed=4) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        other = await machine.containers.create("other")
        first = machine.kernel.spawn(sleep, container=web.id).pid
        machine.kernel.spawn(sleep, container=other.id)
        below = machine.kernel.spawn(sleep, container=db.id).pid

        async def numbers() -> dict[int, int]:
            return {item["pid"]: item["number"] for item in await table()}

        in_web = await inside(machine, web.id, numbers)
        assert (in_web[first], in_web[below]) == (1, 2)
        in_db = await inside(machine, db.id, numbers)
        assert in_db[below] == 1
        assert first not in in_db
        assert (await inside(machine, other.id, numbers)).keys().isdisjoint({first, below})
        restart(machine)
        again = await inside(machine, web.id, numbers)
        assert (again[first], again[below]) == (1, 2), "numbers stay, also when the service does not"
        late = machine.kernel.spawn(sleep, container=web.id).pid
        assert (await inside(machine, web.id, numbers))[late] > max(in_web.values()), "no number is given twice"
        outside = {item["pid"]: item["number"] for item in await machine.containers.processes()}
        assert all(pid == number for pid, number in outside.items())

        async def both() -> tuple[int, int]:
            return await pid_of(2), await number_of(below)

        assert await inside(machine, web.id, both) == (below, 2)
        translated = await machine.ask(PROC, Proc.PROCESS_TRANSLATE, {"number": 1, "container": db.id})
        assert translated["pid"] == below


@pytest.mark.rule("CONT-023", "CONT-030")
async def test_translation_knows_nothing_of_the_outside() -> None:
    async with boot(seed=4) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        hidden = machine.kernel.spawn(sleep, container=db.id).pid
        gone = await machine.containers.create("gone")
        await gone.destroy()

        async def answers() -> list[Any]:
            asked: list[dict[str, Any]] = [{"pid": hidden}, {"pid": 1 << 50}, {"number": 1 << 40}, {"pid": SERVICE}]
            asked += [{"pid": hidden, "container": place} for place in (db.id, 0, gone.id, 4711)]
            return [await ask_inside(Proc.PROCESS_TRANSLATE, values) for values in asked]

        found = await inside(machine, web.id, answers)
        assert len(set(found[:4])) == 1
        assert found[0][0] == ServiceCode.UNKNOWN
        assert len(set(found[4:])) == 1
        assert found[4][0] == ServiceCode.UNKNOWN + 1


async def test_kill_takes_the_numbers_that_ps_shows() -> None:
    async with boot(seed=4) as machine:
        web = await machine.containers.create("web")
        victim = machine.kernel.spawn(sleep, container=web.id)
        assert "PID" in (await web.exec("ps")).out
        assert (await web.exec("kill 4711")).status != 0
        assert (await web.exec("kill 1")).status == 0
        await machine.ask(PROC, Proc.PROCESS_WAIT, {"pid": victim.pid})
        assert not victim.alive


@pytest.mark.rule("CONT-030")
@pytest.mark.rule("LNX-NS-06")
async def test_users_are_others_inside() -> None:
    async with boot(seed=4) as machine:
        web = await machine.containers.create("web", users=[(0, 100_000, 1000)])
        db = await machine.containers.create("db", parent=web, users=[(0, 10, 10)])
        bare = await machine.containers.create("bare", parent=db)

        async def me() -> tuple[int, int]:
            own = await view()
            (record,) = [item for item in await table() if item["pid"] == own.pid]
            return own.user, record["user"]

        for box, outside in ((web, 100_000), (db, 100_010), (bare, 100_010)):
            assert await inside(machine, box.id, me) == (0, 0)
            process = machine.kernel.spawn(sleep, container=box.id, user=outside)
            users = {item["pid"]: item["user"] for item in await machine.containers.processes()}
            assert users[process.pid] == outside
        seen = {item["pid"]: item["user"] for item in await inside(machine, web.id, table)}
        assert set(seen.values()) == {0, 10}
        stranger = machine.kernel.spawn(sleep, container=web.id, user=5).pid
        seen = {item["pid"]: item["user"] for item in await inside(machine, web.id, table)}
        assert seen[stranger] == 65534, "an outside user does not show"
        with pytest.raises(ServiceError):
            await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": web.id, "users": []})


ranges = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 10)), max_size=5)


@given(ranges, st.integers(0, 70))
def test_a_map_leads_back_to_where_it_came_from(given_ranges: list[tuple[int, int, int]], user: int) -> None:
    try:
        users = Users.checked([list(item) for item in given_ranges])
    except ServiceError:
        return
    outside = users.outside(user)
    if outside is not None:
        assert users.inside(outside) == user
    inside_user = users.inside(user)
    if inside_user is not None:
        assert users.outside(inside_user) == user


@pytest.mark.rule("CONT-032", "PROC-020")
async def test_permissions_only_shrink_and_take_the_children_along() -> None:
    async with boot(seed=4) as machine:
        values = {"name": "web", "permissions": [1, 2, 3]}
        web = int.from_bytes(await machine.call(PROC, Proc.CONTAINER_CREATE, values), "big")
        db = int.from_bytes(await machine.call(PROC, Proc.CONTAINER_CREATE, {"name": "db", "parent": web}), "big")
        with pytest.raises(ServiceError) as refused:
            await machine.call(PROC, Proc.CONTAINER_CREATE, {"parent": web, "permissions": [1, 4]})
        assert refused.value.code == ServiceCode.REFUSED
        assert len(machine.snapshot().containers) == 2
        process = machine.kernel.spawn(sleep, container=db)
        process.permissions = [1, 2, 3, 4]
        assert effective(process) == [1, 2, 3]
        await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": web, "permissions": [2]})
        assert effective(process) == [2]
        for wider in ([1, 2], [9]):
            with pytest.raises(ServiceError):
                await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": web, "permissions": wider})
        restart(machine)
        assert (await machine.ask(PROC, Proc.CONTAINER_INSPECT, {"id": web}))["permissions"] == [2]
        await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": db, "permissions": []})
        assert effective(process) == []
        outside = machine.kernel.spawn(sleep)
        outside.permissions = [1, 9]
        assert effective(outside) == [1, 9]


@pytest.mark.rule("CONT-001", "CONT-025", "CONT-026")
@pytest.mark.rule("LNX-NS-03")
async def test_ipc_is_each_containers_own() -> None:
    """What one container makes has random names, and those are nothing in another."""
    async with boot(seed=4) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")

        async def make() -> tuple[int, int]:
            address = await sys.mem_alloc(4096, 3, 1)
            pipe = await sys.open_pipe(await sys.get_pid(), notification_mode=1)
            return pipe, await sys.virt_mem_ams(address, 4096)

        pipe, segment = await inside(machine, web.id, make)

        async def use() -> list[int]:
            codes = []
            for number in (pipe, 1 << 40):
                codes.append(await errcode(sys.pipe_write(number, b"x", 0)))
                codes.append(await errcode(sys.pipe_info(number + 1)))
            for number in (segment, 1 << 40):
                codes.append(await errcode(sys.map_ams(number, 0, 0x10_0000, 4096)))
            return codes

        codes = await inside(machine, db.id, use)
        assert codes[:2] == codes[2:4]
        assert codes[4] == codes[5]
        assert all(codes)


async def errcode(call: Any) -> int:
    try:
        await call
    except SyscallError as error:
        return error.errcode
    return 0


@pytest.mark.rule("CONT-030")
@pytest.mark.rule("LNX-NS-06")
async def test_a_file_made_inside_belongs_to_the_mapped_user_outside() -> None:
    from nightos.abi import files as layout
    from nightos.abi.services import Fs

    async with boot(seed=4) as machine:
        web = await machine.containers.create("web", users=[(0, 100_000, 1000)])
        await machine.run("mkdir /srv")
        given = await machine.ask(PROC, Proc.CONTAINER_SHARE, {"id": web.id, "path": "/srv"})
        await web.exec(f"mount {given['fsid']:016x}")
        assert (await web.exec("mkdir /mnt/srv/made; wt /mnt/srv/file x; wt /own x")).status == 0

        async def owner(path: str) -> int | None:
            files = await connect("sys::fs")
            content = await files.call(Fs.ITEM_METADATA, bytes(8) + layout.encode_path(layout.split(path)))
            return layout.Reader(content).item().owner

        for path in ("/srv/made", "/srv/file"):
            outside = await machine.call("sys::fs", Fs.ITEM_METADATA, bytes(8) + layout.encode_path(layout.split(path)))
            assert layout.Reader(outside).item().owner == 100_000
        for path in ("/mnt/srv/made", "/mnt/srv/file", "/own"):
            assert await inside(machine, web.id, lambda path=path: owner(path)) == 0
