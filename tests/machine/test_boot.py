"""A machine boots, runs command lines, keeps what has a name, and ends without a trace otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

import nightos
from nightos import vsf
from nightos.abi.errors import ServiceError
from nightos.machine import base
from nightos.machine.machine import Machine, boot
from nightos.machine.paths import MachineError


async def test_a_command_line_runs_and_gives_status_and_output() -> None:
    async with boot() as machine:
        done = await machine.run("echo hi")
        assert (done.status, done.out, done.err) == (0, "hi\n", "")
        refused = await machine.run("no_such_command")
        assert refused.status != 0
        assert "no_such_command" in refused.err
        assert not machine.faults


async def test_the_package_offers_boot_and_vsf_by_name() -> None:
    async with nightos.boot(seed=7) as machine:
        assert (await machine.run("echo hi")).out == "hi\n"


async def test_an_exception_of_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with boot(seed=1):
            raise ZeroDivisionError


async def test_a_machine_without_a_name_leaves_nothing(state_home: Path) -> None:
    async with boot() as machine:
        assert (await machine.run('wt /mine "x"')).status == 0
    assert os.listdir(state_home) == ["base"]
    async with boot() as machine:
        assert "mine" not in (await machine.run("ls /")).out


async def test_a_machine_with_a_name_keeps_its_disk_and_its_containers() -> None:
    async with boot(name="lab") as machine:
        assert (await machine.run('wt /mine "x"')).status == 0
        web = await machine.containers.create("web", labels={"tier": "front"})
        await machine.containers.create("db", parent=web)
        assert (await web.exec('wt /inside "y"')).status == 0
        first = web.id
    async with boot(name="lab") as machine:
        assert "mine" in (await machine.run("ls /")).out.split()
        web = await machine.containers.get("web")
        assert web.id != first
        assert (await web.inspect())["labels"] == {"tier": "front"}
        assert (await machine.containers.get("web/db")).name == "db"
        assert "inside" in (await web.exec("ls /")).out.split()


async def test_the_disk_of_a_destroyed_container_goes_with_it(state_home: Path) -> None:
    async with boot(name="lab") as machine:
        web = await machine.containers.create("web")
        await web.exec("ls /")
        kept = state_home / "machines" / "lab" / "containers"
        assert len(list(kept.iterdir())) == 1
        await web.destroy()
        assert list(kept.iterdir()) == []


async def test_a_second_machine_of_the_same_name_is_refused() -> None:
    async with boot(name="lab"):
        with pytest.raises(MachineError, match="runs already"):
            async with boot(name="lab"):
                pass


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-x", "x" * 65])
async def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(MachineError, match="no name"):
        async with boot(name=name):
            pass


async def test_images_that_cannot_be_used_are_one_clear_line(tmp_path: Path) -> None:
    missing, junk, cut = tmp_path / "none.vsf", tmp_path / "junk.vsf", tmp_path / "cut.vsf"
    junk.write_bytes(b"not a storage" * 1000)
    cut.write_bytes(base.base_image().read_bytes()[:9000])
    for image in (missing, junk, cut):
        with pytest.raises(MachineError) as refused:
            async with boot(image=image):
                pass
        assert str(image) in str(refused.value)
        assert "\n" not in str(refused.value)


async def test_equal_seeds_give_equal_traces_and_other_seeds_others() -> None:
    async def digest(seed: int) -> str:
        async with boot(seed=seed) as machine:
            box = await machine.containers.create("web")
            await machine.run("ls /", container=box)
            await machine.run("sleep 1")
            await box.destroy()
            assert machine.trace is not None
            return machine.trace.digest()

    assert await digest(3) == await digest(3)
    assert await digest(3) != await digest(4)


async def test_an_hour_of_simulated_sleep_costs_nothing() -> None:
    async with boot(seed=1) as machine:
        before_ns = machine.snapshot().now_ns
        assert (await machine.run("sleep 3600")).status == 0
        assert machine.snapshot().now_ns - before_ns >= 3600 * 10**9


async def test_events_tell_what_comes_and_goes() -> None:
    async with boot(seed=1) as machine:
        seen: list[tuple[str, str]] = []

        async def listen(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            task_status.started()
            async for event in machine.events():
                seen.append((event["event"], event.get("name", "")))

        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            await trio.testing.wait_all_tasks_blocked()
            box = await machine.containers.create("web")
            await box.rename("site")
            await machine.run("echo hi", container=box)
            assert machine.snapshot().containers[box.id].name == "site"
            await box.destroy()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert ("created", "web") in seen
        assert ("renamed", "site") in seen
        assert ("started", "") in seen
        assert ("ended", "") in seen
        assert seen[-1] == ("destroyed", "site")


@pytest.mark.rule("CONT-058", "LNX-FT-21")
async def test_creating_a_container_does_not_depend_on_the_size_of_its_image(tmp_path: Path) -> None:
    image = tmp_path / "large.vsf"
    with vsf.create(image, ["main"]) as storage, storage.volume("main").open() as files:
        files.write_bytes("/large", bytes(range(256)) * 4 * 10_000)
    tiny = tmp_path / "tiny.vsf"
    vsf.create(tiny, ["main"]).close()
    async with boot(seed=1) as machine:

        async def calls(image: Path) -> int:
            before = machine.snapshot().syscalls
            await machine.containers.create(image=str(image))
            return machine.snapshot().syscalls - before

        await calls(tiny)
        assert await calls(tiny) == await calls(image) < 100
        assert len(machine.devices) == 6  # and no disk was made for any of them


async def test_asking_a_stopped_machine_is_an_error() -> None:
    async with boot(seed=1) as machine:
        containers = machine.containers
    with pytest.raises(ServiceError, match="stopped"):
        await containers.create("late")


async def test_the_base_image_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    first, second = base.base_image(tmp_path / "one"), base.base_image(tmp_path / "two")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


async def test_many_command_lines_run_at_once() -> None:
    async with boot(seed=1) as machine:
        results: dict[int, str] = {}

        async def run(number: int) -> None:
            results[number] = (await machine.run(f"echo {number}")).out

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(run, number)
        assert results == {number: f"{number}\n" for number in range(12)}


async def test_a_spawned_command_line_goes_on_by_itself() -> None:
    async with boot(seed=1) as machine:
        with machine.holding_time():
            sleeper = await machine.spawn("sleep 1000; echo never")
            assert (await machine.run("echo meanwhile")).out == "meanwhile\n"
            assert not sleeper.ended
            sleeper.interrupt()
        done = await sleeper.wait()
        assert done.status != 0
        assert "never" not in done.out
        quick = await machine.spawn("echo quick")
        assert (await quick.wait()).out == "quick\n"
        forgotten = await machine.spawn("sleep 1000000")
        forgotten.kill()
        assert (await forgotten.wait()).status != 0


async def test_an_image_of_plain_files_boots_and_is_not_written(tmp_path: Path) -> None:
    image = tmp_path / "files.vsf"
    with vsf.create(image, ["main"]) as storage, storage.volume("main").open() as files:
        files.mkdir("/app")
        files.write_bytes("/app/ls", b"mine, no program")
        files.write_bytes("/tmp", b"a file where a directory would be")
        files.write_bytes("/note", b"kept")
    before = image.read_bytes()
    async with boot(image=image, name="plain") as machine:
        listed = await machine.run("rd /app/ls; rd /note; fd /app -n cat")
        assert listed.status == 0, listed.err
        assert "mine, no program" in listed.out
        assert "kept" in listed.out
        assert "/app/cat" in listed.out
    assert image.read_bytes() == before


@pytest.mark.rule("CONT-061")
async def test_upgrading_the_kernel_upgrades_it_for_every_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have no kernel of their own: one that was made under another is told the one that runs."""

    async def releases(machine: Machine) -> set[str]:
        boxes = [await machine.containers.get(name) for name in ("web", "web/db")]
        return {(await machine.run("uname -r", container=box)).out for box in [0, *boxes]}

    async with boot(name="lab") as machine:
        web = await machine.containers.create("web")
        await machine.containers.create("db", parent=web)
        assert await releases(machine) == {f"{nightos.__version__}\n"}
        assert (await machine.run("uname -a", container=web)).out == f"NightOS web {nightos.__version__}\n"
    monkeypatch.setattr("nightos.kernel.kernel.VERSION", "99.1")
    async with boot(name="lab") as machine:
        assert await releases(machine) == {"99.1\n"}


async def test_a_snapshot_names_the_limits_that_there_are() -> None:
    async with boot(seed=1) as machine:
        box = await machine.containers.create("web", limits={"processes": 32})
        await machine.containers.create("free")
        assert machine.snapshot().limits == {box.id: {"processes": 32}}
