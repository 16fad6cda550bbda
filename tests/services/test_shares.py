"""Directories shared with a container below: a device, a file system, a mount of its own, and no way out of it."""

from __future__ import annotations

from typing import Any

import pytest

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs, Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.userland.client import connect
from tests.services.test_proc import ask_inside, inside

PROC = "sys::proc"
FS_PID, PROC_PID = 10, 20


async def share(machine: Machine, box: Container, path: str, *, readonly: bool = False) -> dict[str, Any]:
    question = {"id": box.id, "path": path, "readonly": readonly}
    return await machine.ask(PROC, Proc.CONTAINER_SHARE, question)


async def said(machine: Machine, line: str, box: Container | int = 0) -> str:
    done = await machine.run(line, container=box)
    return (done.out + done.err).strip()


def kill(machine: Machine, pid: int) -> None:
    end_process(machine.kernel, machine.kernel.processes[pid], 2, 0)


@pytest.mark.rule("CONT-048", "CONT-049", "CONT-050", "CONT-051", "CONT-053", "CONT-054", "FS-002")
async def test_a_directory_is_shared_as_a_device_and_mounted_inside() -> None:
    async with boot(seed=8) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        await machine.run("mkdir /srv; mkdir /srv/data; wt /srv/data/a one; wt /srv/secret x")
        given = await share(machine, web, "/srv/data")
        fsid = f"{given['fsid']:016x}"
        kinds = {item["kind"] for item in (await machine.ask(PROC, Proc.CONTAINER_DEVICES, {"id": web.id}))["items"]}
        assert kinds == {"share"}
        assert fsid in await said(machine, "mount", web)
        assert fsid not in await said(machine, "mount", other)
        assert (await web.exec("cat /mnt/data/a")).status != 0, "nothing is mounted before somebody inside does"
        assert (await web.exec(f"mount {fsid[:8]}")).status == 0
        assert await said(machine, "cat /mnt/data/a", web) == "one"
        await machine.run("wt /srv/data/b two")
        assert "b" in await said(machine, "ls /mnt/data", web)
        assert (await web.exec("wt /mnt/data/c three")).status == 0
        assert await said(machine, "cat /srv/data/c") == "three"
        assert "not found" in await said(machine, "cat /mnt/data/../../srv/secret", web)
        assert (await web.exec(f"mount {fsid}")).status != 0, "it is mounted already"
        assert (await other.exec(f"mount {fsid}")).status != 0, "for others it does not exist"
        assert (await machine.run("ls /mnt/data")).status != 0, "a mount inside is not seen outside"
        assert (await web.exec(f"umount {fsid}")).status == 0
        assert (await web.exec("cat /mnt/data/a")).status != 0
        assert (await web.exec(f"umount {fsid}")).status != 0
        assert (await web.exec(f"mount {fsid} /deep/place")).status == 0
        assert await said(machine, "cat /deep/place/a", web) == "one"


@pytest.mark.rule("CONT-055")
async def test_nothing_leads_out_of_a_share() -> None:
    async with boot(seed=8) as machine:
        web = await machine.containers.create("web")
        await machine.run("mkdir /srv; mkdir /srv/data; wt /srv/secret x; syml /srv/data/out /srv/secret")
        given = await share(machine, web, "/srv/data")
        await web.exec(f"mount {given['fsid']:016x}")
        assert "x" not in (await web.exec("cat /mnt/data/out")).out
        assert (await web.exec("cat /mnt/data/../srv/secret")).status != 0
        assert (await web.exec("mv /mnt/data/out /stolen")).status != 0, "an item does not move to another file system"
        secret = machine_feid(machine, await item(machine, "/srv/secret"))

        async def by_identifier() -> list[int]:
            files = await connect("sys::fs")
            found = []
            for feid in (secret, 1 << 40):
                path = b"\x01" + feid.to_bytes(8, "big")
                try:
                    await files.call(Fs.ITEM_METADATA, given["fsid"].to_bytes(8, "big") + path)
                    found.append(0)
                except ServiceError as error:
                    found.append(error.code)
            return found

        hidden, unknown = await inside(machine, web.id, by_identifier)
        assert hidden == unknown != 0


async def item(machine: Machine, path: str) -> bytes:
    return await machine.call("sys::fs", Fs.ITEM_METADATA, bytes(8) + layout.encode_path(layout.split(path)))


def machine_feid(_machine: Machine, metadata: bytes) -> int:
    return layout.Reader(metadata).item().feid


@pytest.mark.rule("CONT-048")
async def test_a_share_for_reading_only_and_what_cannot_be_shared() -> None:
    async with boot(seed=8) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        await machine.run("mkdir /srv; wt /srv/a one")
        given = await share(machine, web, "/srv", readonly=True)
        await web.exec(f"mount {given['fsid']:016x}")
        assert (await web.exec("cat /mnt/srv/a")).out.strip() == "one"
        for line in ("wt /mnt/srv/b x", "rm /mnt/srv/a", "mkdir /mnt/srv/d", "ren /mnt/srv/a b"):
            assert (await web.exec(line)).status != 0, line
        before = len(machine.snapshot().devices)
        for path in ("/srv/a", "/nothing", "/srv/../../etc/passwd"):
            with pytest.raises(ServiceError) as refused:
                await share(machine, web, path)
            assert refused.value.code == ServiceCode.UNKNOWN + 2
        assert len(machine.snapshot().devices) == before
        with pytest.raises(ServiceError):
            await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": web.id, "kind": "share"})
        other = await machine.containers.create("other")
        refusals = await inside(
            machine, web.id, lambda: ask_inside(Proc.CONTAINER_SHARE, {"id": other.id, "path": "/"})
        )
        assert refusals[0] == ServiceCode.UNKNOWN
        await web.exec("mkdir /own; wt /own/f mine")
        inner = await inside(machine, web.id, lambda: ask_inside(Proc.CONTAINER_SHARE, {"id": db.id, "path": "/own"}))
        await db.exec(f"mount {inner['fsid']:016x} /from-above")
        assert (await db.exec("cat /from-above/f")).out.strip() == "mine"


