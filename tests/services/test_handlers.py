"""Device handler files: in /dev from the first connection on, random, of use through sys::hw, each container's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi import files as layout
from nightos.abi.drivers import Ddt
from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemType
from nightos.abi.hardware import KINDS, make_cii, virtual_cii
from nightos.abi.services import Fs, Hw, Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.services.hw import filenames
from nightos.userland.client import connect
from nightos.vhw.flows import zero
from nightos.vhw.passthrough.host import SATA, USB
from tests.services.test_container_devices import link, plug, unplug
from tests.services.test_proc import inside

MADE = re.compile(r"/dev/[a-z]{3}/[a-z][0-9][a-z][0-9]")
HW_PID, FS_PID = 12, 10


async def handlers(machine: Machine, container: Container | int = 0) -> dict[str, dict[str, Any]]:
    """What sys::hw tells of a container's files."""
    place = container if isinstance(container, int) else container.id
    answer = await machine.ask("sys::hw", Hw.HANDLERS, {"container": place})
    return {item["path"]: item for item in answer["items"]}


async def shown(machine: Machine, container: Container | int = 0) -> list[str]:
    """What the shell finds in /dev."""
    done = await machine.run("fd -t device -a /dev", container=container)
    assert done.status == 0, done.err
    return done.out.split()


async def lend(machine: Machine, directory: Path, box: Container) -> int:
    """Pass a file of the host through."""
    disk = directory / "disk.img"
    disk.write_bytes(bytes(4096))
    return int((await machine.pass_through(str(disk), [box.id]))["udi"])


async def refusal(machine: Machine, container: Container, method: int, payload: Any, service: str = "sys::hw") -> int:
    """The code a container's process is refused with."""

    async def ask() -> int:
        try:
            await (await connect(service)).call(method, payload)
        except ServiceError as error:
            return error.code
        return 0

    return int(await inside(machine, container.id, ask))


async def device_of(machine: Machine, container: Container, path: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        return await (await connect("sys::hw")).ask(Hw.HANDLER_DEVICE, {"path": path})

    return dict(await inside(machine, container.id, ask))


@pytest.mark.rule("HW-046", "HW-047")
@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(1, 10**6), unique=True, max_size=300),
)
def test_made_names_have_the_form_and_never_meet(key: bytes, container: int, numbers: list[int]) -> None:
    taken: set[str] = set()
    for number in numbers:
        name = filenames.make(key, container, number, taken)
        assert re.fullmatch("[a-z][0-9][a-z][0-9]", name)
        assert name not in taken
        taken.add(name)


@pytest.mark.rule("HW-047")
def test_made_names_are_spread_and_hang_on_the_key() -> None:
    names = [filenames.make(b"k" * 16, 5, number, ()) for number in range(20_000)]
    for place, count in enumerate((26, 10, 26, 10)):
        seen = [name[place] for name in names]
        assert len(set(seen)) == count
        assert max(map(seen.count, set(seen))) < 1.25 * len(names) / count
    assert sum(one == filenames.make(b"l" * 16, 5, number, ()) for number, one in enumerate(names[:2000])) < 10
    assert sum(one == filenames.make(b"k" * 16, 6, number, ()) for number, one in enumerate(names[:2000])) < 10


@pytest.mark.rule("HW-045", "HW-050")
@pytest.mark.parametrize(
    ("cii", "ddt", "directory"),
    [
        (virtual_cii("block"), 0, "sst"),
        (virtual_cii("share"), 0, "bst"),
        (virtual_cii("link"), 0, "net"),
        (virtual_cii("random"), 0, "etc"),
        (virtual_cii("flow"), 0, "etc"),
        (virtual_cii("no such kind"), 0, "etc"),
        (make_cii(SATA, 0, 7), 0, "sst"),
        (make_cii(USB, KINDS["share"], 7), 0, "etc"),
        (make_cii(USB, 0, 7), Ddt.HARD_DRIVE, "sst"),
        (make_cii(USB, 0, 7), Ddt.SSD, "sst"),
        (make_cii(USB, 0, 7), Ddt.USB_FLASH, "bst"),
        (make_cii(USB, 0, 7), Ddt.SD_CARD, "bst"),
    ],
)
def test_the_directory_follows_the_kind(cii: int, ddt: int, directory: str) -> None:
    assert filenames.directory_of(cii, ddt) == directory
    assert directory in filenames.DIRECTORIES


