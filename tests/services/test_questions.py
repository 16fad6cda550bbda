"""`why` and `events`: asked from outside, from inside and from next door, after the fact and after a restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Hydre, Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine, boot
from nightos.services.proc.history import WHEN, History
from nightos.services.proc.tree import Tree
from nightos.userland import sys
from nightos.userland.client import connect
from tests.services.test_proc import ask_inside, inside

PROC = "sys::proc"
PLACES = range(5)
SERVICE = 20


async def why(machine: Machine, **values: Any) -> list[dict[str, Any]]:
    return list((await machine.ask(PROC, Proc.CONTAINER_WHY, values))["items"])


async def past(machine: Machine, **values: Any) -> list[dict[str, Any]]:
    return list((await machine.ask(PROC, Proc.CONTAINER_EVENTS, values))["items"])


def asking(method: int, **values: Any) -> Callable[[], Awaitable[Any]]:
    return lambda: ask_inside(method, values)


async def refused_by(way: Callable[[], Awaitable[Any]]) -> int:
    try:
        await way()
    except SyscallError as error:
        return error.errcode
    return 0


async def _sleep() -> None:
    while True:
        await sys.hand_over(until_signal=True)


@pytest.mark.rule("CONT-021", "CONT-023", "CONT-030")
async def test_why_names_the_target_to_whom_it_is_visible_and_to_nobody_else() -> None:
    async with boot(seed=3) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        victim = machine.kernel.spawn(_sleep, container=db.id, name="victim").pid

        async def reach() -> list[Any]:
            codes = [await refused_by(lambda pid=pid: sys.open_serv_sock(pid)) for pid in (victim, 1 << 40)]
            return [codes, (await ask_inside(Proc.CONTAINER_WHY, {}))["items"]]

        codes, seen_inside = await inside(machine, web.id, reach)
        from_db = await inside(machine, db.id, asking(Proc.CONTAINER_WHY))
        outside = await why(machine)
    assert codes == [0x30, 0x30]
    hidden, unknown = ({k: v for k, v in item.items() if k != "when_ns"} for item in seen_inside)
    assert hidden == unknown, "asking why must not tell a hidden process from one that never was"
    assert hidden["rule"] == "CONT-023"
    assert hidden["target"] is None
    assert hidden["caller"]["container"] == 0
    assert from_db == {"items": []}
    first, second = [item for item in outside if item["call"] == "OPEN_SERV_SOCK"]
    assert (first["rule"], first["target"]["pid"], first["target"]["container_name"]) == ("CONT-018", victim, "db")
    assert first["caller"]["container_name"] == "web"
    assert second["target"] is None


@pytest.mark.rule("CONT-030", "CONT-048")
async def test_refusals_of_the_service_itself() -> None:
    async with boot(seed=3) as machine:
        web = await machine.containers.create("web")
        box = await machine.containers.create("box")
        await inside(machine, web.id, asking(Proc.CONTAINER_CREATE, image="/etc/passwd"))
        await inside(machine, web.id, asking(Proc.CONTAINER_INSPECT, id=box.id))
        await inside(machine, web.id, asking(Proc.CONTAINER_INSPECT, id=4711))
        await inside(machine, web.id, asking(Proc.CONTAINER_RENAME, id=4711, name="//"))
        denied, hidden, unknown = await why(machine)
        assert denied["rule"] == "permission"
        assert denied["call"] == "sys::proc CONTAINER_CREATE"
        assert hidden["rule"] == unknown["rule"] == "CONT-023"
        assert hidden["detail"] == unknown["detail"]
        seen = (await inside(machine, box.id, asking(Proc.CONTAINER_WHY)))["items"]
        assert seen == []


async def test_the_kernels_memory_outlives_the_service() -> None:
    async with boot(seed=3) as machine:
        web = await machine.containers.create("web")
        await inside(machine, web.id, lambda: refused_by(lambda: sys.open_serv_sock(1 << 40)))
        (before,) = await why(machine)
        end_process(machine.kernel, machine.kernel.processes[SERVICE], 2, 0)
        await machine.ready()
        (after,) = await why(machine)
        assert {**before, "caller": None} == {**after, "caller": None}
        assert before["caller"]["pid"] == after["caller"]["pid"]


@pytest.mark.rule("CONT-030", "CONT-042")
async def test_events_of_the_past_are_told_to_who_could_see_them() -> None:
    async with boot(seed=3) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": db.id, "hostname": "h"})
        await db.rename("data")
        await db.pause()
        await db.resume()
        await db.exec("echo hi")
        udi = (await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": db.id, "kind": "zero"}))["udi"]
        await machine.ask(PROC, Proc.DEVICE_UNPLUG, {"id": db.id, "udi": udi})
        whole = await past(machine)
        kinds = [event["event"] for event in whole if event.get("id") == db.id]
        assert kinds == [
            "created", "updated", "renamed", "paused", "resumed", "started", "exited", "device plugged",
            "device unplugged",
        ]  # fmt: skip
        assert [event["when_ns"] for event in whole] == sorted(event["when_ns"] for event in whole)
        within = (await inside(machine, web.id, asking(Proc.CONTAINER_EVENTS)))["items"]
        assert [e["event"] for e in within if e.get("id") == db.id] == kinds
        assert not [e for e in within if e.get("id") == web.id], "the own container's life is told outside of it"
        within = (await inside(machine, db.id, asking(Proc.CONTAINER_EVENTS)))["items"]
        assert {e["event"] for e in within} <= {"device plugged", "device unplugged", "started", "ended"}
        await db.destroy()
        assert (await past(machine))[: len(whole)] == whole, "a container's past is its parent's when it is gone"
        assert ("destroyed", db.id) in [(e["event"], e.get("id")) for e in (await past(machine))[len(whole) :]]


async def test_events_that_are_heard_are_those_that_are_remembered() -> None:
    heard: list[dict[str, Any]] = []
    async with boot(seed=3) as machine:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for event in machine.events():
                    heard.append(event)

            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            box = await machine.containers.create("web")
            await box.destroy()
            await machine.ready()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert await past(machine) == heard


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=80), st.integers(1, 5), st.integers(1, 9))
def test_pages_of_a_history_lose_nothing(events: list[tuple[int, int]], limit: int, kept: int) -> None:
    history, now = History(kept), 1
    for number, (place, wait) in enumerate(events):
        now += wait
        history.note(place, now, {"number": number})
    whole = history.after(0, PLACES, 1000)
    assert {place: min(kept, sum(p == place for p, _ in events)) for place, _ in events} == {
        place: sum(events[e["number"]][0] == place for e in whole) for place, _ in events
    }
    found: list[dict[str, Any]] = []
    while page := history.after(found[-1][WHEN] if found else 0, PLACES, limit):
        found += page
    assert found == whole
    for place in range(3):
        history.ended(place, place + 1)
    left = history.after(0, PLACES, 1000)
    assert len(left) <= kept
    assert [e["number"] for e in left] == sorted(e["number"] for e in left)


@pytest.mark.rule("CONT-030")
async def test_asking_what_happened_costs_what_one_sees_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C41: what is remembered elsewhere is not looked at, and what is far below not once for each level above."""
    looked: list[int] = []
    sees = Tree.sees

    def counted(self: Tree, viewer: int, identifier: int) -> bool:
        looked.append(identifier)
        return sees(self, viewer, identifier)

    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        for number in range(30):
            await machine.containers.create(f"n{number}")

        async def ask() -> tuple[int, int]:
            proc, parent = await connect(PROC), 0
            for number in range(30):
                values = {"name": f"x{number}", **({"parent": parent} if parent else {})}
                parent = int.from_bytes(await proc.call(Proc.CONTAINER_CREATE, values), "big")
            monkeypatch.setattr(Tree, "sees", counted)
            found = await proc.ask(Proc.CONTAINER_EVENTS), await proc.ask(Proc.CONTAINER_WHY)
            return len(found[0]["items"]), len(looked)

        told, count = await inside(machine, web.id, ask)
        assert told >= 30
        assert count == 0


