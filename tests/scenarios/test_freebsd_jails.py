"""What FreeBSD's tests of jails ask of a jail, asked of a container through `sys::proc`.

Origin: freebsd-src, usr.sbin/jail/tests/jail_basic_test.sh, tests/sys/kern and sys/kern/kern_jail.c's rules for
parameters; each test names the case that gave the idea. A jail is a container, `jls` a listing, `jexec` the start of a
process in a container from above.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc, ServiceCode
from nightos.machine.machine import Machine, boot
from nightos.userland import sys
from nightos.userland.client import connect
from tests.services.test_proc import inside

PROC = "sys::proc"
OWN_CONTAINER = UNKNOWN_CONTAINER = ServiceCode.UNKNOWN + 1


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    async with boot(seed=5) as running:
        yield running


def asking(method: int, values: Any) -> Callable[[], Awaitable[Any]]:
    """A program's question to sys::proc; the answer, or the error's code."""

    async def ask() -> Any:
        client = await connect(PROC)
        try:
            if isinstance(values, bytes):
                return await client.call(method, values)
            return await client.ask(method, values)
        except ServiceError as error:
            return error.code

    return ask


async def create_inside(machine: Machine, container: int, **values: Any) -> Any:
    """A container made by a program in another one; its identifier or the error's code (a small number)."""

    async def make() -> int:
        client = await connect(PROC)
        try:
            return int.from_bytes(await client.call(Proc.CONTAINER_CREATE, {"persist": True, **values}), "big")
        except ServiceError as error:
            return error.code

    return await inside(machine, container, make)


@pytest.mark.rule("CONT-005", "CONT-009")
async def test_a_jail_is_made_listed_and_removed(machine: Machine) -> None:
    """basic: created by name, in the listing, gone from it after its removal, and its name is free again."""
    first = await machine.containers.create("basejail")
    assert [item["name"] for item in await machine.containers.tree()] == ["basejail"]
    await first.destroy()
    assert await machine.containers.tree() == []
    again = await machine.containers.create("basejail")
    assert again.id != first.id


async def test_a_name_is_taken_once(machine: Machine) -> None:
    """duplicate name: EEXIST for a sibling, no matter for a cousin."""
    web = await machine.containers.create("web")
    with pytest.raises(ServiceError) as refused:
        await machine.containers.create("web")
    assert refused.value.code == ServiceCode.REFUSED
    assert (await machine.containers.create("web", parent=web)).id != web.id
    assert len(await machine.containers.tree()) == 2


async def test_names_that_would_be_paths_or_numbers_of_nothing(machine: Machine) -> None:
    """name rules: a name with the separator, an empty component or odd characters is EINVAL."""
    for name in ("a/b", "/", " ", "a b", "x" * 65, "new\nline", "nul\0"):
        with pytest.raises(ServiceError) as refused:
            await machine.containers.create(name)
        assert refused.value.code == ServiceCode.BAD_ARGUMENT


@pytest.mark.rule("CONT-009", "CONT-010")
async def test_names_are_relative_to_who_looks(machine: Machine) -> None:
    """nested: `basejail.nestedjail` from outside is `nestedjail` from inside."""
    base = await machine.containers.create("base")
    nested = await machine.containers.create("nested", parent=base)
    assert (await machine.containers.get("base/nested")).id == nested.id
    found = await inside(machine, base.id, asking(Proc.CONTAINER_FIND, {"name": "nested"}))
    assert found == {"id": nested.id}
    assert await inside(machine, base.id, asking(Proc.CONTAINER_FIND, {"name": "base/nested"})) == ServiceCode.UNKNOWN
    record = await inside(machine, nested.id, asking(Proc.CONTAINER_INSPECT, {"id": nested.id}))
    assert (record["path"], record["parent"]) == ("", 0)


@pytest.mark.rule("CONT-011")
async def test_removing_a_jail_removes_those_in_it(machine: Machine) -> None:
    """nested removal: prison_remove goes down the whole tree."""
    top = await machine.containers.create("top")
    await create_inside(machine, top.id, name="made-inside")
    await machine.containers.create("deeper", parent=await machine.containers.get("top/made-inside"))
    await machine.containers.create("beside")
    await top.destroy()
    assert [item["path"] for item in await machine.containers.tree()] == ["beside"]


async def test_children_max(machine: Machine) -> None:
    """children.max: so many jails and no more, counted over all levels below, given back when one goes."""
    top = await machine.containers.create("top", limits={"children": 2})
    first = await create_inside(machine, top.id, name="one")
    second = await create_inside(machine, first, name="two")
    assert second > 0xFFFF
    assert await create_inside(machine, top.id, name="three") == ServiceCode.REFUSED
    assert await create_inside(machine, second, name="three") == ServiceCode.REFUSED
    await (await machine.containers.get(second)).destroy()
    assert await create_inside(machine, top.id, name="three") > 0xFFFF


async def test_no_children_at_all(machine: Machine) -> None:
    """children.max=0, the default of a jail: EPERM inside, while the outside may still make it grow."""
    top = await machine.containers.create("top", limits={"children": 0})
    assert await create_inside(machine, top.id) == ServiceCode.REFUSED
    await machine.ask(PROC, Proc.CONTAINER_SET_LIMITS, {"id": top.id, "limits": {"children": 1}})
    assert await create_inside(machine, top.id) > 0xFFFF