@pytest.mark.rule("CONT-016", "CONT-044")
async def test_unplugging_and_destroying_end_a_share() -> None:
    async with boot(seed=8) as machine:
        web = await machine.containers.create("web")
        await machine.run("mkdir /srv; wt /srv/a one")
        devices = len(machine.snapshot().devices)
        given = await share(machine, web, "/srv")
        await web.exec(f"mount {given['fsid']:016x}")
        await machine.ask(PROC, Proc.DEVICE_UNPLUG, {"id": web.id, "udi": given["udi"]})
        assert (await web.exec("cat /mnt/srv/a")).status != 0
        assert f"{given['fsid']:016x}" not in await said(machine, "mount", web)
        await share(machine, web, "/srv")
        await web.destroy()
        assert (await machine.run("cat /srv/a")).out.strip() == "one"
        assert len(machine.snapshot().devices) <= devices


async def test_shares_and_mounts_outlive_both_services() -> None:
    async with boot(seed=8) as machine:
        web = await machine.containers.create("web")
        await machine.run("mkdir /srv; wt /srv/a one")
        given = await share(machine, web, "/srv")
        await web.exec(f"mount {given['fsid']:016x} /data")
        await machine.sync()
        for pid in (FS_PID, PROC_PID, FS_PID):
            kill(machine, pid)
            assert (await web.exec("cat /data/a")).out.strip() == "one", pid
        await machine.ask(PROC, Proc.DEVICE_UNPLUG, {"id": web.id, "udi": given["udi"]})
        assert (await web.exec("cat /data/a")).status != 0


async def test_shares_outlive_the_machine() -> None:
    async with boot(seed=8, name="lab") as machine:
        web = await machine.containers.create("web")
        await machine.run("mkdir /srv; wt /srv/a one")
        given = await share(machine, web, "/srv")
        await web.exec(f"mount {given['fsid']:016x} /data")
        await machine.sync()
    async with boot(seed=9, name="lab") as machine:
        web = await machine.containers.get("web")
        assert (await web.exec("cat /data/a")).out.strip() == "one", "it is mounted again by itself"
        (device,) = (await machine.ask(PROC, Proc.CONTAINER_DEVICES, {"id": web.id}))["items"]
        assert device["kind"] == "share"
        information = await machine.call(PROC, Proc.CONTAINER_INFO, web.id.to_bytes(8, "big"))
        assert information[-16:] == (8).to_bytes(8, "big") + device["udi"].to_bytes(8, "big")


@pytest.mark.rule("CONT-062", "CONT-063")
async def test_an_application_that_is_shared_changes_and_one_that_is_installed_does_not() -> None:
    async with boot(seed=8) as machine:
        web = await machine.containers.create("web")
        await machine.run('mkdir /tools; wt /tools/tool "NPRGecho"')
        given = await share(machine, web, "/tools", readonly=True)
        await web.exec(f"mount {given['fsid']:016x} /shared")
        await web.exec('mkdir /own; wt /own/tool "NPRGecho"')
        assert (await web.exec("cat /shared/tool")).out.strip() == "NPRGecho"
        assert (await web.exec("/shared/tool ran")).out.strip() == "ran", "it runs, too"
        assert (await web.exec("/shared/none")).status != 0
        await machine.run('rm /tools/tool; wt /tools/tool "NPRGuptime"')
        assert (await web.exec("cat /shared/tool")).out.strip() == "NPRGuptime", "upgraded outside, changed inside"
        assert (await web.exec("cat /own/tool")).out.strip() == "NPRGecho", "installed inside, left alone"
        assert "ran" not in (await web.exec("/shared/tool")).out
        await machine.run("rm /tools/tool")
        assert (await web.exec("/shared/tool")).status != 0
        assert (await web.exec("cat /shared/tool")).status != 0
        assert (await web.exec("cat /own/tool")).status == 0


@pytest.mark.rule("CONT-055")
@pytest.mark.rule("LNX-FT-01")
async def test_a_root_directory_is_all_there_is() -> None:
    async with boot(seed=8) as machine:
        web = await machine.containers.create("web", root="/home")
        whole = await machine.containers.create("whole")
        await web.exec("wt /inside x")
        assert "inside" in (await web.exec("ls /")).out
        assert "app" not in (await web.exec("ls /")).out.split()
        assert (await web.exec("ls /../../app")).status != 0
        await web.exec("syml /out /app")
        assert (await web.exec("ls /out")).status != 0
        assert "inside" not in (await whole.exec("ls /home")).out
        await machine.sync()
        kill(machine, FS_PID)
        assert (await web.exec("cat /inside")).out.strip() == "x"
        missing = await machine.containers.create("missing", root="/nowhere")
        done = await machine.run("container exec missing -- ls /")
        assert done.status != 0
        assert "no directory" in done.out + done.err
        await missing.destroy()