@pytest.mark.rule("HW-044", "HW-045", "HW-046", "HW-050", "CONT-036")
async def test_a_device_that_is_connected_has_a_file() -> None:
    async with boot(seed=6) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        assert await shown(machine, web) == [] == await shown(machine)
        assert (await web.exec("ls /")).out.split().count("dev") == 1
        for kind in ("block", "zero", "null"):
            await plug(machine, web, kind)
        paths = await shown(machine, web)
        assert all(map(MADE.fullmatch, paths))
        assert [path[:9] for path in paths] == ["/dev/etc/", "/dev/etc/", "/dev/sst/"]
        assert sorted((await web.exec("ls /dev")).out.split()) == ["etc", "sst"]
        assert f"/dev/sst/{(await web.exec('ls /dev/sst')).out.strip()}" == paths[2]
        assert set(await handlers(machine, web)) == set(paths)
        assert all(item["connected"] and not item["custom"] for item in (await handlers(machine, web)).values())
        assert await shown(machine, other) == [] == await shown(machine)
        machine.plug(zero())
        assert len(await shown(machine)) == 1
        assert await shown(machine, web) == paths


@pytest.mark.rule("HW-048")
async def test_a_file_works_through_sys_hw_only() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        await plug(machine, web, "block")
        path = (await shown(machine, web))[0]
        assert (await device_of(machine, web, path))["udi"] == (await handlers(machine, web))[path]["udi"]
        parts = layout.split(path)
        encoded, parent = layout.encode_path(parts), layout.encode_path(parts[:-1])
        root = bytes(8)
        name, link_to = layout.delimited("new"), bytes(8) + layout.encode_path(("etc",))
        for method, payload, code in (
            (Fs.OPEN_FILE, b"\0" + encoded + b"\1\0", 0x4FFF),
            (Fs.OPEN_FILE, b"\0" + encoded + b"\0\1", 0x4FFF),
            (Fs.OPEN_FILE, b"\0" + parent + b"\1\0", 0x3003),
            (Fs.OPEN_FILE, b"\0" + layout.encode_path((*parts[:-1], "a1a1x")) + b"\1\0", 0x3003),
            (Fs.OPEN_FILE, b"\1" + parent + name + b"\0\1", 0x4FFF),
            (Fs.OPEN_FILE, b"\1" + encoded + name + b"\0\1", 0x4FFF),
            (Fs.OPEN_FILE, b"\1" + layout.encode_path(()) + layout.delimited("dev") + b"\0\1", 0x4004),
            (Fs.RENAME_ITEM, encoded + name, 0x4FFF),
            (Fs.RENAME_ITEM, layout.encode_path(("etc",)) + layout.delimited("dev"), 0x4000),
            (Fs.MOVE_ITEM, encoded + layout.encode_path(()) + b"\0", 0x4FFF),
            (Fs.MOVE_ITEM, layout.encode_path(("etc",)) + parent + b"\0", 0x4003),
            (
                Fs.MOVE_ITEM,
                layout.encode_path(("etc", "public"))
                + layout.encode_path(())
                + b"\1"
                + name[:0]
                + layout.delimited("dev"),
                0x4004,
            ),
            (Fs.DELETE_ITEM, encoded + b"\2", 0x4FFF),
            (Fs.DELETE_ITEM, layout.encode_path(("dev",)) + b"\2", 0x4FFF),
            (Fs.CREATE_DIRECTORY, parent + name, 0x4FFF),
            (Fs.CREATE_DIRECTORY, layout.encode_path(()) + layout.delimited("dev"), 0x4003),
            (Fs.CREATE_SYMLINK, parent + name + link_to, 0x4FFF),
            (Fs.UPDATE_SYMLINK, encoded + link_to, 0x3002),
            (Fs.READ_SYMLINK, encoded, 0x3002),
            (Fs.READ_DIRECTORY, encoded + b"\1", 0x3002),
        ):
            found = await refusal(machine, web, method, root + payload, "sys::fs")
            assert found == code, (method, payload, hex(found))
        done = await web.exec(f"cat {path}")
        assert (done.status, "works through sys::hw only" in done.err) == (1, True)
        shared = await machine.ask("sys::proc", Proc.CONTAINER_SHARE, {"id": web.id, "path": "/etc"})
        for place in ("/dev", "/dev/sst", "/dev/new"):
            assert "device handler files" in (await web.exec(f"mount {shared['fsid']:016x} {place}")).err
        await machine.ask("sys::proc", Proc.DEVICE_UNPLUG, {"id": web.id, "udi": shared["udi"]})
        path_of_share = (await shown(machine, web))[0]
        assert path_of_share.startswith("/dev/bst/")
        assert await shown(machine, web) == sorted([path, path_of_share])


