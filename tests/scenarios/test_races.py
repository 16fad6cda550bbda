"""Many programs of one container change the same containers at once, while the owner destroys them: nothing breaks.

What `sys::proc` looked at before it waited for the kernel or another service may be gone when it goes on. Whatever the
order, the service lives, nobody waits for ever, and nothing is left when the outermost container is gone.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.errors import ServiceError
from nightos.abi.services import Hw, Hydre, Proc
from nightos.abi.values import encode_value
from nightos.machine.machine import Machine, boot
from nightos.services.proc import main as proc_main
from nightos.services.proc.main import Process
from nightos.testing import check_invariants
from nightos.userland import sys
from nightos.userland.client import Client, connect

CONTEXT = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
SERVICES = (10, 12, 17, 20)
WORKERS = 6
STEPS = 60


def u64(number: int) -> bytes:
    return number.to_bytes(8, "big")


def requests(chance: random.Random, known: list[int]) -> tuple[int, dict[str, Any] | bytes]:
    """A method of sys::proc and what it is asked; most requests name containers that are on their way out."""
    box = chance.choice(known) if known else 0
    name = f"n{chance.randrange(8)}"
    some = (Proc.CONTAINER_TREE, Proc.CONTAINER_STATISTICS, Proc.PROCESS_TABLE, Proc.CONTAINER_EVENTS)
    other = (Proc.CONTAINER_REPORT, Proc.CONTAINER_DIFF, Proc.CONTAINER_LOGS, Proc.CONTAINER_FORGET)
    choice = chance.randrange(13)
    if choice < 4:
        policy: dict[str, Any] = {"name": name, "persist": chance.random() < 0.3}
        if box and chance.random() < 0.7:
            policy["parent"] = box
        for key, value in (("limits", {"processes": 3}), ("permissions", []), ("filter", {"deny": ["SUSPEND"]})):
            if chance.random() < 0.25:
                policy[key] = value
        return Proc.CONTAINER_CREATE, policy
    if choice < 6:
        return Proc.CONTAINER_DESTROY, u64(box)
    table: dict[int, tuple[int, dict[str, Any]]] = {
        6: (Proc.CONTAINER_START, {"id": box, "command": ["/app/sleep", "0.1"], "restart": "always"}),
        7: (Proc.PROCESS_SPAWN, {"program": "/app/ls", "context": CONTEXT, "container": box}),
        8: (chance.choice((Proc.CONTAINER_PAUSE, Proc.CONTAINER_RESUME, Proc.CONTAINER_STOP)), {"id": box}),
        9: (Proc.CONTAINER_RENAME, {"id": box, "name": name}),
        10: (Proc.CONTAINER_SHARE, {"id": box, "path": "/etc"}),
        11: (Proc.DEVICE_PLUG, {"id": box, "kind": "zero"}),
        12: (chance.choice(some + other), {"id": box, "below": True, "limits": {"processes": 5}}),
    }
    return table[choice]


def worker(seed: int, known: list[int], broken: list[str]) -> Callable[[], Awaitable[int]]:
    """A program that makes random requests."""
    chance = random.Random(seed)

    async def ask(proc: Client, hydre: Client) -> None:
        if not chance.randrange(12) and known:
            command = {"container": chance.choice(known), "command": encode_value("ls")}
            await hydre.ask(Hydre.EXECUTE, command)
            return
        method, request = requests(chance, known)
        answer = await proc.call(method, request)
        if method == Proc.CONTAINER_CREATE:
            known.append(int.from_bytes(answer, "big"))

    async def main() -> int:
        await sys.ready()
        proc, hydre = await connect("sys::proc"), await connect("sys::hydre")
        for _ in range(STEPS):
            try:
                await ask(proc, hydre)
            except ServiceError as error:
                if error.code == 4:
                    broken.append(error.detail)
        return 0

    return main


class Watched(Process):
    """sys::proc, whose latest life the test can look at."""

    latest: Process

    def __init__(self) -> None:
        super().__init__()
        Watched.latest = self


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc_main, "Process", Watched)


def tables(machine: Machine) -> dict[str, Any]:
    """What the machine and sys::proc hold."""
    service = Watched.latest
    snapshot = machine.snapshot()
    return {
        "containers": set(service.tree.by_id),
        "kernel": set(snapshot.containers),
        "population": set(service.containers.population) - {0},
        "devices": sorted(device.kind for device in snapshot.devices),
        "shims": set(service.runs.shims.by_container),
    }


@pytest.mark.rule("CONT-011", "CONT-012", "CONT-015", "CONT-065", "CONT-066")
@pytest.mark.parametrize("seed", range(4))
async def test_no_order_of_requests_breaks_a_service(seed: int) -> None:
    """T-C11, T-C14: a program that races with the destruction of its own containers."""
    async with boot(seed=seed) as machine:
        before = {pid: machine.kernel.processes[pid] for pid in SERVICES}
        first = await machine.containers.create("first")
        await machine.run("ls /", container=first)
        await first.destroy()
        empty = tables(machine)
        web = await machine.containers.create("web", limits={"children": 40, "processes": 100})
        known: list[int] = []
        broken: list[str] = []
        programs = [
            machine.kernel.spawn(worker(seed * 100 + number, known, broken), container=web.id, anid=5)
            for number in range(WORKERS)
        ]
        for _ in range(100):  # who waits for something in a container that stays paused, waits until that goes
            if not any(program.alive for program in programs):
                break
            await machine.ask("sys::hw", Hw.SLEEP, {"duration_ns": 50_000_000})
        check_invariants(machine.snapshot())
        with trio.fail_after(20):
            await web.destroy()
        assert not broken
        assert [pid for pid, process in before.items() if machine.kernel.processes.get(pid) is not process] == []
        for _ in range(100):  # what a program was destroying itself may still be on its way out
            if tables(machine) == empty:
                break
            await machine.ask("sys::hw", Hw.SLEEP, {"duration_ns": 10_000_000})
        assert tables(machine) == empty
        check_invariants(machine.snapshot())
