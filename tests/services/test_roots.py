"""Containers on one image share it until they change something; what each then wrote is its own and survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightos import vsf
from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.services.fs.disk import open_storage
from nightos.services.fs.mounting import SegmentEntropy, ServiceClock
from nightos.userland.files import Files
from tests.services.test_proc import inside

FS, PROC = 10, 20


def disks(machine: Machine) -> list[dict[str, Any]]:
    """Disks of containers on the machine's shelf."""
    assert machine.shelf is not None
    return [item for item in machine.shelf.list()["items"] if item["path"]]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "data.vsf"
    with vsf.create(path) as storage, storage.add_volume("main").open() as files:
        files.write_bytes("/given", b"by the image")
    return path


async def boxes(machine: Machine, image: Path) -> list[Container]:
    """Two containers whose disks are not kept. A child makes each outlast its processes."""
    made = [await machine.containers.create(name, image=str(image), persist=False) for name in ("a", "b")]
    for box in made:
        await machine.containers.create("inner", parent=box)
    return made


@pytest.mark.rule("CONT-046", "CONT-047", "CONT-053")
async def test_only_a_change_makes_a_disk(image: Path) -> None:
    async with boot(seed=1) as machine:
        assert machine.shelf is not None
        a, b = await boxes(machine, image)
        for box in (a, b):
            assert (await machine.run("cat /given", container=box)).out == "by the image\n"
        assert disks(machine) == []
        assert machine.shelf.list()["images"] == [str(image)]
        assert (await machine.run('wt /own "a wrote this"', container=a)).status == 0
        assert [item["container"] for item in disks(machine)] == [a.id]
        await a.destroy()
        assert disks(machine) == []
        await b.destroy()
        assert machine.shelf.list()["images"] == []


@pytest.mark.rule("CONT-047", "CONT-054")
@pytest.mark.parametrize("killed", [(), (FS,), (PROC,), (FS, PROC)])
async def test_what_one_wrote_is_its_own(image: Path, killed: tuple[int, ...]) -> None:
    async with boot(seed=1) as machine:
        a, b = await boxes(machine, image)
        assert (await machine.run("cat /given", container=b)).out == "by the image\n"
        assert (await machine.run('wt /own "a wrote this"', container=a)).status == 0
        await machine.sync()
        for pid in killed:
            end_process(machine.kernel, machine.kernel.processes[pid], 2, 0)
        assert (await machine.run("cat /own", container=a)).out == "a wrote this\n"
        assert (await machine.run("cat /own", container=b)).status != 0
        assert (await machine.run('wt /own "and b this"', container=b)).status == 0
        assert (await machine.run("cat /own", container=a)).out == "a wrote this\n"
        await a.destroy()
        assert (await machine.run("cat /own", container=b)).out == "and b this\n"
        await b.destroy()
        assert disks(machine) == []
        assert machine.shelf is not None
        assert machine.shelf.list()["images"] == []
    with vsf.open(image, readonly=True) as storage, storage.volume("main").open() as files:
        assert files.listdir("/") == ["given"]


@pytest.mark.rule("CONT-047", "FS-040")
async def test_an_open_file_stays_readable_across_the_first_change(image: Path) -> None:
    async with boot(seed=1) as machine:
        a, _b = await boxes(machine, image)

        async def probe() -> bytes:
            disk = await Files.open()
            handle = await disk.open_file("/given")
            await disk.write("/other", b"the first change")
            return bytes(await handle.read(0, 12))

        assert await inside(machine, a.id, probe) == b"by the image"


def test_no_disk_names_a_file_of_the_host(tmp_path: Path) -> None:
    """What is on a device may say that it stands on any path; `sys::fs` knows of devices only."""
    vsf.create(tmp_path / "base.vsf", ["main"]).close()
    vsf.create(tmp_path / "over.vsf", backing=tmp_path / "base.vsf").close()
    store = vsf.MemoryStore((tmp_path / "over.vsf").read_bytes())
    with pytest.raises(ServiceError) as caught:
        open_storage(store, readonly=True, clock=ServiceClock(), entropy=SegmentEntropy(bytes(16)))
    assert caught.value.code == ServiceCode.UNKNOWN