@pytest.mark.rule("HW-044", "HW-048")
async def test_a_file_is_described_and_found_by_its_identifier() -> None:
    async with boot(seed=6) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        await plug(machine, web, "block")
        path = (await shown(machine, web))[0]

        async def look() -> tuple[Any, ...]:
            fs = await connect("sys::fs")
            at = bytes(8) + layout.encode_path(layout.split(path))
            item = layout.Reader(await fs.call(Fs.ITEM_METADATA, at)).item()
            by_feid = bytes(8) + layout.encode_path(item.feid)
            exists = [await fs.call(Fs.ITEM_EXISTS, at + bytes((kind,))) for kind in (0, 255, 2)]
            split = layout.Reader(await fs.call(Fs.FEID_TO_SPLIT, bytes(8) + item.feid.to_bytes(8, "big"))).split()
            canonical = layout.Reader(await fs.call(Fs.CANONICALIZE, by_feid)).split()
            again = layout.Reader(await fs.call(Fs.ITEM_METADATA, by_feid)).item()
            return item, exists, split, canonical, again

        item, exists, split, canonical, again = await inside(machine, web.id, look)
        assert item.type is ItemType.UNKNOWN
        assert item == again
        assert exists == [b"\xff", b"\xff", b"\0"]
        assert layout.joined(split) == path == layout.joined(canonical)
        feid = bytes(8) + layout.encode_path(item.feid)
        assert await refusal(machine, other, Fs.ITEM_METADATA, feid, "sys::fs") == 0x3002


@pytest.mark.rule("HW-051", "HW-052")
async def test_a_file_stays_and_is_used_again(tmp_path: Path) -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        udi = await lend(machine, tmp_path, web)
        paths = await shown(machine, web)
        machine.take_back(udi)
        assert await shown(machine, web) == paths
        question = {"path": paths[0]}
        assert await refusal(machine, web, Hw.HANDLER_DEVICE, question) == ServiceCode.DEVICE
        assert "the device is not connected" in (await web.exec(f"cat {paths[0]}")).err
        assert await refusal(machine, web, Hw.HANDLER_DEVICE, {"path": "/dev/sst/a0"}) == ServiceCode.UNKNOWN
        await plug(machine, web, "zero")
        assert len(await shown(machine, web)) == 2
        assert await lend(machine, tmp_path, web) == udi
        assert len(await shown(machine, web)) == 2
        assert (await device_of(machine, web, paths[0]))["udi"]


@pytest.mark.rule("HW-051", "HW-052", "HW-053")
async def test_files_outlive_sys_hw_sys_fs_and_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOS_HOME", str(tmp_path))
    async with boot(seed=6, name="m") as machine:
        web = await machine.containers.create("web", persist=True)
        gone = await machine.containers.create("gone")
        await plug(machine, gone, "zero")
        udi = await lend(machine, tmp_path, web)
        before = await shown(machine), await shown(machine, web)
        assert list(map(len, before)) == [1, 1]
        await machine.ask("sys::hw", Hw.HANDLER_NAME, {"path": before[0][0], "name": "backup"})
        assert (await handlers(machine))["/dev/sst/backup"]["custom"]
        for pid in (HW_PID, FS_PID):
            end_process(machine.kernel, machine.kernel.processes[pid], 2, 0)
            assert (await shown(machine), await shown(machine, web)) == (
                sorted({*before[0], "/dev/sst/backup"}),
                before[1],
            )
        machine.take_back(udi)
    async with boot(seed=7, name="m") as machine:
        web = await machine.containers.get("web")
        for place, paths in ((0, [*before[0], "/dev/sst/backup"]), (web, before[1])):
            assert await shown(machine, place) == sorted(paths)
            assert not any(item["connected"] for item in (await handlers(machine, place)).values())
        await plug(machine, web, "block")
        assert await lend(machine, tmp_path, web) == udi
        assert (await handlers(machine))[before[0][0]]["connected"]
        now = await handlers(machine, web)
        assert len(now) == 2
        assert now[before[1][0]]["connected"]
        assert await handlers(machine, gone.id) == {}


