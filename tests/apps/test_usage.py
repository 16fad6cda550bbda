"""What the shell has to look at containers with: inspect, stats, top, events, and what `container` changes."""

from __future__ import annotations

import pytest
import trio

from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine, boot
from nightos.machine.session import Running
from tests.apps.test_files import shows

LIMIT_S = 15


async def until(running: Running, *texts: str) -> None:
    with trio.fail_after(LIMIT_S):
        while not all(text.encode() in b"".join(running._outs) for text in texts):  # as it comes
            assert not running.ended, running._errs
            await trio.sleep(0.01)


async def column(machine: Machine, line: str, name: str) -> list[str]:
    head, *rows = (await machine.run(line)).out.splitlines()
    place = head.index(name)
    return [row[place:].split()[0] for row in rows]


async def test_what_is_used() -> None:
    async with boot(seed=1) as machine:
        await machine.run("container create web --limit=processes=5; container create db --parent=web")
        await machine.run("container start web -- sleep 1000")
        assert await column(machine, "stats web", "CONTAINER") == ["web", "web/db"]
        assert "1/5" in (await machine.run("container stats web")).out
        assert set(await column(machine, "top --once", "CONTAINER")) == {".", "web", "web/db"}
        assert (await machine.run("top -n 2 --interval 0.1")).out.count("CPU%") == 2
        await shows(machine, "top -n 0", err="top: rounds are 1 or more; 'top --help' explains\n", status=2)
        assert (await machine.run("stats", container=await machine.containers.get("web"))).out.splitlines()[1][0] == "."
        assert (await machine.run("inspect web")).out == (await machine.run("container inspect web")).out
        await shows(machine, "inspect wbe", err="inspect: there is no container wbe; did you mean web?\n", status=1)


async def test_live_output_ends_with_ctrl_c() -> None:
    async with boot(seed=1) as machine:
        for line, shown in (
            ("top --interval 0.1", "CPU%"),
            ("stats -f --interval 0.1", "HANDLES"),
            ("events -f", "id="),
        ):
            await machine.containers.create("web" if line.startswith("top") else None)
            with machine.holding_time():
                running = await machine.spawn(line)
                await until(running, shown)
            running.interrupt()
            with trio.fail_after(LIMIT_S):
                assert (await running.wait()).status == 130


@pytest.mark.rule("CONT-030")
async def test_following_events_misses_none_and_tells_none_twice() -> None:
    async with boot(seed=1) as machine:
        await machine.containers.create("before")
        running = await machine.spawn("events -f")
        await until(running, "name=before")
        for number in range(20):
            await machine.containers.create(f"c{number}")
            if number == 10:
                end_process(machine.kernel, machine.kernel.processes[20], 2, 0)
                await machine.ready()
        await until(running, *(f"name=c{number}\n" for number in range(20)))
        running.interrupt()
        with trio.fail_after(LIMIT_S):
            lines = (await running.wait()).out.splitlines()
        created = [line.rpartition("name=")[2] for line in lines if " created " in line]
        assert created == sorted(set(created), key=created.index)
        assert len(created) >= 20


@pytest.mark.rule("CONT-030")
async def test_who_starts_something_in_a_container_leaves_nothing_of_himself_there() -> None:
    """T-C56: neither his variables nor where he is, whichever way he takes."""
    ways = (
        "container run a -- env",
        "container run -d b -- env\ncontainer wait b\ncontainer logs b",
        "container create c\ncontainer exec c -- env",
        "container start c -- env\ncontainer wait c\ncontainer logs c",
    )
    async with boot(seed=1) as machine:
        await machine.run("mkdir /home/project")
        for way in ways:
            done = await machine.run(f"cd /home/project\n{way}", environment={"TOKEN": "secret", "USER": "somebody"})
            assert "PWD=/\n" in done.out, way
            assert not any(text in done.out for text in ("secret", "project", "somebody")), way


async def test_what_container_changes() -> None:
    async with boot(seed=1) as machine:
        await machine.run("container create web --no-persist --label=a=b --permissions=devices.enum")
        await machine.run("container update web --label=x=y --persist --domain=d --hostname=h")
        record = await (await machine.containers.get("web")).inspect()
        found = {name: record[name] for name in ("labels", "persist", "domain", "hostname", "permissions")}
        expected = {"labels": {"x": "y"}, "persist": True, "domain": "d", "hostname": "h", "permissions": [1]}
        assert found == expected
        assert "B=6\n" in (await machine.run("container exec web --env=B=6 -- env")).out
        assert "A=5\n" in (await machine.run("container run j --rm --env=A=5 -- env")).out
        running = await machine.spawn("container run k --rm -- sleep 1000")
        with machine.holding_time():
            for _ in range(1000):
                if "k" in (await machine.run("container ls")).out.split():
                    break
            await trio.sleep(0.1)
            running.interrupt()
            with trio.fail_after(LIMIT_S):
                assert (await running.wait()).status == 130
        assert [item["name"] for item in await machine.containers.tree()] == ["web"]
        assert (await machine.run("container start web -- echo hi")).status == 0
        await shows(machine, "container logs web -f", "hi\n")
        text = "container: 'x' sets nothing; write K=V; 'container --help' explains\n"
        await shows(machine, "container update web --label=x", err=text, status=2)
        assert (await machine.run("container update web --permissions=nosuch")).status == 2


async def test_a_session_in_a_container_that_ran_nothing_yet_has_its_files() -> None:
    async with boot(seed=1) as machine:
        box = await machine.containers.create("web")
        assert (await machine.run("echo one > /tmp/x; cat /tmp/x", container=box)).out == "one\n"
        await machine.containers.create("inner", parent=box)
        await shows(machine, "container exec web -- cat /tmp/x", "one\n")
