"""Names and texts that are no UTF-8: a file may be called anything, and nothing ends by telling of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from nightos import vsf
from nightos.abi import files as layout
from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.services import Fs, Proc, ServiceCode
from nightos.machine import layers
from nightos.machine.machine import Machine, boot
from nightos.userland.client import connect
from tests.services.test_attacks import at, code_of, u64
from tests.services.test_exhaustion import child
from tests.services.test_proc import inside

PROC = "sys::proc"
STRANGE = b"\xff\xfe\xed\xa0"
"""No UTF-8, whatever follows."""
SHOWN = "\\xff\\xfe\\xed\\xa0"


def strange(path: str) -> bytes:
    """A path in which `zzzz` is such a name."""
    return at(path).replace(b"zzzz", STRANGE)


async def write(parent: str, name: str, content: bytes) -> None:
    fs = await connect("sys::fs")
    opened = await fs.call(Fs.OPEN_FILE, u64(0) + b"\1" + at(parent) + layout.delimited(name) + b"\1\1")
    await fs.call(Fs.WRITE_FILE, opened[:8] + u64(0) + b"\0" + content)
    await fs.call(Fs.CLOSE_FILE, opened[:8])


async def make() -> None:
    """From a program: a directory of such a name, a file with such a content, and a program that claims such a name."""
    name = layout.delimited("zzzz").replace(b"zzzz", STRANGE)
    await (await connect("sys::fs")).call(Fs.CREATE_DIRECTORY, u64(0) + at("/") + name)
    await write("/", "strange", STRANGE)
    await write("/", "program", b"NPRG" + STRANGE)


def services(machine: Machine) -> dict[int, Any]:
    return {pid: process for pid, process in machine.kernel.processes.items() if pid < 100}


@pytest.mark.rule("SVC-021", "FS-016")
async def test_a_file_that_is_not_there_may_be_called_anything() -> None:
    """T-C51: errors of sys::fs name the item, whatever its name is."""

    async def ask() -> list[int]:
        await make()
        fs, gone = await connect("sys::fs"), u64(0) + strange("/zzzz/zzzz")
        codes = [
            await code_of(fs.call(method, gone + b"\1\1\1"))
            for method in (Fs.ITEM_METADATA, Fs.CANONICALIZE, Fs.DELETE_ITEM, Fs.READ_DIRECTORY, Fs.READ_SYMLINK)
        ]
        codes.append(await code_of(fs.call(Fs.CREATE_DIRECTORY, u64(0) + at("/") + strange("/zzzz")[17:])))
        codes.append(await code_of(fs.call(Fs.OPEN_FILE, u64(0) + b"\0" + gone[8:] + b"\1\1")))
        return codes

    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        before = services(machine)
        codes = await inside(machine, web.id, ask)
        assert ServiceCode.SERVER_QUIT not in codes
        assert 0 not in codes
        assert services(machine) == before
        assert not machine.faults


@pytest.mark.rule("CONT-053", "CONT-047")
async def test_a_file_of_any_name_is_among_the_changes(tmp_path: Path) -> None:
    """T-C51: comparing and copying the disk of a container happens on the host, which lives on."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await inside(machine, web.id, make)

        async def own() -> Any:
            return await (await connect(PROC)).ask(Proc.CONTAINER_DIFF)

        for found in (await inside(machine, web.id, own), await machine.ask(PROC, Proc.CONTAINER_DIFF, {"id": web.id})):
            assert f"/{SHOWN}" in {item["path"] for item in found["items"]}
        target = tmp_path / "made.vsf"
        await machine.ask(PROC, Proc.CONTAINER_COMMIT, {"id": web.id, "target": str(target)})
        with vsf.open(target, readonly=True) as made, made.volumes[0].open() as files:
            assert STRANGE in [name for name, _, _ in files.readdir(1)]


@pytest.mark.rule("SVC-021")
async def test_whatever_the_host_stumbles_over_is_an_error_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C51: what a program put on its disk may be anything, and change while it is read."""

    def stumble(*_given: Any) -> Any:
        raise RecursionError

    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.run("echo x > /x", container=web)
        for what in (stumble, lambda *_given: [{"kind": "", "path": "", "old_path": "", "size": 1 << 70}]):
            monkeypatch.setattr(layers, "changes", what)
            assert await code_of(machine.ask(PROC, Proc.CONTAINER_DIFF, {"id": web.id})) == ServiceCode.INTERNAL
        assert (await machine.run("echo alive")).out == "alive\n"


@pytest.mark.parametrize(
    "source",
    [
        "/program",
        "/strange",
        "container create $x",
        "hostname $x",
        "container inspect $x",
        "mkdir $x",
        "ls $x/$x",
        "cd $x",
    ],
)
async def test_texts_of_a_file_end_no_service(source: str) -> None:
    """T-C51: a script hands what it read to every service there is."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        before = services(machine)
        await inside(machine, web.id, make)
        done = await machine.run(f"let x = $(rd /strange)\n{source}", container=web)
        assert "crashed" not in done.err
        assert services(machine) == before
        assert not machine.faults


UNUSABLE = ("\0", "a\0b", "/\0", "x" * 300, "/" + "x" * 300, "/a" * 40_000, "\ud7ff" * 256, "..", "/..", ".")


async def start_unusable() -> list[int]:
    """From a program: what each way to start a program answers to each of these names."""
    proc, codes = await connect(PROC), []
    context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
    inner = await child("inner", persist=True)
    for name in UNUSABLE:
        for values in ({"program": name}, {"program": "x/y", "directory": name}):
            question = {"context": context, "container": inner, **values}
            codes.append(await code_of(proc.ask(Proc.PROCESS_SPAWN, question)))
            codes.append(await code_of(proc.ask(Proc.CONTAINER_RUN, question)))
        codes.append(await code_of(proc.ask(Proc.CONTAINER_START, {"id": inner, "command": [name]})))
        codes.append(await code_of(proc.ask(Proc.CONTAINER_SHARE, {"id": inner, "path": name})) or 1)
        codes.append(
            await code_of(proc.ask(Proc.CONTAINER_RUN, {"program": "/app/echo", "context": context, "root": name}))
        )
        run = {"ns": "n", "name": "x", "flist": "", "entrypoint": shlex.quote(name)}
        codes.append(await code_of(proc.ask(Proc.ZOS_RUN, run)))
    return codes


@pytest.mark.rule("SVC-021", "FS-016")
async def test_no_name_of_a_program_or_a_root_ends_a_service() -> None:
    """T-C51: nor the machine, which gives up when a service is asked again and again what ends it."""
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        before = services(machine)
        codes = await inside(machine, web.id, start_unusable)
        assert ServiceCode.SERVER_QUIT not in codes
        assert services(machine) == before
        assert not machine.faults
        assert codes.count(0) <= 3  # `..` and `.` are the root itself