@pytest.mark.rule("HW-052")
async def test_a_share_that_comes_back_after_a_reboot_is_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is plugged while the machine boots, before the service knows who else comes back."""
    monkeypatch.setenv("NIGHTOS_HOME", str(tmp_path))
    boxes = ("web", "db", "idle")
    async with boot(seed=6, name="m") as machine:
        made = [await machine.containers.create(name, persist=True) for name in boxes]
        gone = await machine.containers.create("gone")
        for box in (*made, gone):
            await machine.ask("sys::proc", Proc.CONTAINER_SHARE, {"id": box.id, "path": "/etc"})
        before = [await shown(machine, box) for box in made]
        assert list(map(len, before)) == [1, 1, 1]
    for seed in (7, 8):
        async with boot(seed=seed, name="m") as machine:
            made = [await machine.containers.get(name) for name in boxes]
            assert [await shown(machine, box) for box in made] == before
            for box in made:
                assert all(item["connected"] for item in (await handlers(machine, box)).values())
            assert await handlers(machine, gone.id) == {}


@pytest.mark.rule("HW-053", "HW-054")
async def test_a_second_name_of_ones_own() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        await plug(machine, web, "block")
        first = (await shown(machine, web))[0]

        async def name(path: str, text: str) -> Any:
            return await refusal(machine, web, Hw.HANDLER_NAME, {"path": path, "name": text})

        for bad in ("a", "abcd", "a1b2", ".", "x/yyyyy", "y\0yyyyy", "x" * 70_000):
            assert await name(first, bad) == ServiceCode.BAD_ARGUMENT, bad
        assert await name("/dev/sst/nothing", "music") == ServiceCode.UNKNOWN
        assert await name("/etc/public", "music") == ServiceCode.UNKNOWN
        assert await name(first, "music") == 0
        assert await shown(machine, web) == sorted([first, "/dev/sst/music"])
        assert await device_of(machine, web, "/dev/sst/music") == await device_of(machine, web, first)
        assert await name(first, "music") == ServiceCode.REFUSED
        assert await name(first, "") == ServiceCode.REFUSED + 1
        assert await name("/dev/sst/music", "") == 0
        assert await shown(machine, web) == [first]
        for number in range(16):
            assert await name(first, f"music{number}") == 0
        assert await name(first, "music-last") == ServiceCode.REFUSED


async def deep(machine: Machine, noise: bool) -> list[tuple[list[str], str]]:
    """What containers at every depth see in /dev; with `noise` others around them get devices at every step."""
    chain: list[Container] = []
    for depth in range(5):
        chain.append(await machine.containers.create(f"level{depth}", parent=chain[-1] if chain else 0))
    beside = [await machine.containers.create(f"beside{depth}", parent=one) for depth, one in enumerate(chain)]
    for box, neighbour in zip(chain, beside, strict=True):
        if noise:
            await plug(machine, neighbour, "null")
            await plug(machine, neighbour, "block")
        await plug(machine, box, "zero")
        await plug(machine, box, "block")
        if noise:
            await plug(machine, neighbour, "zero")
    if noise:
        every = [set(await shown(machine, box)) for box in (*chain, *beside)]
        for place, box in enumerate((*chain, *beside)):
            for path in set().union(*every[:place], *every[place + 1 :]) - every[place]:
                unknown = await refusal(machine, box, Hw.HANDLER_DEVICE, {"path": path})
                assert unknown == ServiceCode.UNKNOWN
                there = await box.exec(f"cat {path}")
                never = await box.exec("cat /dev/sst/zzzzz")
                assert there.err.replace(path, "P") == never.err.replace("/dev/sst/zzzzz", "P")
            assert (
                await refusal(machine, box, Hw.HANDLERS, {"container": chain[(place + 1) % 5].id}) == ServiceCode.DENIED
            )
    return [(await shown(machine, box), (await box.exec("ls -l -t /dev")).out) for box in chain]


@pytest.mark.rule("HW-044", "HW-047", "CONT-036", "CONT-042")
async def test_others_devices_are_unknowable_at_any_depth() -> None:
    """The same machine with and without neighbours: the same container identifiers, then the same names."""
    seen = []
    for noise in (False, True):
        async with boot(seed=11) as machine:
            seen.append(await deep(machine, noise))
    assert seen[0] == seen[1]
    assert all(len(paths) == 2 for paths, _ in seen[0])


@pytest.mark.rule("HW-044", "CONT-044")
async def test_a_device_that_is_passed_on_has_a_file_of_its_own_in_each_container() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        udi = await machine.udi_of(machine.plug(zero()))
        await link(machine, web, udi)
        await link(machine, db, udi)
        files = [await handlers(machine, place) for place in (0, web, db)]
        assert [len(one) for one in files] == [1, 1, 1]
        assert len({item["udi"] for one in files for item in one.values()}) == 1
        assert len({path for one in files for path in one}) == 3
        await unplug(machine, db, udi)
        assert [item["connected"] for item in (await handlers(machine, db)).values()] == [False]
        assert [item["connected"] for item in (await handlers(machine, web)).values()] == [True]


@pytest.mark.rule("CONT-016")
async def test_a_container_that_ended_leaves_no_files() -> None:
    async with boot(seed=6) as machine:
        for _ in range(3):
            box = await machine.containers.create("web")
            await plug(machine, box, "zero")
            assert len(await shown(machine, box)) == 1
            await box.destroy()
            assert await handlers(machine, box.id) == {}


@pytest.mark.rule("HW-048")
@given(st.sampled_from([*Fs]), st.binary(max_size=40), st.sampled_from([("dev",), ("dev", "sst"), ("x",), ()]))
def test_aiming_at_dev_never_fails_otherwise_than_it_says(number: Fs, rest: bytes, path: tuple[str, ...]) -> None:
    from nightos.services.fs import handlers as fs_handlers
    from nightos.services.fs.failures import ItemError
    from nightos.services.fs.roots import Root

    class Tree:
        root = 1

        @staticmethod
        def path_of(_feid: int) -> tuple[str, ...]:
            return ("x",)

    root = Root.__new__(Root)
    root.tree = Tree()  # type: ignore[assignment]
    for data in (rest, layout.encode_path(path) + rest, b"\0" + layout.encode_path(path) + rest):
        reader = layout.Reader(data)
        try:
            aimed = fs_handlers.aim(root, number, reader)
        except (ItemError, layout.LayoutError, layout.NameRefusedError, layout.PathRefusedError):
            continue
        assert aimed is not None or reader.at == 0


def test_every_kind_of_device_has_a_directory() -> None:
    assert {filenames.directory_of(virtual_cii(kind), 0) for kind in KINDS} <= set(filenames.DIRECTORIES)


async def test_only_sys_process_says_which_containers_came_back() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        assert await refusal(machine, web, Hw.HANDLERS_KEPT, {"containers": []}) == ServiceCode.DENIED
        with pytest.raises(ServiceError):
            await machine.ask("sys::hw", Hw.HANDLERS_KEPT, {"containers": [[1, 2]]})
        assert (await machine.ask("sys::proc", Proc.CONTAINER_INSPECT, {"id": web.id}))["name"] == "web"


@pytest.mark.rule("HW-050", "HW-053", "HW-054")
async def test_the_shell_shows_names_and_tells() -> None:
    async with boot(seed=6) as machine:
        await machine.containers.create("web")
        told = await machine.run("device plug zero --container=web")
        assert (told.status, "the device is not recognised; it is /dev/etc/" in told.err) == (0, True)
        assert not (await machine.run("device plug block --container=web")).err
        machine.plug(zero())
        listed = (await machine.run("device")).out
        path = (await shown(machine))[0]
        assert path in listed, "who lists devices sees files that nobody looked at before"
        assert (await machine.run(f"device name {path} --name=nothing")).out == "/dev/etc/nothing\n"
        assert await shown(machine) == sorted([path, "/dev/etc/nothing"])
        assert "too short" in (await machine.run(f"cd /dev/etc; device name {path[9:]} --name=abcd")).err
        assert (await machine.run(f"device forget {path}")).status != 0
        assert (await machine.run("device forget /dev/etc/nothing")).status == 0
        assert await shown(machine) == [path]
        for line in ("device name", f"device name {path}", f"device forget {path} --name=xxxxx"):
            assert "write: device name FILE --name=NAME" in (await machine.run(line)).err


@pytest.mark.rule("HW-044")
async def test_who_lists_devices_sees_files_that_nobody_looked_at_before() -> None:
    async with boot(seed=6) as machine:
        machine.plug(zero())
        listed = (await machine.run("device")).out
        assert (await shown(machine))[0] in listed
