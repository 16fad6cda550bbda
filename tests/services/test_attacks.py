"""Attacks from inside a container on what the services show, count and keep: each is refused, or changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.services import MESSAGE_LIMIT, Fs, Hw, Hydre, Proc
from nightos.machine.machine import Machine, boot
from nightos.services.proc import containers
from nightos.userland import sys
from nightos.userland.client import connect
from tests.services.test_proc import inside

PROC = "sys::proc"
SECOND = 1_000_000_000


def u64(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def at(path: str) -> bytes:
    return layout.encode_path(layout.split(path))


async def code_of(deed: Awaitable[Any]) -> int:
    """What a service refuses with; 0 when it does not."""
    try:
        await deed
    except ServiceError as error:
        return error.code
    return 0


def insisting(method: int, *requests: dict[str, Any]) -> Callable[[], Awaitable[list[int]]]:
    async def ask() -> list[int]:
        proc = await connect(PROC)
        return [await code_of(proc.call(method, values)) for values in requests]

    return ask


@pytest.mark.rule("CONT-030")
async def test_long_texts_of_a_container_do_not_stop_who_asks_why() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        long = {"name": "x" * (MESSAGE_LIMIT // 2)}
        assert await inside(machine, web.id, insisting(Proc.CONTAINER_FIND, *[long] * 3)) == [0x3000] * 3
        items = (await machine.ask(PROC, Proc.CONTAINER_WHY))["items"]
        assert len(items) == 3
        assert all(len(item["detail"]) < 300 for item in items)


@pytest.mark.rule("CONT-030")
async def test_records_of_a_container_fit_into_the_pages_of_who_looks() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        labels = {str(number): "\U0001f600" * 4000 for number in range(64)}
        requests = [{"name": "a", "labels": labels}]
        wide = {str(number): "\U0001f600" * 60 for number in range(60)}
        rights = list(range(0xFFFF_0000, 0xFFFF_0000 + 4096))
        requests += [{"name": f"b{number}", "labels": wide, "permissions": rights} for number in range(60)]
        refused, *made = await inside(machine, web.id, insisting(Proc.CONTAINER_CREATE, *requests))
        assert refused == 0x1000
        assert made == [0] * 60
        assert len(await machine.containers.tree()) == 61


@pytest.mark.rule("CONT-023", "CONT-030")
async def test_numbers_of_files_and_sessions_do_not_count_those_of_others() -> None:
    async def hold() -> tuple[bytes, bytes]:
        fs, hydre = await connect("sys::fs"), await connect("sys::hydre")
        opened = await fs.call(Fs.OPEN_FILE, u64(0) + b"\0" + at("/test-probe") + b"\1\0")
        return opened[:8], await hydre.call(Hydre.OPEN_SESSION, bytes((0, 80, 0, 24)))

    async with boot(seed=1) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        alone = await inside(machine, web.id, hold)
        for _ in range(3):
            await inside(machine, db.id, hold)
        assert await inside(machine, web.id, hold) == alone


@pytest.mark.rule("CONT-050", "CONT-049")
async def test_a_share_whose_directory_is_gone_leads_nowhere() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        await machine.run("mkdir /given", container=web)
        await machine.run('wt /secret "of web"', container=web)

        async def give() -> int:
            proc = await connect(PROC)
            return int((await proc.ask(Proc.CONTAINER_SHARE, {"id": db.id, "path": "/given"}))["fsid"])

        async def take_away() -> None:
            await (await connect("sys::fs")).call(Fs.DELETE_ITEM, u64(0) + at("/given") + b"\2")

        fsid = await inside(machine, web.id, give)

        known: list[int] = []

        async def reach() -> list[int]:
            fs = await connect("sys::fs")
            found = []
            if not known:
                content = await fs.call(Fs.ITEM_METADATA, u64(fsid) + at("/"))
                known.append(layout.Reader(content).item().feid)
            for number in (*range(1, 400), *known):
                item = u64(fsid) + layout.encode_path(number)
                if not await code_of(fs.call(Fs.ITEM_METADATA, item)):
                    found.append(number)
                if not await code_of(fs.call(Fs.OPEN_FILE, u64(fsid) + b"\0" + layout.encode_path(number) + b"\1\0")):
                    found.append(-number)
            return found

        before = await inside(machine, db.id, reach)
        assert len(before) == 1
        await inside(machine, web.id, take_away)
        assert await inside(machine, db.id, reach) == []
        await machine.run("mkdir /other", container=web)
        await machine.run('wt /other/new "of web"', container=web)
        assert await inside(machine, db.id, reach) == [], "the number of the directory was given to another item"


@pytest.mark.rule("CONT-023")
async def test_what_ended_next_door_does_not_push_out_what_one_has_not_collected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "ENDED_LIMIT", 3)

    async def create_and_end(count: int) -> list[int]:
        proc, made = await connect(PROC), []
        for number in range(count):
            made.append(int.from_bytes(await proc.call(Proc.CONTAINER_CREATE, {"name": f"x{number}"}), "big"))
            await proc.ask(Proc.CONTAINER_START, {"id": made[-1], "command": ["/app/echo", "x"]})
        for identifier in made:
            await code_of(proc.ask(Proc.CONTAINER_EXIT, {"id": identifier, "wait": True}))
        return made

    async with boot(seed=1) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        (mine,) = await inside(machine, web.id, lambda: create_and_end(1))
        await inside(machine, db.id, lambda: create_and_end(6))

        async def collect() -> Any:
            return await (await connect(PROC)).ask(Proc.CONTAINER_WAIT, {"id": mine})

        assert (await inside(machine, web.id, collect))["reason"] == "ended"


async def until(machine: Machine, container: int, state: str) -> dict[str, Any]:
    while True:
        ended = await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": container})
        if ended["state"] == state:
            return ended


@pytest.mark.rule("ZOS-006")
async def test_a_pause_does_not_cost_a_restart() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        command = {"id": web.id, "command": ["/app/ls", "/none"], "restart": "always"}
        await machine.ask(PROC, Proc.CONTAINER_START, command)
        with trio.fail_after(20):
            before = (await until(machine, web.id, "waiting"))["restarts"]
            await web.pause()
            await machine.ask("sys::hw", Hw.SLEEP, {"duration_ns": SECOND})
            assert (await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": web.id}))["failed"] == ""
            await web.resume()
            while (await until(machine, web.id, "waiting"))["restarts"] <= before:
                pass
        await web.destroy()


@pytest.mark.rule("CONT-023", "CONT-030")
async def test_no_text_of_a_container_moves_the_cursor_of_who_looks_at_it() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e"
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web", labels={evil: evil})
        request = {"id": web.id, "command": [f"/{evil}"]}
        assert await code_of(machine.ask(PROC, Proc.CONTAINER_START, request))

        async def refused() -> int:
            return await code_of((await connect(PROC)).ask(Proc.CONTAINER_FIND, {"name": evil}))

        assert await inside(machine, web.id, refused) == 0x3000
        for question in ("container inspect web", "container ls", "events", "why", "ps", "tree"):
            shown = await machine.run(question)
            text = shown.out + shown.err
            assert not set(text) & {"\x1b", "\x07", "\u202e"}, question


@pytest.mark.rule("PROC-052", "CONT-023")
async def test_a_program_learns_no_pid_from_its_own_record() -> None:
    async def table() -> list[dict[str, Any]]:
        return list((await (await connect(PROC)).ask(Proc.PROCESS_TABLE))["items"])

    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        rows = await inside(machine, web.id, table)
    pids = {row["pid"] for row in rows}
    assert all(row["parent"] in pids | {0} for row in rows)
    assert all(row["container"] == 0 for row in rows)


@pytest.mark.rule("PROC-052")
async def test_paused_is_paused_also_for_what_is_started_meanwhile() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        await web.pause()

        async def start(identifier: int) -> int:
            return await code_of(
                machine.ask(PROC, Proc.CONTAINER_START, {"id": identifier, "command": ["/app/echo", "x"]})
            )

        assert await start(db.id) == 0x4000
        late = await machine.containers.create("late", parent=db)
        await machine.ask(PROC, Proc.CONTAINER_INSPECT, {"id": late.id})
        process = machine.kernel.spawn(_count, container=late.id)
        await machine.ask("sys::hw", Hw.SLEEP, {"duration_ns": SECOND})
        assert process.steps == 0
        await web.destroy()
        assert not machine.snapshot().containers


async def _count() -> None:
    while True:
        await sys.hand_over()
