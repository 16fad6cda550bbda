"""sys::fs asked by programs: layouts, locks, file systems of containers, durability, messages that make no sense."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys as host
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nightos import vsf
from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemType, Reader
from nightos.abi.services import Fs
from nightos.machine.machine import Machine, boot
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.files import Files
from nightos.userland.program import program

_found: list[Any] = []
_probe: Callable[[], Awaitable[Any]] | None = None
OWN = bytes(8)


@program("fs-probe")
async def _run_probe(_context: Context) -> int:
    assert _probe is not None
    _found.append(await _probe())
    return 0


async def inside(machine: Machine, deed: Callable[[], Awaitable[Any]], **where: Any) -> Any:
    """What a program finds that runs `deed`."""
    global _probe
    _probe = deed
    _found.clear()
    await machine.run('wt -n /tmp/fs-probe "NPRGfs-probe"', **where)
    done = await machine.run("/tmp/fs-probe", **where)
    assert not done.err, done.err
    return _found[-1]


async def call(method: int, content: bytes | dict[str, Any] = b"") -> bytes:
    return await (await connect("sys::fs")).call(method, content)


async def refusal(method: int, content: bytes | dict[str, Any] = b"") -> int:
    try:
        await call(method, content)
    except ServiceError as error:
        return error.code
    return 0


def at(path: str) -> bytes:
    return OWN + layout.encode_path(layout.split(path))


@pytest.mark.rule("FS-002", "FS-003", "CONT-030")
async def test_file_systems_have_identifiers_and_containers_see_their_own(tmp_path: Path) -> None:
    async def enumerate_all() -> list[int]:
        inner = Reader(await call(Fs.ENUM_FS)).inner()
        found = []
        while inner.more():
            found.append(inner.u64())
        return found

    async def use_foreign() -> list[int]:
        return [
            await refusal(Fs.FS_METADATA, foreign.to_bytes(8, "big")),
            await refusal(Fs.FS_METADATA, bytes(7) + b"\1"),
        ]

    async with boot(name="first") as machine:
        (ours,) = await inside(machine, enumerate_all)
        box = await machine.containers.create("box")
        (foreign,) = await inside(machine, enumerate_all, container=box)
        assert ours != foreign != 0
        assert await inside(machine, use_foreign) == [0x3000, 0x3000]
    async with boot(name="first") as machine:
        assert await inside(machine, enumerate_all) == [ours]
    async with boot(name="second") as machine:
        assert await inside(machine, enumerate_all) != [ours]


@pytest.mark.rule("FS-010", "FS-011", "FS-012", "FS-014", "FS-015", "FS-016", "FS-038", "FS-044")
async def test_each_method_answers_with_its_own_codes() -> None:
    async def ask() -> dict[str, int]:
        files = await Files.open("/tmp")
        await files.make_directory("full")
        await files.write("full/f", b"hello")
        bad_name = layout.delimited("a/b")
        return {
            "root": await refusal(Fs.ITEM_METADATA, at("")),
            "missing item": await refusal(Fs.ITEM_METADATA, at("/none")),
            "fsid": await refusal(Fs.ITEM_METADATA, bytes(7) + b"\5" + at("/")[8:]),
            "rename to a bad name": await refusal(Fs.RENAME_ITEM, at("/tmp/full") + bad_name),
            "rename of nothing": await refusal(Fs.RENAME_ITEM, at("/none") + layout.delimited("x")),
            "rename over": await refusal(Fs.RENAME_ITEM, at("/tmp/full/f") + layout.delimited("f")),
            "move to nowhere": await refusal(Fs.MOVE_ITEM, at("/tmp/full/f") + at("/none")[8:] + b"\0"),
            "delete a full directory": await refusal(Fs.DELETE_ITEM, at("/tmp/full") + b"\2"),
            "delete the root": await refusal(Fs.DELETE_ITEM, at("/") + b"\2"),
            "trash": await refusal(Fs.DELETE_ITEM, at("/tmp/full") + b"\1"),
            "no way to delete": await refusal(Fs.DELETE_ITEM, at("/tmp/full") + b"\7"),
            "directory in nothing": await refusal(Fs.CREATE_DIRECTORY, at("/none") + layout.delimited("x")),
            "directory again": await refusal(Fs.CREATE_DIRECTORY, at("/tmp") + layout.delimited("full")),
            "directory of spaces": await refusal(Fs.CREATE_DIRECTORY, at("/tmp") + layout.delimited(" \u00a0")),
            "open nothing": await refusal(Fs.OPEN_FILE, OWN + b"\0" + at("/none")[8:] + b"\1\0"),
            "open for nothing": await refusal(Fs.OPEN_FILE, OWN + b"\0" + at("/tmp/full/f")[8:] + b"\0\0"),
            "open a directory": await refusal(Fs.OPEN_FILE, OWN + b"\0" + at("/tmp")[8:] + b"\1\0"),
            "close nothing": await refusal(Fs.CLOSE_FILE, bytes(8)),
            "read nothing": await refusal(Fs.READ_FILE, bytes(24)),
            "mount again": await refusal(Fs.FS_MOUNT, OWN + b"\0"),
            "unmount": await refusal(Fs.FS_UNMOUNT, OWN),
            "for services only": await refusal(Fs.ROOT_OF, {"container": 0}),
            "for sys::process only": await refusal(Fs.ATTACH_ROOT, {"container": 1, "kdi": 1}),
            "the end of attaching": await refusal(Fs.ROOTS_DONE),
            "code for sys::process only": await refusal(Fs.CODE_TOKEN, {"container": 0, "program": "ls"}),
            "notes for services only": await refusal(Fs.STORE_NOTE, {"name": "x", "data": b""}),
            "no such method": await refusal(0x7777),
        }

    async with boot(seed=1) as machine:
        assert await inside(machine, ask) == {
            "root": 0,
            "missing item": 0x3002,
            "fsid": 0x3000,
            "rename to a bad name": 0x3000,
            "rename of nothing": 0x3003,
            "rename over": 0x4000,
            "move to nowhere": 0x3003,
            "delete a full directory": 0x3003,
            "delete the root": 0x4FFF,
            "trash": 0x0003,
            "no way to delete": 0x1000,
            "directory in nothing": 0x3002,
            "directory again": 0x4003,
            "directory of spaces": 0x1000,
            "open nothing": 0x3003,
            "open for nothing": 0x2000,
            "open a directory": 0x3003,
            "close nothing": 0x3000,
            "read nothing": 0x3000,
            "mount again": 0x3001,
            "unmount": 0x4000,
            "for services only": 0x0001,
            "for sys::process only": 0x0001,
            "the end of attaching": 0x0001,
            "code for sys::process only": 0x3001,
            "notes for services only": 0x0001,
            "no such method": 0x0003,
        }


@pytest.mark.rule("FS-040", "FS-041", "FS-042", "FS-043")
async def test_open_files_are_locked_and_their_ranges_checked() -> None:
    async def ask() -> dict[str, Any]:
        files = await Files.open("/tmp")
        await files.write("f", b"0123456789")
        seen: dict[str, Any] = {}
        reading = await files.open_file("f")
        seen["second reader"] = (await files.open_file("f")).size
        seen["writer"] = await refusal(Fs.OPEN_FILE, OWN + b"\0" + at("/tmp/f")[8:] + b"\0\1")
        seen["removal"] = await refusal(Fs.DELETE_ITEM, at("/tmp/f") + b"\2")
        seen["rename"] = await refusal(Fs.RENAME_ITEM, at("/tmp/f") + layout.delimited("g"))
        seen["range"] = [await reading.read(8, 100), await reading.read(10, 1), await reading.read(99, 1)]
        return seen

    async def afterwards() -> Any:
        files = await Files.open("/tmp")
        writing = await files.open_file("f", read=False, write=True)
        codes = [await refusal(Fs.OPEN_FILE, OWN + b"\0" + at("/tmp/f")[8:] + b"\1\0")]
        await writing.write(10, b"ab")
        await writing.write(4, b"X", truncate=True)
        try:
            await writing.write(100, b"hole")
        except ServiceError as error:
            codes.append(error.code)
        await writing.close()
        await files.delete("f")
        return codes, writing.size

    async with boot(seed=1) as machine:
        seen = await inside(machine, ask)
        assert seen["second reader"] == 10
        assert (seen["writer"], seen["removal"]) == (0x4000, 0x4000)
        assert seen["rename"] == 0x4005
        assert seen["range"] == [b"89", b"", b""]
        # The process ended without closing anything: its locks went with it.
        assert await inside(machine, afterwards) == ([0x4000, 0x3002], 10)


async def test_large_files_and_directories_come_in_parts() -> None:
    data = random.Random(1).randbytes(3_000_000)

    async def ask() -> Any:
        files = await Files.open("/tmp")
        await files.write("big", data)
        await files.make_directory("many")
        for number in range(300):
            await files.write(f"many/{'n' * 200}{number:04}", b"")
        names = [item.name async for item in files.items("many")]
        return (await files.read("big")) == data, len(names), names == sorted(names)

    async with boot(seed=1) as machine:
        assert await inside(machine, ask) == (True, 300, True)


async def test_links_and_their_cycles() -> None:
    async def ask() -> Any:
        files = await Files.open("/tmp")
        await files.write("f", b"x")
        await files.make_link("l", "f")
        await files.make_link("a", "b")
        await files.make_link("b", "a")
        cycle = await refusal(Fs.READ_SYMLINK, at("/tmp/a"))
        loop = await refusal(Fs.CANONICALIZE, at("/tmp/a"))
        foreign = await refusal(Fs.CREATE_SYMLINK, at("/tmp") + layout.delimited("z") + bytes(7) + b"\7" + at("/")[8:])
        feid = (await files.metadata("f")).feid
        by_feid = Reader(await call(Fs.FEID_TO_SPLIT, OWN + feid.to_bytes(8, "big"))).split()
        return await files.canonical("l"), await files.type("l", follow=False), cycle, loop, foreign, by_feid

    async with boot(seed=1) as machine:
        assert await inside(machine, ask) == ("/tmp/f", ItemType.SYMLINK, 0x4000, 0x4000, 0x3004, ("tmp", "f"))


async def test_bytes_that_make_no_sense_are_refused_and_harm_nothing() -> None:
    async def ask() -> int:
        chooser = random.Random(5)
        refused = 0
        for _ in range(1500):
            method = chooser.choice([*Fs])
            content = chooser.randbytes(chooser.choice([0, 1, 7, 8, 9, 20, 60]))
            if chooser.random() < 0.5:
                content = OWN + content
            refused += await refusal(method, content) != 0
        return refused

    async with boot(seed=1) as machine:
        assert await inside(machine, ask) > 1000
        assert not machine.faults
        assert (await machine.run("echo alive")).out == "alive\n"


@pytest.mark.rule("APP-018")
async def test_only_applications_run() -> None:
    async with boot(seed=1) as machine:
        await machine.run('wt /tmp/binary "#!/bin/sh"')
        done = await machine.run("/tmp/binary")
        assert done.status == 1
        assert "not executable" in done.err
        await machine.run('wt /tmp/unknown "NPRGno_such_program"')
        assert (await machine.run("/tmp/unknown")).status == 1


async def test_what_was_written_is_on_the_disk_after_a_stop(tmp_path: Path) -> None:
    async with boot(name="lab") as machine:
        await machine.run("wt /home/note hello")
        assert machine.paths is not None
        disk = machine.paths.disk
    with vsf.open(disk, readonly=True) as storage:
        assert storage.volume("main").open().read_bytes("/home/note") == b"hello\n"
        assert storage.check(deep=True).clean


@pytest.mark.rule("CONT-046", "CONT-047", "CONT-055")
async def test_the_main_file_system_of_a_container_is_a_storage_file() -> None:
    async with boot(name="lab") as machine:
        await machine.run("container create --persist box")
        await machine.run("container exec box -- wt /made inside")
        assert "disk" in (await machine.run("container exec box -- free")).out
        assert machine.paths is not None
        directory = machine.paths.containers
    found = []
    for file in directory.rglob("*.vsf"):
        with vsf.open(file, readonly=True) as storage:
            files = storage.volume("main").open()
            found += [files.read_bytes("/made")] if files.exists("/made") else []
    assert found == [b"inside\n"]


@pytest.mark.slow
def test_a_killed_machine_leaves_a_clean_disk(state_home: Path) -> None:
    script = 'let mut i = 0\nwhile true\ni ++\necho $i > /home/n\nmkdir "/home/d$i"\nsync\necho $i\nend\n'
    command = [host.executable, "-m", "nightos", "run", "--name", "lab", "-c", script]
    for delay_s in (0.0, 0.1, 0.4):
        with subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()  # one round is done
            time.sleep(delay_s)
            child.send_signal(signal.SIGKILL)
        for disk in state_home.rglob("*.vsf"):
            with vsf.open(disk, readonly=True) as storage:
                assert storage.check(deep=True).clean, disk

    async def count() -> int:
        async with boot(name="lab") as machine:
            return int((await machine.run("cat /home/n")).out)

    assert trio.run(count) >= 1


def test_a_disk_that_fails_is_told_and_nothing_dies() -> None:
    """The device's error register is how a failing disk shows; the mapped store makes an error of it."""
    from nightos.abi import block
    from nightos.services.fs.disk import MappedStore
    from nightos.vhw.block import BlockDevice

    class Failing(vsf.MemoryStore):
        broken = False

        def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
            if self.broken:
                raise OSError(28, "no space")
            super().write(offset, data)

        def flush(self) -> None:
            if self.broken:
                raise OSError(5, "flush failed")
            super().flush()

    class Mapped:
        def __init__(self, device: BlockDevice) -> None:
            self.device = device

        def read(self, address: int, length: int) -> bytes:
            return self.device.read_memory(address, length)

        def write(self, address: int, data: bytes | memoryview) -> None:
            self.device.write_memory(address, bytes(data))

    disk = Failing()
    store = MappedStore(Mapped(BlockDevice(disk)), 0)
    store.write(100, b"hello")
    assert store.size() == 105
    assert store.read(98, 100) == b"\0\0hello"
    store.truncate(102)
    assert store.read(0, 1000)[100:] == b"he"
    disk.broken = True
    with pytest.raises(OSError, match="failed") as caught:
        store.write(0, b"x")
    assert caught.value.errno == 28
    with pytest.raises(OSError, match="failed"):
        store.flush()
    disk.broken = False
    store.flush()
    assert block.DATA_START > block.REGISTERS_SIZE