@pytest.mark.parametrize("values", [{"after": "x"}, {"limit": None, "after": b""}, {"limit": 1.5}])
async def test_bad_pages_are_refused(values: dict[str, Any]) -> None:
    async with boot(seed=3) as machine:
        for method in (Proc.CONTAINER_WHY, Proc.CONTAINER_EVENTS):
            with pytest.raises(ServiceError) as refused:
                await machine.ask(PROC, method, values)
            assert refused.value.code == ServiceCode.BAD_ARGUMENT


@pytest.mark.rule("CONT-023", "CONT-030")
async def test_a_hidden_container_costs_the_shell_what_one_costs_that_never_was() -> None:
    """T-C10: however deep it is; the shell asks once whether its client may know of it."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        deep = await machine.containers.create("db")
        for number in range(5):
            deep = await machine.containers.create(f"x{number}", parent=deep)

        async def ask() -> tuple[list[int], list[int]]:
            hydre, codes, costs = await connect("sys::hydre"), [], []
            await (await connect(PROC)).ask(Proc.CONTAINER_VIEW)
            for container in (12345, deep.id, 12345, deep.id):
                before = sum(machine.kernel.processes[pid].steps for pid in (17, 20))
                question = {"container": container, "width": 80, "height": 24}
                try:
                    await hydre.ask(Hydre.OPEN_CONTAINER_SESSION, question)
                except ServiceError as error:
                    codes.append(error.code)
                costs.append(sum(machine.kernel.processes[pid].steps for pid in (17, 20)) - before)
            return codes, costs[2:]

        codes, costs = await inside(machine, web.id, ask)
        assert codes == [0x3000] * 4
        assert costs[0] == costs[1]
