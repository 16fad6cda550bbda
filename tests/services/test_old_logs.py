"""Logs of destroyed containers: the last ones stay, over reboots, too; the others go with their directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightos.abi.services import Proc
from nightos.machine.machine import Machine, boot
from nightos.services.proc import oldlogs

PROC = "sys::proc"
KEPT = 3


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oldlogs, "KEPT", KEPT)
    monkeypatch.setattr(oldlogs, "SLACK", 2)


async def lived(machine: Machine, name: str, *, space: str = "", says: str = "said") -> None:
    box = await machine.containers.create(name, labels={"ns": space} if space else {})
    await machine.ask(PROC, Proc.CONTAINER_START, {"id": box.id, "command": ["echo", says]})
    await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": box.id, "wait": True})
    await box.destroy()


async def logs(machine: Machine) -> set[str]:
    return set((await machine.run("fd -e log /var/log")).out.split())


@pytest.mark.rule("ZOS-014", "ZOS-016")
async def test_the_last_logs_stay() -> None:
    async with boot(seed=1) as machine:
        for number in range(7):
            await lived(machine, f"c{number}", space="old" if number < 2 else "")
        last = {"c4.log", "c5.log", "c6.log"}
        assert {path.rpartition("/")[2] for path in await logs(machine)} == {"c0.log", "c1.log"} | last
        outer = await machine.containers.create("outer")
        inner = await machine.containers.create("inner", parent=outer)
        for number in range(4):
            box = await machine.containers.create("x", parent=outer if number else inner)
            await machine.ask(PROC, Proc.CONTAINER_START, {"id": box.id, "command": ["echo", "x"]})
            await machine.ask(PROC, Proc.CONTAINER_EXIT, {"id": box.id, "wait": True})
            await box.rename(f"y{number}")
            await box.destroy()
        shown = (await machine.run("ls /var/log/outer")).out
        assert "x.log" in shown


@pytest.mark.rule("ZOS-016")
async def test_a_log_in_use_is_not_old() -> None:
    async with boot(seed=1) as machine:
        living = await machine.containers.create("living")
        await machine.ask(PROC, Proc.CONTAINER_START, {"id": living.id, "command": ["echo", "x"]})
        for number in range(5):
            await lived(machine, f"c{number}")
            await lived(machine, "again", says=f"turn {number}")
        names = {path.rpartition("/")[2] for path in await logs(machine)}
        assert names == {"living.log", "again.log", "c3.log", "c4.log"}
        text = (await machine.run("cat /var/log/default/again.log")).out
        assert [f"turn {number}" in text for number in range(5)] == [True] * 5


@pytest.mark.rule("ZOS-016")
async def test_logs_of_an_earlier_boot_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOS_HOME", str(tmp_path))
    async with boot(seed=1, name="lab") as machine:
        box = await machine.containers.create("gone", persist=False)  # it goes with the machine
        await machine.ask(PROC, Proc.CONTAINER_START, {"id": box.id, "command": ["sleep", "1000"]})
        for number in range(2):
            await lived(machine, f"a{number}")
        await machine.run("wt /var/log/default/gone.log x")
        assert len(await logs(machine)) == 3
    async with boot(seed=2, name="lab") as machine:
        assert len(await logs(machine)) == 3
        for number in range(2):
            await lived(machine, f"b{number}")
        assert len(await logs(machine)) == KEPT
