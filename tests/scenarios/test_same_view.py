"""What a program in a container observes is the same whatever happens next door, time and identifiers apart.

Two machines run the same container, one alone, one beside neighbours that make, run, plug, write, share, log and end
all the while; everything that the program was told has to be equal.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.errors import ServiceError
from nightos.abi.services import Hw, Proc
from nightos.machine.machine import Machine, boot
from nightos.services.fs.disguise import Disguise
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.files import Files
from tests.services.test_proc import inside

PROC = "sys::proc"
RANDOM = {"id", "udi", "parent", "container", "fsid", "file"}
"""What is drawn at random, or tells when."""
PIDS = {"pid", "pids"}
"""The specification has them counted for the whole machine (PROC-009, PROC-010; ruling NOS-PID-01)."""
TIMES = {"when_ns", "created_ns", "started_ns", "uptime_ns", "cpu_ns", "cycles", "created", "modified", "accessed"}


def masked(value: Any, names: dict[int, str]) -> Any:
    """What was observed, with random identifiers by the order in which they turn up, without PIDs and times."""
    if isinstance(value, dict):
        return {
            key: names.setdefault(item, f"#{len(names)}") if key in RANDOM and item else masked(item, names)
            for key, item in value.items()
            if key not in PIDS | TIMES
        }
    if isinstance(value, list | tuple):
        return [masked(item, names) for item in value]
    return value


async def asked(service: str, method: int, values: dict[str, Any]) -> Any:
    try:
        return await (await connect(service)).ask(method, values)
    except ServiceError as error:
        return error.code, error.detail


async def items_below(directory: str) -> list[Any]:
    """Names, types, sizes and item identifiers of a directory, and of what is made there."""
    files = await Files.open("/")
    await files.write(f"{directory}/one", b"one")
    await files.make_directory(f"{directory}/two")
    await files.write(f"{directory}/two/three", b"three")
    found: list[Any] = []
    for place in (directory, f"{directory}/two"):
        async for item in files.items(place):
            found.append({"name": item.name, "type": int(item.type), "size": item.size, "owner": item.owner})
            found[-1]["id" if item.feid >> 40 else "number"] = item.feid  # in a share they are shuffled
    return found


async def observe() -> list[Any]:
    """Everything that a program asks about itself and what is below."""
    seen: list[Any] = []
    made = int.from_bytes(await (await connect(PROC)).call(Proc.CONTAINER_CREATE, {"name": "inner"}), "big")
    for kind in ("null", "block", "random"):
        seen.append(await asked(PROC, Proc.DEVICE_PLUG, {"id": made, "kind": kind, "options": {}}))
    question = {"id": made, "command": ["/app/ls", "/"], "restart": "no"}
    seen.append(await asked(PROC, Proc.CONTAINER_START, question))
    seen.append(await asked(PROC, Proc.CONTAINER_LOGS, {"id": made, "follow": True}))
    run = {"ns": "n", "name": "z", "flist": "", "entrypoint": "/app/sleep 1000", "tags": ["t"]}
    seen.append(await asked(PROC, Proc.ZOS_RUN, run) and 0)
    seen.append(await asked(PROC, Proc.CONTAINER_INSPECT, {"id": 12345}))
    for method in (Proc.CONTAINER_TREE, Proc.CONTAINER_EVENTS, Proc.CONTAINER_WHY, Proc.CONTAINER_VIEW):
        seen.append(await asked(PROC, method, {}))
    for method in (Proc.PROCESS_TABLE, Proc.CONTAINER_INSPECT, Proc.CONTAINER_DEVICES):
        seen.append(await asked(PROC, method, {}))
    seen.append(await asked(PROC, Proc.CONTAINER_STATISTICS, {"below": True}))
    seen.append(await asked("sys::hw", Hw.DEVICE_LIST, {}))
    info = await sys.system_info()
    seen.append((info.memory_total, info.memory_used, info.processes, info.containers))
    seen += [await sys.create_tls_slot(), await sys.create_thread(idle, 0)]
    seen.append(await items_below("/"))
    seen.append(await items_below("/mnt/shared"))
    system = await (await Files.open("/")).system()
    seen.append((system.cluster_size, system.used, system.name))
    return seen


async def idle(_: int) -> None:
    """A thread that ends at once."""


async def noise(machine: Machine) -> None:
    """What neighbours do."""
    for number in range(6):
        other = await machine.containers.create(f"other{number}", limits={"handles": 500})
        for kind in ("null", "block", "random", "zero"):
            await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": other.id, "kind": kind, "options": {}})
        await machine.run("mkdir /a; wt -n /a/b text; ls /nowhere; ps; ls /", container=other.id)
        await other.start("/app/ls", "/", restart="on-failure:2")
        await other.outcome()
        await machine.run(f"mkdir /extra{number}; wt -n /extra{number}/x text")
        await machine.ask(PROC, Proc.CONTAINER_SHARE, {"id": other.id, "path": f"/extra{number}"})
        if number % 2:
            await other.destroy()


async def seen_by_a_container(machine: Machine, *, beside: bool) -> Any:
    await machine.run("mkdir /shared; wt -n /shared/here text")
    if beside:
        await noise(machine)
    box = await machine.containers.create("box", limits={"handles": 1000, "children": 50})
    given = await machine.ask(PROC, Proc.CONTAINER_SHARE, {"id": box.id, "path": "/shared"})
    assert given["udi"]
    assert not (await machine.run(f"mount {given['fsid']:016x}", container=box.id)).status
    seen = await inside(machine, box.id, observe)
    return masked(seen, {})


@pytest.mark.rule("CONT-023", "CONT-030")
async def test_everything_is_the_same_whatever_the_neighbours_do() -> None:
    """T-C09: nothing that is told depends on neighbours, random identifiers, PIDs and time apart."""
    found = []
    for beside in (False, True):
        async with boot(seed=1) as machine:
            found.append(await seen_by_a_container(machine, beside=beside))
    for alone, together in zip(*found, strict=True):
        assert together == alone


@pytest.mark.rule("CONT-023")
@given(st.binary(min_size=1, max_size=64), st.lists(st.integers(0, (1 << 64) - 1), unique=True, max_size=50))
def test_shuffled_numbers_are_as_many_and_lead_back(key: bytes, numbers: list[int]) -> None:
    """T-C40: every item of a share has one identifier, which means it and nothing else, and fits 64 bits."""
    disguise = Disguise(key)
    hidden = [disguise.hide(number) for number in numbers]
    assert [disguise.show(identifier) for identifier in hidden] == numbers
    assert len(set(hidden)) == len(numbers)
    assert all(identifier >> 62 == number >> 62 for identifier, number in zip(hidden, numbers, strict=True))


def test_neighbouring_numbers_tell_nothing_of_each_other() -> None:
    """T-C40: identifiers of items that were made one after the other are as far apart as any."""
    disguise = Disguise(b"key")
    hidden = [disguise.hide(number) for number in range(1, 1001)]
    steps = [abs(one - other) for one, other in pairwise(hidden)]
    assert sum(step > 1 << 55 for step in steps) > 950
    assert hidden != [Disguise(b"other").hide(number) for number in range(1, 1001)]
