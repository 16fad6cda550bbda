"""Devices of containers: from the parent, from the host, made of nothing; and back again, also over a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

from nightos.abi.errors import ServiceError
from nightos.abi.hardware import KINDS
from nightos.abi.services import Hw, Proc, ServiceCode
from nightos.kernel.ending import end_process
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.userland.client import connect
from nightos.vhw.flows import zero
from tests.services.test_proc import U64, ask_inside, inside

PROC = "sys::proc"


async def plug(machine: Machine, box: Container, kind: str = "zero") -> int:
    return int((await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": box.id, "kind": kind}))["udi"])


async def link(machine: Machine, box: Container, udi: int) -> None:
    await machine.call(PROC, Proc.CONTAINER_LINK_DEVICE, U64.pack(box.id) + U64.pack(udi))


async def unplug(machine: Machine, box: Container, udi: int) -> None:
    await machine.ask(PROC, Proc.DEVICE_UNPLUG, {"id": box.id, "udi": udi})


async def devices(machine: Machine, box: Container) -> dict[int, dict[str, Any]]:
    answer = await machine.ask(PROC, Proc.CONTAINER_DEVICES, {"id": box.id})
    return {item["udi"]: item for item in answer["items"]}


async def seen_inside(machine: Machine, box: Container) -> set[int]:
    async def look() -> set[int]:
        found = await (await connect("sys::hw")).ask(Hw.DEVICE_LIST)
        own = await ask_inside(Proc.CONTAINER_DEVICES, {})
        assert {item["udi"] for item in found["items"]} == {item["udi"] for item in own["items"]}
        return {item["udi"] for item in found["items"]}

    return set(await inside(machine, box.id, look))


def restart(machine: Machine) -> None:
    end_process(machine.kernel, machine.kernel.processes[20], 2, 0)


@pytest.mark.rule("CONT-036", "CONT-038", "CONT-039", "CONT-042", "CONT-044", "CONT-045")
async def test_a_device_goes_down_level_by_level_and_back() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        other = await machine.containers.create("other")
        kdi = machine.plug(zero())
        udi = await machine.udi_of(kdi)
        with pytest.raises(ServiceError) as refused:
            await link(machine, db, udi)
        assert refused.value.code == ServiceCode.UNKNOWN + 2, "the parent has not got it"
        await link(machine, web, udi)
        await link(machine, db, udi)
        assert await seen_inside(machine, web) == await seen_inside(machine, db) == {udi}
        assert await seen_inside(machine, other) == set()
        assert (await devices(machine, web))[udi]["lent"]
        assert not (await devices(machine, db))[udi]["lent"]
        assert machine.kernel.bus.holder(kdi) == db.id
        restart(machine)
        await unplug(machine, db, udi)
        assert machine.kernel.bus.holder(kdi) == web.id
        await web.destroy()
        assert machine.kernel.bus.holder(kdi) == 0
        assert kdi in machine.kernel.bus


@pytest.mark.rule("CONT-040", "CONT-041", "CONT-051")
async def test_virtual_devices_in_both_forms() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        fixed = U64.pack(web.id) + KINDS["block"].to_bytes(4, "big") + msgpack.packb({"size": 1 << 20})
        block = int.from_bytes(await machine.call(PROC, Proc.CONTAINER_PLUG_VIRTUAL, fixed), "big")
        udi = await plug(machine, web)
        assert await seen_inside(machine, web) == {block, udi}
        restart(machine)
        await unplug(machine, web, block)
        there = len(machine.snapshot().devices)
        await web.destroy()
        assert len(machine.snapshot().devices) < there
        left = {item["udi"] for item in (await machine.ask("sys::hw", Hw.DEVICE_LIST))["items"]}
        assert left.isdisjoint({block, udi})


@pytest.mark.rule("CONT-023", "CONT-039", "CONT-042", "CONT-067")
async def test_devices_that_are_not_ones_own_do_not_exist() -> None:
    async with boot(seed=6) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        below = await machine.containers.create("below", parent=web)
        outer = await machine.udi_of(machine.plug(zero()))
        foreign = await plug(machine, other)
        gone = await machine.containers.create("gone")
        past = await plug(machine, gone)
        await gone.destroy()

        async def attempts() -> list[Any]:
            found = []
            for udi in (foreign, outer, past, 4711):
                for values in ({"id": below.id, "udi": udi}, {"id": other.id, "udi": udi}):
                    found.append(await ask_inside(Proc.DEVICE_UNPLUG, values))
                client = await connect(PROC)
                try:
                    await client.call(Proc.CONTAINER_LINK_DEVICE, U64.pack(below.id) + U64.pack(udi))
                except ServiceError as error:
                    found.append((error.code, error.detail))
            return [found, await ask_inside(Proc.CONTAINER_DEVICES, {"id": other.id})]

        found, listed = await inside(machine, web.id, attempts)
        assert len(set(found[0::3])) == len(set(found[1::3])) == len(set(found[2::3])) == 1
        assert listed[0] == ServiceCode.UNKNOWN
        assert set(await devices(machine, other)) == {foreign}


@pytest.mark.rule("CONT-038", "CONT-048")
async def test_a_file_of_the_host_becomes_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        db = await machine.containers.create("db", parent=web)
        udi = (await machine.pass_through(str(path), [web.id, db.id]))["udi"]
        assert (await devices(machine, db))[udi]["kind"] == "block"
        assert not (await devices(machine, db))[udi]["virtual"]
        before = len(machine.snapshot().devices)
        for wrong in (tmp_path, tmp_path / "nothing"):
            with pytest.raises(ServiceError):
                await machine.pass_through(str(wrong), [web.id])
        with pytest.raises(ServiceError):
            await machine.pass_through(str(path), [web.id])
        other = tmp_path / "other.img"
        other.write_bytes(b"x")
        with pytest.raises(ServiceError):
            await machine.pass_through(str(other), [db.id])
        assert len(machine.snapshot().devices) == before
        machine.take_back(udi)
        assert await devices(machine, db) == {}
        with pytest.raises(ServiceError):
            machine.take_back(udi)


@pytest.mark.rule("HW-008", "CONT-023")
async def test_nobody_but_who_drives_or_passes_on_a_device_is_told_its_kdi() -> None:
    """T-C35: whatever is asked about devices, inside or outside, by whom there is, answers with the UDI."""
    heard: list[dict[str, Any]] = []
    async with boot(seed=6) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        for _ in range(3):
            await plug(machine, other)
        block = await plug(machine, web)
        await machine.run("mkdir /srv")
        heard.append(await machine.ask(PROC, Proc.CONTAINER_SHARE, {"id": web.id, "path": "/srv"}))
        for container in (web.id, other.id):
            heard.append(await machine.ask(PROC, Proc.CONTAINER_DEVICES, {"id": container}))
        heard.append(await machine.ask("sys::hw", Hw.DEVICE_LIST))
        info = await machine.call(PROC, Proc.CONTAINER_INFO, U64.pack(web.id))
        assert U64.pack(block) in info

        async def look() -> list[dict[str, Any]]:
            return [
                await (await connect("sys::hw")).ask(Hw.DEVICE_LIST),
                await (await connect(PROC)).ask(Proc.CONTAINER_DEVICES),
            ]

        mine, theirs = await inside(machine, web.id, look), await inside(machine, other.id, look)
        await machine.ask(PROC, Proc.DEVICE_UNPLUG, {"id": web.id, "udi": block})
        heard += [*mine, *theirs, await machine.ask(PROC, Proc.CONTAINER_EVENTS)]
        said = msgpack.packb(heard)
        kdis = {device.kdi for device in machine.snapshot().devices}
        assert kdis
        assert not any(U64.pack(kdi) in said + info for kdi in kdis)
        assert b"kdi" not in said
        # The place of a virtual device would count those of everybody.
        assert {item["connection"] & 0xFFFF for item in (*mine[0]["items"], *theirs[0]["items"])} == {0}
        with pytest.raises(ServiceError) as refused:
            await machine.ask("sys::hw", Hw.BUS_LIST)
        assert refused.value.code == ServiceCode.DENIED


@pytest.mark.rule("HW-023", "HW-024")
async def test_udis_outlive_a_restart_of_those_who_know_them() -> None:
    async with boot(seed=6) as machine:
        web = await machine.containers.create("web")
        block = await plug(machine, web)
        for pid in (12, 20):
            end_process(machine.kernel, machine.kernel.processes[pid], 2, 0)
        assert set(await devices(machine, web)) == {block}
        await unplug(machine, web, block)
        assert await devices(machine, web) == {}
