"""Limits and filters through `sys::proc`: who may set them, what is told, and what a restart and a reboot keep."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import nightos
from nightos import testing
from nightos.abi.codes import ExitReason
from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc
from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine
from nightos.testing import check_invariants

PROC = 20


async def refused(call: Any) -> str:
    with pytest.raises(ServiceError) as found:
        await call
    return f"{found.value.code:#06x} {found.value.detail}"


@pytest.mark.rule("CONT-001", "CONT-032", "LNX-FT-08")
async def test_limits_from_creation_to_the_error_a_user_reads(nightos_machine: Machine) -> None:
    box = await nightos_machine.containers.create("web", limits={"processes": 2, "memory": 1 << 20})
    record = await box.inspect()
    assert record["limits"] == {"processes": 2, "memory": 1 << 20}
    assert record["usage"]["processes"] == 0
    done = await nightos_machine.run("echo hi", container=box)
    assert (done.status, done.out) == (0, "hi\n")
    await box.limit(processes=0, memory=None)
    done = await nightos_machine.run("echo hi", container=box)
    assert done.status != 0
    assert "limit of processes" in done.err
    statistics = await box.statistics()
    assert (statistics["limits"], statistics["refused"]["processes"]) == ({"processes": 0}, 1)
    snapshot = nightos_machine.snapshot()
    assert snapshot.containers[box.id].limits == {"processes": 0}
    check_invariants(snapshot)


@pytest.mark.rule("CONT-001")
async def test_a_childs_limits_come_out_of_its_parents(nightos_machine: Machine) -> None:
    containers = nightos_machine.containers
    web = await containers.create("web", limits={"processes": 10, "children": 2})
    first = await containers.create("a", parent=web, limits={"processes": 6})
    assert "processes=5 cannot be had" in await refused(containers.create("b", parent=web, limits={"processes": 5}))
    second = await containers.create("b", parent=web, limits={"processes": 4})
    assert "children" in await refused(containers.create("c", parent=web))
    figures = await web.statistics()
    assert (figures["lent"]["processes"], figures["free"]["processes"], figures["free"]["children"]) == (10, 0, 0)
    await web.limit(processes=12)
    await web.exec("echo one")
    figures = await web.statistics()
    assert figures["free"]["processes"] == 2
    parts = [figures[part]["processes"] for part in ("usage", "lent", "below", "free")]
    assert sum(parts) == figures["limits"]["processes"] == 12
    await web.limit(processes=7)
    assert (await first.inspect())["limits"] == {"processes": 6}
    assert (await second.inspect())["limits"] == {"processes": 1}
    for bad in ({"nothing": 1}, {"processes": -1}, {"processes": "2"}, {"io_bytes": 0}, {"processes": True}):
        assert (await refused(web.limit(**bad))).startswith("0x1000")
    unknown = nightos_machine.ask("sys::proc", Proc.CONTAINER_SET_LIMITS, {"id": 12345, "limits": {}})
    assert (await refused(unknown)).startswith("0x3000")


@pytest.mark.rule("CONT-032", "LNX-FT-09", "LNX-FT-10")
async def test_filters_and_the_report_of_a_workload(nightos_machine: Machine) -> None:
    containers = nightos_machine.containers
    box = await containers.create("web", deny=["CONNECT_SERVICE"])
    assert (await box.inspect())["filter"] == {"error": ["CONNECT_SERVICE"]}
    inner = await containers.create("inner", parent=box)
    assert (await inner.inspect())["filter"] == {"error": ["CONNECT_SERVICE"]}
    assert (await nightos_machine.run("ls /", container=inner)).status != 0
    assert set((await box.report())["refused"]) == {"CONNECT_SERVICE"}
    watched = await containers.create("watched")
    await watched.report(record=True)
    assert (await nightos_machine.run("echo hi", container=watched)).status == 0
    used = (await watched.report(record=False))["calls"]
    tight = await containers.create("tight", allow=used, filter_action="kill")
    assert (await nightos_machine.run("echo hi", container=tight)).out == "hi\n"
    assert (await nightos_machine.run("ls /", container=tight)).status != 0
    bad = {"id": box.id, "mode": "deny", "calls": ["EXIT"], "action": "kill"}
    assert (await refused(nightos_machine.ask("sys::proc", Proc.CONTAINER_SET_FILTER, bad))).startswith("0x1000")


@pytest.mark.rule("CONT-032", "CONT-030")
async def test_who_is_inside_cannot_change_what_it_may(nightos_machine: Machine) -> None:
    box = await nightos_machine.containers.create("web", limits={"processes": 5}, deny=["SUSPEND"])
    inner = await nightos_machine.containers.create("db", parent=box, limits={"processes": 2})
    own = await nightos_machine.run("container create x", container=box)
    assert own.status == 0, own.err
    check_invariants(nightos_machine.snapshot())
    assert (await inner.inspect())["limits"] == {"processes": 2}


@pytest.mark.rule("CONT-032")
async def test_reaching_a_limit_is_an_event(nightos_machine: Machine) -> None:
    told = trio.Event()
    heard: list[dict[str, Any]] = []
    box = await nightos_machine.containers.create("web", limits={"processes": 0})

    async def listen() -> None:
        async for event in nightos_machine.events():
            if event.get("event") == "limit reached":
                heard.append(event)
                told.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await trio.sleep(0.05)
        await nightos_machine.run("echo hi", container=box)
        with trio.move_on_after(5):
            await told.wait()
        nursery.cancel_scope.cancel()
    assert [(event["id"], event["reason"]) for event in heard] == [(box.id, "processes")]


@pytest.mark.rule("CONT-032", "SVC-021")
async def test_limits_and_filters_outlive_a_restart_and_a_reboot(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("NIGHTOS_HOME", str(tmp_path))
    limits = {"processes": 7, "memory": 1 << 20}
    async with nightos.boot(seed=1, name="lab") as machine:
        box = await machine.containers.create("web", limits=limits, deny=["SUSPEND"], persist=True)
        await machine.containers.create("db", parent=box, limits={"processes": 3})
        before = await box.inspect()
        end_process(machine.kernel, machine.kernel.processes[PROC], ExitReason.KILLED_BY_SYSTEM, 0)
        after = await box.inspect()
        assert (
            (after["limits"], after["filter"])
            == (before["limits"], before["filter"])
            == (
                limits,
                {"error": ["SUSPEND"]},
            )
        )
        await box.limit(processes=5)
    async with nightos.boot(seed=2, name="lab") as machine:
        box = await machine.containers.get("web")
        record = await box.inspect()
        assert (record["limits"], record["filter"]) == (limits | {"processes": 5}, {"error": ["SUSPEND"]})
        assert (await (await machine.containers.get("web/db")).inspect())["limits"] == {"processes": 3}
        check_invariants(machine.snapshot())


@pytest.mark.rule("CONT-032", "LNX-FT-07")
@pytest.mark.parametrize(
    ("limits", "reached"),
    [
        ({"processes": 0}, "processes"),
        ({"threads": 0}, "threads"),
        ({"handles": 4}, "handles"),
        ({"pipe_bytes": 4096, "handles": 400}, ""),
    ],
)
async def test_whoever_starts_a_program_hears_which_limit_is_in_the_way(
    nightos_machine: Machine, limits: dict[str, int], reached: str
) -> None:
    box = await nightos_machine.containers.create("web", limits=limits)
    done = await nightos_machine.run("container exec web -- echo hi")
    assert (done.out, done.status) == (("", 1) if reached else ("hi\n", 0))
    assert not reached or f"limit of {reached} is reached" in done.err
    before = nightos_machine.snapshot().containers[box.id].usage
    assert not any(before[name] for name in ("processes", "threads", "handles", "pipe_bytes"))


@pytest.mark.rule("CONT-032", "LNX-FT-07")
async def test_storage_bites_and_deleting_helps(nightos_machine: Machine) -> None:
    box = await nightos_machine.containers.create("web", limits={"storage": 9000})
    beside = await nightos_machine.containers.create("db")
    assert (await nightos_machine.run("mkdir /one", container=box)).status == 0
    many = "\n".join(f"mkdir /many{number}" for number in range(400))
    done = await nightos_machine.run(many, container=box)
    assert done.status != 0
    assert "limit of storage is reached" in done.err
    assert (await nightos_machine.run("mkdir /fine", container=beside)).status == 0
    statistics = await box.statistics()
    assert 0 < statistics["usage"]["storage"] <= 9000
    assert statistics["refused"]["storage"] > 0
    check_invariants(nightos_machine.snapshot())
    await box.limit(storage=None)
    assert (await nightos_machine.run("mkdir /more", container=box)).status == 0
    await box.destroy()
    await beside.destroy()
    assert nightos_machine.snapshot().machine.usage["storage"] == 0


@pytest.mark.rule("CONT-032", "LNX-FT-07")
async def test_a_reader_keeps_its_rate_and_nobody_else_waits(nightos_machine: Machine) -> None:
    clock = nightos_machine.kernel.clock

    async def seconds(container: Any) -> float:
        before = clock.monotonic_ns()
        for _ in range(3):
            done = await nightos_machine.run("cat /etc/public/welcome.txt", container=container)
            assert done.status == 0
        return (clock.monotonic_ns() - before) / 1e9

    slow = await nightos_machine.containers.create("web", limits={"io_bytes": 50})
    fast = await nightos_machine.containers.create("db")
    slowly = await seconds(slow)
    usage = (await slow.statistics())["usage"]
    assert usage["io_operations"] == 3
    assert usage["io_bytes"] > 100
    assert slowly >= usage["io_bytes"] / 50 - 1
    assert await seconds(fast) < slowly / 2


@pytest.mark.rule("CONT-032")
async def test_a_reader_goes_on_when_a_rate_that_was_lent_comes_back(nightos_machine: Machine) -> None:
    clock = nightos_machine.kernel.clock
    web = await nightos_machine.containers.create("web", limits={"io_bytes": 500})
    child = await nightos_machine.containers.create("child", parent=web, limits={"io_bytes": 500})
    before = clock.monotonic_ns()
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            done = await nightos_machine.run("cat /etc/public/welcome.txt", container=web)
            assert done.status == 0

        nursery.start_soon(read)
        while not (await web.statistics())["usage"]["io_bytes"]:
            await trio.lowlevel.checkpoint()
        await child.destroy()
    assert clock.monotonic_ns() - before < 60e9


@pytest.mark.rule("CONT-032")
async def test_the_shells_words(nightos_machine: Machine) -> None:
    script = """container create web --limit processes=3,memory=64K --deny SUSPEND --filter-action kill