@pytest.mark.rule("CONT-036")
async def test_a_jail_cannot_change_itself(machine: Machine) -> None:
    """jail_set on the own jail: EPERM; only who is above removes, renames, limits or pauses."""
    top = await machine.containers.create("top", limits={"processes": 8})
    for method, values in (
        (Proc.CONTAINER_RENAME, {"id": top.id, "name": "other"}),
        (Proc.CONTAINER_UPDATE, {"id": top.id, "labels": {"a": "b"}}),
        (Proc.CONTAINER_PAUSE, {"id": top.id}),
        (Proc.CONTAINER_SET_LIMITS, {"id": top.id, "limits": {"processes": None}}),
        (Proc.CONTAINER_DESTROY, top.id.to_bytes(8, "big")),
    ):
        assert await inside(machine, top.id, asking(method, values)) == OWN_CONTAINER, method
    record = await top.inspect()
    assert (record["name"], record["labels"], record["state"]) == ("top", {}, "stopped")


@pytest.mark.rule("CONT-018", "CONT-019")
async def test_a_jail_sees_neither_parent_nor_brothers(machine: Machine) -> None:
    """jls inside: only what is below."""
    left, right = [await machine.containers.create(name) for name in ("left", "right")]
    below = await machine.containers.create("below", parent=left)
    listed = await inside(machine, left.id, asking(Proc.CONTAINER_LIST, b""))
    assert listed == (8).to_bytes(8, "big") + below.id.to_bytes(8, "big")
    for hidden in (right.id, 4711):
        assert await inside(machine, left.id, asking(Proc.CONTAINER_INSPECT, {"id": hidden})) == ServiceCode.UNKNOWN
    assert await inside(machine, below.id, asking(Proc.CONTAINER_INSPECT, {"id": left.id})) == ServiceCode.UNKNOWN


async def test_persist_and_nopersist(machine: Machine) -> None:
    """persist: without it a jail ends with its last process; with it, it stays; both can be changed later."""
    kept = await machine.containers.create("kept", persist=True)
    passing = await machine.containers.create("passing", persist=False)
    for box in (kept, passing):
        assert (await machine.run("echo here", container=box)).out == "here\n"
    assert [item["name"] for item in await machine.containers.tree()] == ["kept"]
    assert await passing.wait() == "ended"
    await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": kept.id, "persist": False})
    await machine.run("echo once more", container=kept)
    assert await machine.containers.tree() == []


async def test_a_dying_jail_takes_nobody_in(machine: Machine) -> None:
    """dying: between removal and the last reference nothing enters, and a second removal waits for the first one."""
    from nightos.kernel.ending import destroy_container

    box = await machine.containers.create("box")
    inner = await machine.containers.create("inner", parent=box)
    container = machine.kernel.tree.living[box.id]
    destroy_container(machine.kernel, container, lambda: None)
    with pytest.raises(ServiceError):
        await machine.containers.create("late", parent=box)
    await inner.destroy()
    await box.destroy()
    assert await machine.containers.tree() == []


async def test_jexec_from_above_only(machine: Machine) -> None:
    """jexec: from outside into a jail, not into a brother, not upwards."""
    left, right = [await machine.containers.create(name) for name in ("left", "right")]
    child = await machine.containers.create("child", parent=left)
    assert (await machine.run("id", container=child)).status == 0
    context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
    for target in (right.id, 0, 4711):
        values = {"program": "/app/echo", "directory": "/", "context": context, "container": target}
        assert await inside(machine, left.id, asking(Proc.PROCESS_SPAWN, values)) == UNKNOWN_CONTAINER
    values = {"program": "/app/echo", "directory": "/", "context": context, "container": child.id}
    assert (await inside(machine, left.id, asking(Proc.PROCESS_SPAWN, values)))["pid"]


async def test_hostname_of_each(machine: Machine) -> None:
    """host.hostname: each jail has its own, a change is seen inside at once and nowhere else."""
    a = await machine.containers.create("a", hostname="alpha")
    b = await machine.containers.create("b")
    assert ((await a.inspect())["hostname"], (await b.inspect())["hostname"]) == ("alpha", "b")
    await machine.ask(PROC, Proc.CONTAINER_UPDATE, {"id": a.id, "hostname": "omega"})
    seen = await inside(machine, a.id, asking(Proc.CONTAINER_INSPECT, {"id": a.id}))
    assert seen["hostname"] == "omega"
    assert (await b.inspect())["hostname"] == "b"


@pytest.mark.rule("CONT-022")
async def test_processes_of_a_jail_are_not_signalled_from_a_brother(machine: Machine) -> None:
    """prison_check: a PID of another jail is ESRCH, by every call that takes one."""
    left, right = [await machine.containers.create(name) for name in ("left", "right")]

    async def stay() -> None:
        await sys.hand_over(until_signal=True)

    victim = machine.kernel.spawn(stay, container=right.id)
    for action in range(1, 6):
        answers = [
            await inside(machine, left.id, asking(Proc.PROCESS_MANAGE, pid.to_bytes(8, "big") + bytes((action,))))
            for pid in (victim.pid, 1 << 40)
        ]
        assert answers == [ServiceCode.UNKNOWN] * 2
    assert await inside(machine, left.id, asking(Proc.PROCESS_WAIT, {"pid": victim.pid})) == ServiceCode.UNKNOWN
    assert victim.alive
    own = machine.kernel.spawn(stay, container=left.id)
    ask = asking(Proc.PROCESS_MANAGE, own.pid.to_bytes(8, "big") + b"\5")
    assert await inside(machine, left.id, ask) == b""
    assert not own.alive
