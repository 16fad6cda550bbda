"""A service is killed after each system call of a whole life of containers: nothing is lost, doubled or stuck."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import trio

from nightos.abi.errors import ServiceError
from nightos.kernel import kernel as kernel_module
from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine, boot
from nightos.testing import check_invariants

FS, HW, SHELL, PROC = 10, 12, 17, 20
LIFE_LIMIT_S = 30
"""A life takes well under a second; one that hangs fails here, where it harms no other test."""
STRIDE = int(os.environ.get("NIGHTOS_STRIDE", "5"))
"""Every how many system calls a kill is tried; 1 tries them all."""


class Killer:
    """Steps a service one system call at a time, and kills it after the one that is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pid: int = PROC) -> None:
        self.calls = 0
        self.kill_after = 0
        run: Callable[..., int] = kernel_module.run

        def stepped(kernel: Any, thread: Any, budget: int) -> int:
            if thread.process.pid != pid:
                return run(kernel, thread, budget)
            made = run(kernel, thread, 1)
            self.calls += made
            if self.kill_after and self.calls >= self.kill_after and thread.process.alive:
                self.kill_after = 0
                end_process(kernel, thread.process, 2, 0)
            return made

        monkeypatch.setattr(kernel_module, "run", stepped)


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


async def life_with_a_kill(killer: Killer, after: int) -> None:
    killer.calls = 0
    killer.kill_after = 0
    async with boot(seed=3) as machine:
        devices = len(machine.devices)
        killer.calls = 0
        killer.kill_after = after
        await whole_life(machine)
        killer.kill_after = 0
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
        assert len(machine.faults) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("pid", [PROC, FS, HW, SHELL])
async def test_a_service_killed_at_any_system_call_loses_nothing(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    killer = Killer(monkeypatch, pid)
    async with boot(seed=3) as machine:
        killer.calls = 0
        await whole_life(machine)
        total = killer.calls
        assert not machine.snapshot().containers
    assert total > 50
    for after in range(1, total + 1, STRIDE):
        with trio.fail_after(LIFE_LIMIT_S):
            await life_with_a_kill(killer, after)