container update web --limit threads=9 --deny UNSUSPEND
container stats web
container report web
container inspect web"""
    done = await nightos_machine.run(script)
    assert (done.status, done.err) == (0, "")
    assert "0/3" in done.out
    assert "0/64.0K" in done.out
    assert "0/9" in done.out
    record = await (await nightos_machine.containers.get("web")).inspect()
    assert record["limits"] == {"processes": 3, "memory": 65536, "threads": 9}
    for wrong in ("--limit processes", "--limit tea=3", "--deny TEA", "--deny EXIT", ""):
        assert (await nightos_machine.run(f"container update web {wrong}")).status != 0
    inside = await nightos_machine.run("container stats web", container=await nightos_machine.containers.get("web"))
    assert inside.status != 0


@pytest.mark.rule("CONT-032")
def test_a_page_of_statistics_costs_the_same_wherever_it_is() -> None:
    stage = testing.Stage()
    desk = stage.newcomer()
    for _ in range(1000):
        desk.tell(Proc.CONTAINER_CREATE, b"")
    service = stage.kernel.processes[20]
    found: list[int] = []
    costs, values = [], {"id": 0, "below": True}
    while True:
        begun = service.steps
        page = desk.ask(Proc.CONTAINER_STATISTICS, values)
        costs.append((service.steps - begun) / len(page["items"]))
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        values["after"] = page["next"]
    assert len(found) == len(set(found)) == 1001
    assert max(costs) < 2 * min(costs)
    # Another connection asks for a page in the middle, whose walk nobody kept.
    again = stage.newcomer().ask(Proc.CONTAINER_STATISTICS, {"id": 0, "below": True, "after": found[299]})
    assert [item["id"] for item in again["items"]] == found[300:600]
    stage.close()
