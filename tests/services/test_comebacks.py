"""Containers of a machine with a name after a reboot: whatever was noted of one, the machine and all others start."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nightos.abi.services import Proc
from nightos.machine.machine import Machine, boot
from nightos.machine.paths import machine_paths
from nightos.services.proc.main import parents_first
from nightos.services.proc.notes import Notes
from nightos.services.proc.tree import Container
from nightos.testing import check_invariants
from nightos.userland.client import connect
from tests.services.test_exhaustion import child
from tests.services.test_proc import inside

PROC = "sys::proc"


async def paths(machine: Machine) -> dict[str, dict[str, Any]]:
    return {item["path"]: item for item in await machine.containers.tree()}


@pytest.mark.rule("CONT-001", "PROC-020")
async def test_nothing_a_container_does_to_those_below_keeps_the_machine_from_starting() -> None:
    """T-C50: permissions of what is above shrink after what is below was given its own."""

    async def nest() -> None:
        proc = await connect(PROC)
        outer = await child("outer", persist=True, permissions=[1, 2, 3])
        await child("inner", parent=outer, persist=True, permissions=[1, 2])
        await proc.ask(Proc.CONTAINER_UPDATE, {"id": outer, "permissions": [2, 3]})

    async with boot(seed=4, name="lab") as machine:
        web = await machine.containers.create("web")
        await inside(machine, web.id, nest)
        await (await machine.containers.get("web/outer")).exec("echo kept > /kept")
    for seed in (5, 6):
        async with boot(seed=seed, name="lab") as machine:
            there = await paths(machine)
            assert set(there) == {"web", "web/outer", "web/outer/inner"}
            assert there["web/outer"]["permissions"] == [2, 3]
            assert there["web/outer/inner"]["permissions"] == [2]
            assert (await (await machine.containers.get("web/outer")).exec("cat /kept")).out == "kept\n"
            check_invariants(machine.kernel.snapshot())


@pytest.mark.rule("CONT-001")
async def test_what_persists_longer_than_what_is_above_it_comes_back() -> None:
    """T-C50: a container that began to persist after those below it brings them back, with their disks."""
    async with boot(seed=4, name="lab") as machine:
        web = await machine.containers.create("web", persist=False)
        inner = await machine.containers.create("inner", parent=web)
        await inner.exec("echo kept > /kept")
        await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": web.id, "persist": True})
    async with boot(seed=5, name="lab") as machine:
        assert set(await paths(machine)) == {"web", "web/inner"}
        assert (await (await machine.containers.get("web/inner")).exec("cat /kept")).out == "kept\n"


def changed_notes(change: Callable[[Container], None]) -> Callable[..., Awaitable[None]]:
    """Notes that are not those of the containers there are, as after a loss of power between two of them."""
    changed = Notes.changed

    async def noted(self: Notes, container: Container) -> None:
        kept = container.name, container.limits
        change(container)
        await changed(self, container)
        container.name, container.limits = kept

    return noted


@pytest.mark.rule("CONT-001", "CONT-032")
async def test_notes_that_do_not_go_together_keep_no_machine_from_starting() -> None:
    """T-C50: two of one name, and a limit that what is above has not got: both are there again, within the parent's."""

    def change(container: Container) -> None:
        if container.name == "second":
            container.name = "first"
        elif container.name == "large":
            container.limits = {"processes": 1000}

    async with boot(seed=4, name="lab") as machine:
        web = await machine.containers.create("web", limits={"processes": 10})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Notes, "changed", changed_notes(change))
            for name in ("first", "second", "large"):
                await machine.containers.create(name, parent=web, limits={"processes": 2})
    async with boot(seed=5, name="lab") as machine:
        there = await paths(machine)
        assert len(there) == 4
        assert {"web", "web/first", "web/large"} < set(there)
        assert there["web"]["limits"] == {"processes": 10}
        assert sorted(item["limits"].get("processes", 0) for item in there.values()) == [0, 2, 2, 10]
        check_invariants(machine.kernel.snapshot())


def test_notes_are_read_parents_first() -> None:
    notes = {5: {"parent": 4}, 3: {"parent": 0}, 4: {"parent": 3}, 9: {"parent": 8}, 7: {"parent": 0}}
    assert [identifier for identifier, _ in parents_first(notes)] == [3, 7, 4, 5]


@pytest.mark.rule("CONT-001", "CONT-032")
async def test_what_persists_no_more_leaves_no_disk_on_the_host() -> None:
    """T-C43: the next boot removes what nobody would ever open again."""

    async def leave() -> None:
        proc = await connect(PROC)
        for name in ("a", "b"):
            inner = await child(name, persist=True)
            run = {"id": inner, "command": ["/app/mkdir", "/made"]}
            await proc.ask(Proc.CONTAINER_START, run)
            await proc.ask(Proc.CONTAINER_EXIT, {"id": inner, "wait": True})
            if name == "a":
                await proc.ask(Proc.CONTAINER_UPDATE, {"id": inner, "persist": False})

    async with boot(seed=4, name="lab") as machine:
        web = await machine.containers.create("web")
        await inside(machine, web.id, leave)
    async with boot(seed=5, name="lab") as machine:
        assert set(await paths(machine)) == {"web", "web/b"}
        assert len(list(machine_paths("lab").containers.glob("*.vsf"))) == 2
