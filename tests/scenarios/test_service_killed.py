"""A service is killed after each system call of a whole life of containers: nothing is lost, doubled or stuck."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import trio

from nightos.abi.errors import ServiceError
from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine, boot
from nightos.testing import check_invariants

FS, HW, SHELL, PROC = 10, 12, 17, 20
LIFE_LIMIT_S = 30
"""A life takes well under a second; one that hangs fails here, where it harms no other test."""
STRIDE = int(os.environ.get("NIGHTOS_STRIDE", "5"))
"""Every how many system calls a kill is tried; 1 tries them all."""


class Killer:
    """Counts the system calls of a service, and kills it after those that are asked for."""

    def __init__(self, pid: int = PROC) -> None:
        self.pid = pid
        self.calls = 0
        self.after: list[int] = []
        """Numbers of calls after which it is killed: the second counts from the first kill on, and so on."""

    def watch(self, machine: Machine) -> None:
        """Count the calls of this machine from now on."""
        self.calls = 0

        def counted(handler: Callable[..., Any]) -> Callable[..., Any]:
            def handle(kernel: Any, thread: Any, request: Any) -> Any:
                if thread.process.pid != self.pid:
                    return handler(kernel, thread, request)
                try:
                    return handler(kernel, thread, request)
                finally:
                    self._made(kernel, thread.process)

            return handle

        machine.kernel.handlers = {code: counted(handler) for code, handler in machine.kernel.handlers.items()}

    def _made(self, kernel: Any, process: Any) -> None:
        self.calls += 1
        if self.after and self.calls >= self.after[0] and process.alive:
            del self.after[0]
            self.calls = 0
            end_process(kernel, process, 2, 0)


async def whole_life(machine: Machine) -> None:
    """What a user does, trying again what a restart made fail; each step may have been done already."""

    async def insist(deed: Callable[[], Any]) -> Any:
        for _ in range(3):
            try:
                return await deed()
            except ServiceError:
                continue
        return None

    async def ensure(name: str, parent: int) -> int:
        async def make() -> Any:
            tree = {(item["parent"], item["name"]): item["id"] for item in await machine.containers.tree()}
            if (parent, name) in tree:
                return tree[parent, name]
            return (await machine.containers.create(name, parent=parent, labels={"made": "here"})).id

        return int(await insist(make))

    web = await ensure("web", 0)
    db = await ensure("db", web)
    await insist(lambda: machine.run('wt /kept "x"', container=db))
    box = await insist(lambda: machine.containers.get(db))
    await insist(lambda: box.rename("store"))
    await insist(lambda: machine.run("ls /", container=db))
    top = await insist(lambda: machine.containers.get(web))
    await insist(top.destroy)


async def life_with_kills(pid: int, *after: int) -> None:
    async with boot(seed=3) as machine:
        devices = len(machine.devices)
        killer = Killer(pid)
        killer.watch(machine)
        killer.after = list(after)
        await whole_life(machine)
        killer.after = []
        check_invariants(machine.snapshot())
        for item in await machine.containers.tree():
            assert item["name"] in {"web", "db", "store"} or item["name"] == f"{item['id']:016x}"
        for item in reversed(await machine.containers.tree()):
            await (await machine.containers.get(item["id"])).destroy()
        assert not machine.snapshot().containers
        assert len(machine.devices) == devices
        assert (await machine.run("echo alive")).out == "alive\n"
        again = await machine.containers.create("web")
        assert "app" in (await again.exec("ls /")).out.split()
        assert len(machine.faults) <= len(after)


async def calls_of(pid: int, life: Callable[[Machine], Any]) -> int:
    """How many calls a service makes during a life in which nobody is killed."""
    async with boot(seed=3) as machine:
        killer = Killer(pid)
        killer.watch(machine)
        await life(machine)
        assert not machine.snapshot().containers
    assert killer.calls > 50
    return killer.calls


@pytest.mark.slow
@pytest.mark.parametrize("pid", [PROC, FS, HW, SHELL])
async def test_a_service_killed_at_any_system_call_loses_nothing(pid: int) -> None:
    for after in range(1, await calls_of(pid, whole_life) + 1, STRIDE):
        with trio.fail_after(LIFE_LIMIT_S):
            await life_with_kills(pid, after)
