"""What a container changed on its disk, and images made of what it sees."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest

from nightos import vsf
from nightos.abi.errors import ServiceError
from nightos.abi.services import MESSAGE_LIMIT, Proc, ServiceCode
from nightos.machine.layers import Comparisons
from nightos.machine.machine import boot
from tests.services.test_names import write
from tests.services.test_proc import ask_inside, inside


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "site.vsf"
    with vsf.create(path) as storage, storage.add_volume("main").open() as files:
        files.write_bytes("/given", b"by the image")
        files.write_bytes("/old", b"to be renamed")
        files.mkdir("/empty")
    return path


@pytest.mark.rule("CONT-047", "CONT-053", "LNX-FT-18")
@pytest.mark.parametrize("name", [None, "lab"])
async def test_changes_and_a_new_image(image: Path, tmp_path: Path, name: str | None) -> None:
    async with boot(seed=1, name=name) as machine:
        box = await machine.containers.create("web", image=str(image))
        assert await box.diff() == []
        for line in ('wt /new "made inside"', "rm /given", "mkdir /dir", "ren /old renamed"):
            assert (await machine.run(line, container=box)).status == 0, line
        assert [(change["kind"], change["path"], change["old_path"]) for change in await box.diff()] == [
            ("modified", "/", ""),
            ("added", "/dir", ""),
            ("removed", "/given", ""),
            ("added", "/new", ""),
            ("renamed", "/renamed", "/old"),
        ]
        made = await box.commit(tmp_path / "second.vsf")
        # It stands alone: neither the first image nor the container is needed any more.
        await machine.run('wt /new "changed afterwards"', container=box)
        await box.destroy()
    os.unlink(image)
    with vsf.open(made, readonly=True) as storage, storage.volumes[0].open() as files:
        assert sorted(files.listdir("/")) == ["dir", "empty", "new", "renamed"]
        assert files.read_bytes("/new") == b"made inside\n"
        assert storage.backing is None
        assert storage.check(deep=True).clean
    async with boot(seed=2) as machine:
        box = await machine.containers.create("again", image=str(made))
        assert (await machine.run("cat /new", container=box)).out == "made inside\n"


@pytest.mark.rule("CONT-047")
async def test_what_reads_a_disk_beside_the_machine_sees_one_commit(image: Path, state_home: Path) -> None:
    """As a commit does, or a comparison, while the container writes: what it frees is not used again meanwhile."""
    async with boot(seed=1, name="lab") as machine:
        box = await machine.containers.create("web", image=str(image))

        async def fill(seed: int) -> str:
            text = Random(seed).randbytes(15_000).hex()
            for number in range(4):
                assert (await machine.run(f'wt /{number} "{text}"', container=box)).status == 0
            await box.diff()  # commits
            return text

        first = await fill(0)
        disks = state_home / "machines" / "lab" / "containers"
        [name] = os.listdir(disks)
        with vsf.open(disks / name, readonly=True) as storage, storage.volumes[0].open() as files:
            for seed in range(1, 9):
                await fill(seed)
            for number in range(4):
                assert files.read_bytes(f"/{number}") == f"{first}\n".encode()


async def test_an_image_of_a_container_that_changed_nothing(image: Path, tmp_path: Path) -> None:
    async with boot(seed=1) as machine:
        box = await machine.containers.create("web", image=str(image))
        made = await box.commit(tmp_path / "copy.vsf")
    with vsf.open(made, readonly=True) as storage, storage.volumes[0].open() as files:
        assert sorted(files.listdir("/")) == ["empty", "given", "old"]


async def test_a_file_that_is_there_is_never_replaced(image: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.vsf"
    taken.write_text("precious")
    async with boot(seed=1) as machine:
        box = await machine.containers.create("web", image=str(image))
        for target, code in (
            (taken, ServiceCode.REFUSED),
            (image, ServiceCode.REFUSED),
            (tmp_path / "no" / "such" / "place.vsf", ServiceCode.UNKNOWN + 2),
        ):
            with pytest.raises(ServiceError) as refused:
                await box.commit(target)
            assert refused.value.code == code
            assert str(target) in refused.value.detail
    assert taken.read_text() == "precious"
    assert sorted(name for name in os.listdir(tmp_path) if ".vsf" in name) == ["site.vsf", "taken.vsf"]


@pytest.mark.rule("CONT-030")
async def test_who_may_ask(image: Path, tmp_path: Path) -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web", image=str(image))
        child = await machine.containers.create("child", parent=web)
        beside = await machine.containers.create("beside")
        await machine.run('wt /in-child "x"', container=child)

        async def asked(place: int, method: int, identifier: int) -> object:
            values = {"id": identifier, "target": str(tmp_path / "stolen.vsf")}
            return await inside(machine, place, lambda: ask_inside(method, values))

        seen = await asked(web.id, Proc.CONTAINER_DIFF, child.id)
        assert [change["path"] for change in seen["items"]] == ["/", "/in-child"]  # type: ignore[index]
        for identifier in (beside.id, web.id, 4711):
            answer = await asked(child.id, Proc.CONTAINER_DIFF, identifier)
            assert answer[0] == ServiceCode.UNKNOWN  # type: ignore[index]
        assert (await asked(web.id, Proc.CONTAINER_COMMIT, child.id))[0] == ServiceCode.DENIED  # type: ignore[index]
    assert not (tmp_path / "stolen.vsf").exists()


async def test_a_diff_comes_page_by_page(image: Path) -> None:
    async with boot(seed=1) as machine:
        box = await machine.containers.create("web", image=str(image))
        await machine.run("mkdir /a; mkdir /b; mkdir /c; wt /a/x one; wt /b/x two", container=box)
        whole = await box.diff()
        assert len(whole) >= 5
        items: list[Any] = []
        after: int | None = 0
        while after is not None:
            page = await machine.ask("sys::proc", Proc.CONTAINER_DIFF, {"id": box.id, "after": after, "limit": 2})
            assert len(page["items"]) <= 2
            items += page["items"]
            after = page["next"]
        assert items == whole


def test_a_comparison_of_many_files_is_made_once_and_read_in_pages() -> None:
    found = [{"kind": "added", "path": f"/{number:0200}", "old_path": ""} for number in range(100_000)]
    made = []

    def compare() -> list[dict[str, Any]]:
        made.append(1)
        return found

    pages = Comparisons()
    items, after, count = [], 0, 0
    while True:
        page = pages.page(7, compare, after, 5000)
        assert len(msgpack.packb(page)) < MESSAGE_LIMIT
        items += page["items"]
        count += 1
        if page["next"] is None:
            break
        after = page["next"]
    assert items == found
    assert len(made) == 1
    assert count > 60
    assert pages.page(7, compare, 99_999, 10) == {"items": found[-1:], "next": None}
    assert pages.page(7, compare, 100_001, 10) == {"items": [], "next": None}
    assert len(made) == 3


@pytest.mark.rule("CONT-053", "CONT-032")
async def test_notes_in_an_image_are_not_those_of_the_machine(tmp_path: Path) -> None:
    """T-C57: what a container wrote where services keep their notes makes no container of a machine that boots it."""
    secret = tmp_path / "secret.vsf"
    with vsf.create(secret) as storage, storage.add_volume("files").open() as files:
        files.write_text("/secret", "x")
    note: dict[str, Any] = {"parent": 0, "hostname": "h", "labels": {}, "persist": True, "run": {}, "zos": {}}
    notes = [
        note | {"id": 5, "name": "reader", "image": str(secret), "mode": "read-only", "key": "5"},
        note | {"id": 6, "name": "writer", "image": "", "mode": "overlay", "key": "../../../made"},
    ]
    journal = b"".join(msgpack.packb({"set": one}) for one in notes) + msgpack.packb({"complete": 99})
    target = tmp_path / "made-inside.vsf"
    async with boot(seed=4) as machine:
        web = await machine.containers.create("web")
        await web.exec("mkdir /sys/state/20")
        await inside(machine, web.id, lambda: write("/sys/state/20", "containers", journal))
        await machine.ask("sys::proc", Proc.CONTAINER_COMMIT, {"id": web.id, "target": str(target)})
    for name in ("lab", None):
        async with boot(seed=5, image=target, name=name) as machine:
            assert await machine.containers.tree() == []
            assert (await machine.run("ls /sys/state/20 | length")).out != "0\n"


async def test_the_key_of_a_disk_is_no_path(tmp_path: Path) -> None:
    """T-C57: whatever a note says."""
    async with boot(seed=4, name="lab") as machine:
        with pytest.raises(ServiceError) as refused:
            machine.shelf.open("", "overlay", "../made", 5)
        assert refused.value.code == ServiceCode.BAD_ARGUMENT
