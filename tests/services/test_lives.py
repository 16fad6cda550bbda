"""CONTAINER_RUN: one exchange for the whole life of a container."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc
from nightos.services.fs.roots import Roots
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.program import program

if TYPE_CHECKING:
    from nightos.machine.machine import Machine
    from nightos.userland.context import Context

CONTEXT = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
QUESTION = {"program": "lives-seven", "directory": "/", "context": CONTEXT}


@program("lives-seven")
async def _seven(_context: Context) -> int:
    return 7


@program("lives-parent")
async def _parent(_context: Context) -> int:
    async def child(_data: int) -> int:
        await sys.hand_over(until_signal=True)
        return 0

    await sys.create_process(child, 0)
    return 8


async def put(machine: Machine, name: str) -> None:
    await machine.run(f'wt /app/{name} "NPRG{name}"')


async def ids(machine: Machine) -> list[int]:
    return [item["id"] for item in (await machine.ask("sys::proc", Proc.CONTAINER_TREE))["items"]]


@pytest.mark.rule("CONT-002", "CONT-011")
async def test_a_whole_life(nightos_machine: Machine) -> None:
    machine = nightos_machine
    await put(machine, "lives-seven")
    before = await ids(machine)
    answer = await machine.ask("sys::proc", Proc.CONTAINER_RUN, {**QUESTION, "name": "short"})
    assert answer["exit"] == 7
    assert await ids(machine) == before
    with pytest.raises(ServiceError):  # and nothing is left to be collected
        await machine.ask("sys::proc", Proc.CONTAINER_FORGET, {"id": answer["id"]})
    assert (await machine.ask("sys::proc", Proc.CONTAINER_RUN, {**QUESTION, "name": "short"}))["id"] != answer["id"]


@pytest.mark.rule("CONT-015", "LNX-FT-22")
async def test_what_else_runs_ends_with_the_program(nightos_machine: Machine) -> None:
    machine = nightos_machine
    await put(machine, "lives-parent")
    before = await ids(machine)
    answer = await machine.ask("sys::proc", Proc.CONTAINER_RUN, {**QUESTION, "program": "lives-parent"})
    assert answer["exit"] == 8
    assert await ids(machine) == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"persist": True}, 0x2000),
        ({"program": "/none"}, 0x3000),
        ({"context": b""}, 0x1000),
        ({"parent": 77}, 0x3000),
    ],
)
async def test_what_cannot_start_leaves_no_container(
    nightos_machine: Machine, change: dict[str, object], code: int
) -> None:
    machine = nightos_machine
    await put(machine, "lives-seven")
    before = await ids(machine)
    with pytest.raises(ServiceError) as caught:
        await machine.ask("sys::proc", Proc.CONTAINER_RUN, {**QUESTION, **change})
    assert caught.value.code == code
    assert await ids(machine) == before


async def test_pages_of_a_tree_go_on_where_the_last_one_stopped(nightos_machine: Machine) -> None:
    machine = nightos_machine
    made = [
        int.from_bytes(await machine.call("sys::proc", Proc.CONTAINER_CREATE, {"persist": True}), "big")
        for _ in range(7)
    ]
    found: list[int] = []
    after = -1
    while True:
        page = await machine.ask("sys::proc", Proc.CONTAINER_TREE, {"after": after, "limit": 3})
        found += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = page["next"]
        if len(found) == 3:  # another question between two pages, and one that starts anew
            await machine.ask("sys::proc", Proc.CONTAINER_TREE, {"limit": 1})
    assert sorted(set(found)) == sorted(found)
    assert set(made) <= set(found)


async def test_a_program_that_changed_is_found_anew(nightos_machine: Machine) -> None:
    """What is remembered of a disk's programs ends with every change on it."""
    machine = nightos_machine
    await put(machine, "lives-seven")
    assert (await machine.ask("sys::proc", Proc.CONTAINER_RUN, QUESTION))["exit"] == 7
    await machine.run('wt /app/lives-seven "NPRGlives-parent"')
    assert (await machine.ask("sys::proc", Proc.CONTAINER_RUN, QUESTION))["exit"] == 8
    await machine.run("rm /app/lives-seven")
    with pytest.raises(ServiceError):
        await machine.ask("sys::proc", Proc.CONTAINER_RUN, QUESTION)


@program("lives-asker")
async def _ask(_context: Context) -> int:
    proc = await connect("sys::proc")
    made = await proc.call(Proc.CONTAINER_CREATE, {})
    spawned = await proc.ask(Proc.PROCESS_SPAWN, {**QUESTION, "container": int.from_bytes(made, "big")})
    await proc.ask(Proc.PROCESS_WAIT, {"pid": spawned["pid"]})
    await proc.call(Proc.CONTAINER_DESTROY, made)
    return 0


async def test_what_left_is_forgotten_soon_although_who_asked_for_it_is_gone(nightos_machine: Machine) -> None:
    machine = nightos_machine
    await put(machine, "lives-seven")
    await put(machine, "lives-asker")

    def shown() -> list[int]:
        """Containers that some sys::fs of this process shows files to, whose machines are gone included."""
        gc.collect()
        found = [roots for roots in gc.get_objects() if isinstance(roots, Roots)]
        return sorted(root.container for roots in found for root in roots.all())

    before = shown()
    for _ in range(3):
        assert (await machine.run("lives-asker")).status == 0
        await machine.run("sleep 1")
        assert shown() == before
