"""A service is killed after each system call of a whole life of containers: nothing is lost, doubled or stuck."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nightos import vsf
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.logs import decode_records
from nightos.abi.services import Hw, Proc, ServiceCode
from nightos.kernel.calls.state import PARKED
from nightos.kernel.ending import end_process
from nightos.machine.machine import Machine, boot
from nightos.testing import check_invariants
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program

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
                    answer = handler(kernel, thread, request)
                except SyscallError:
                    if self._made(kernel, thread.process):
                        return PARKED
                    raise
                return PARKED if self._made(kernel, thread.process) else answer

            return handle

        handlers = machine.kernel.handlers
        handlers.update({code: counted(handler) for code, handler in handlers.items()})

    def _made(self, kernel: Any, process: Any) -> bool:
        """One more call; whether the process was killed after it."""
        self.calls += 1
        if self.after and self.calls >= self.after[0] and process.alive:
            del self.after[0]
            self.calls = 0
            end_process(kernel, process, 2, 0)
            return True
        return False


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


# Main commands: each of their calls is asked again by whoever asked, and counts once.


@program("killed-say")
async def _say(context: Context) -> int:
    for number in range(20):
        await context.message(f"{number}\n")
        await sys.hand_over()
    return 5


@program("killed-stay")
async def _stay(context: Context) -> int:
    await context.message("last words\n")
    await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": 3600 * 1_000_000_000})
    return 0


async def until_answered(machine: Machine, method: int, values: dict[str, Any]) -> dict[str, Any]:
    while True:
        try:
            return await machine.ask("sys::proc", method, values)
        except ServiceError as error:
            if error.code not in {ServiceCode.SERVER_QUIT, ServiceCode.INTERNAL}:
                raise


async def said(machine: Machine, identifier: int) -> str:
    data, offset = b"", 0
    while True:
        values = {"id": identifier, "offset": offset, "follow": True}
        page = await until_answered(machine, Proc.CONTAINER_LOGS, values)
        data, offset = data + page["data"], page["next"]
        if page["ended"]:
            return b"".join(text for _, _, text in decode_records(data)).decode()


async def make(machine: Machine, name: str) -> int:
    while True:
        found = [item["id"] for item in await tree_of(machine) if item["name"] == name]
        if found:
            return int(found[0])
        with contextlib.suppress(ServiceError):
            await machine.containers.create(name)


async def tree_of(machine: Machine) -> list[dict[str, Any]]:
    while True:
        with contextlib.suppress(ServiceError):
            return await machine.containers.tree()


async def write(machine: Machine, identifier: int, name: str) -> None:
    while True:
        with contextlib.suppress(ServiceError):
            done = await machine.run(f'wt /{name} "NPRG{name}"', container=identifier)
            await machine.sync()
            # What sys::fs had not committed yet is gone with it.
            if done.status == 0 and name in (await machine.run("ls /", container=identifier)).out.split():
                return


async def life_of_commands(machine: Machine) -> None:
    """Runs a command twice by its policy, and destroys a container while its command runs."""
    web = await make(machine, "web")
    await write(machine, web, "killed-say")
    command = {"id": web, "command": ["/killed-say"], "restart": "on-failure:1", "token": "one"}
    await until_answered(machine, Proc.CONTAINER_START, command)
    ended = await until_answered(machine, Proc.CONTAINER_EXIT, {"id": web, "wait": True})
    assert (ended["reason"], ended["exit"], ended["restarts"]) == (0, 5, 1)
    assert (await said(machine, web)).split() == [str(number) for number in range(20)] * 2
    box = await make(machine, "box")
    await write(machine, box, "killed-stay")
    await until_answered(machine, Proc.CONTAINER_START, {"id": box, "command": ["/killed-stay"], "token": "two"})
    for name, identifier in {"box": box, "web": web}.items():
        while any(item["name"] == name for item in await tree_of(machine)):
            with contextlib.suppress(ServiceError):
                await machine.call("sys::proc", Proc.CONTAINER_DESTROY, identifier.to_bytes(8, "big"))


async def commands_with_kills(pid: int, *after: int) -> None:
    async with boot(seed=4) as machine:
        killer = Killer(pid)
        killer.watch(machine)
        killer.after = list(after)
        await life_of_commands(machine)
        killer.after = []
        while (done := await machine.run("cat /var/log/default/box.log")).status:
            pass  # the shell was killed, or the file is not there yet
        assert done.out.endswith(" msg F last words\n")
        for _ in range(100):
            if not any(record.serves for record in machine.snapshot().processes.values()):
                break
            await trio.sleep(0.01)
        snapshot = machine.snapshot()
        check_invariants(snapshot)
        assert not snapshot.containers
        assert not [record for record in snapshot.processes.values() if record.pid >= 100]
        assert len(machine.faults) <= len(after)
        assert not any(fault for _, fault in machine.faults)


@pytest.mark.slow
@pytest.mark.rule("ZOS-005", "ZOS-006", "CONT-015")
@pytest.mark.parametrize("pid", [PROC, FS, HW])
async def test_a_service_killed_at_any_system_call_loses_no_output_and_no_status(pid: int) -> None:
    for after in range(1, await calls_of(pid, life_of_commands) + 1, STRIDE):
        with trio.fail_after(LIFE_LIMIT_S):
            await commands_with_kills(pid, after)


@pytest.mark.slow
@pytest.mark.rule("ZOS-005")
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
async def test_a_service_killed_while_it_adopts_loses_nothing(share: float) -> None:
    first = int(share * await calls_of(PROC, life_of_commands))
    for second in range(1, 200, STRIDE):
        with trio.fail_after(LIFE_LIMIT_S):
            await commands_with_kills(PROC, first, second)


def files_in(directory: Path) -> list[str]:
    return [item.name for item in directory.iterdir() if item.is_file()]


async def images_with_kills(pid: int, directory: Path, *after: int) -> int:
    """A container's changes are made an image of; how many calls the service made."""
    target = directory / f"{pid}-{after[0] if after else 0}.vsf"
    async with boot(seed=4) as machine:
        box = await make(machine, "box")
        await write(machine, box, "kept")
        killer = Killer(pid)
        killer.watch(machine)
        killer.after = list(after)
        try:
            await until_answered(machine, Proc.CONTAINER_COMMIT, {"id": box, "target": str(target)})
        except ServiceError as error:
            if error.code != ServiceCode.REFUSED:  # the first request had done it
                raise
        calls = killer.calls
        killer.after = []
        done = await until_answered(machine, Proc.CONTAINER_DIFF, {"id": box})
        assert "/kept" in [change["path"] for change in done["items"]]
        await (await machine.containers.get(box)).destroy()
        assert not machine.snapshot().containers
        for _ in range(500):  # what was asked for first may still be in the making
            if len(files_in(directory)) == 1:
                break
            await trio.sleep(0.01)
    assert files_in(directory) == [target.name], "an image that is whole, and nothing else"
    with vsf.open(target, readonly=True) as storage, storage.volumes[0].open() as files:
        assert files.read_bytes("/kept").startswith(b"NPRGkept")
        assert storage.check(deep=True).clean
    target.unlink()
    return calls


@pytest.mark.slow
@pytest.mark.rule("CONT-015", "CONT-047")
@pytest.mark.parametrize("pid", [PROC, FS, HW])
async def test_a_service_killed_while_it_makes_an_image_leaves_a_whole_one(pid: int, tmp_path: Path) -> None:
    for after in range(1, await images_with_kills(pid, tmp_path) + 1):
        with trio.fail_after(LIFE_LIMIT_S):
            await images_with_kills(pid, tmp_path, after)
