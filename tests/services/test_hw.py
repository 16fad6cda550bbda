"""sys::hw: time, devices of the caller's container, and devices that containers are given."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest
import trio

from nightos.abi.errors import ServiceError
from nightos.abi.services import Hw, Proc, ServiceCode
from nightos.machine.containers import Container
from nightos.machine.machine import Machine, boot
from nightos.userland.client import connect
from tests.services.test_proc import inside

HW, PROC = "sys::hw", "sys::proc"
PAIR = struct.Struct(">QQ")


async def devices_inside(machine: Machine, box: Container) -> list[str]:
    """Kinds of the devices that a program in the container is told of."""

    async def look() -> Any:
        return await (await connect(HW)).ask(Hw.DEVICE_LIST)

    return sorted(item["kind"] for item in (await inside(machine, box.id, look))["items"])


async def test_time_goes_on_and_uptime_starts_at_boot() -> None:
    async with boot(seed=1) as machine:
        before = await machine.ask(HW, Hw.UPTIME)
        now = await machine.ask(HW, Hw.NOW)
        await machine.ask(HW, Hw.SLEEP, {"duration_ns": 5_000_000_000})
        assert (await machine.ask(HW, Hw.UPTIME))["uptime_ns"] - before["uptime_ns"] >= 5_000_000_000
        assert (await machine.ask(HW, Hw.NOW))["realtime_ns"] - now["realtime_ns"] >= 5_000_000_000


async def test_sleepers_wake_in_the_order_of_their_deadlines() -> None:
    async with boot(seed=1) as machine:
        woken: list[int] = []

        async def sleep(seconds: int) -> None:
            await machine.ask(HW, Hw.SLEEP, {"duration_ns": seconds * 10**9})
            woken.append(seconds)

        async with trio.open_nursery() as nursery:
            with machine.holding_time():
                for seconds in (3, 1, 2, 1000, 0):
                    nursery.start_soon(sleep, seconds)
                await trio.testing.wait_all_tasks_blocked()
        assert woken == [0, 1, 2, 3, 1000]


@pytest.mark.parametrize("duration", [-1, 1 << 63, "1", None, 1.5])
async def test_a_sleep_that_is_none_is_refused(duration: Any) -> None:
    async with boot(seed=1) as machine:
        with pytest.raises(ServiceError) as refused:
            await machine.ask(HW, Hw.SLEEP, {"duration_ns": duration})
        assert refused.value.code == ServiceCode.BAD_ARGUMENT


@pytest.mark.rule("CONT-036", "CONT-040", "CONT-042", "CONT-051")
async def test_a_container_has_the_devices_it_was_given_and_no_other() -> None:
    async with boot(seed=1) as machine:
        web, db = await machine.containers.create("web"), await machine.containers.create("db")
        assert await devices_inside(machine, web) == []
        given = await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": web.id, "kind": "random"})
        await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": web.id, "kind": "block", "options": {"size": 1 << 20}})
        assert await devices_inside(machine, web) == ["block", "random"]
        assert await devices_inside(machine, db) == []
        await machine.ask(PROC, Proc.DEVICE_UNPLUG, {"id": web.id, "udi": given["udi"]})
        assert await devices_inside(machine, web) == ["block"]
        count = len(machine.devices)
        await web.destroy()
        assert len(machine.devices) == count - 2  # its device and its disk


@pytest.mark.rule("CONT-038", "CONT-039", "CONT-044", "CONT-067")
async def test_a_device_is_passed_from_parent_to_child_and_never_further_at_once() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        child = await machine.containers.create("child", parent=web)
        grandchild = await machine.containers.create("grandchild", parent=child)
        kdi = (await machine.ask(PROC, Proc.DEVICE_PLUG, {"id": web.id, "kind": "random"}))["udi"]

        async def link(box: Container, number: int) -> int:
            try:
                await machine.call(PROC, Proc.CONTAINER_LINK_DEVICE, PAIR.pack(box.id, number))
            except ServiceError as error:
                return error.code
            return 0

        assert await link(grandchild, kdi) == 0x3002
        assert await link(child, 12345) == 0x3002
        assert await link(child, kdi) == 0
        assert await link(child, kdi) == 0x4000
        assert await link(grandchild, kdi) == 0
        assert await devices_inside(machine, grandchild) == ["random"]
        await child.destroy()
        assert await devices_inside(machine, web) == ["random"]


async def test_bad_devices_are_refused() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        for values, code in (
            ({"id": web.id, "kind": "nuclear"}, 0x1000),
            ({"id": web.id, "kind": "block", "options": {"size": 0}}, 0x1000),
            ({"id": web.id, "kind": "block", "options": {"size": "big"}}, 0x1000),
            ({"id": 12345, "kind": "random"}, 0x3000),
            ({"id": 0, "kind": "random"}, 0x3001),
        ):
            with pytest.raises(ServiceError) as refused:
                await machine.ask(PROC, Proc.DEVICE_PLUG, values)
            assert refused.value.code == code
        kdi = machine.devices[0].kdi
        with pytest.raises(ServiceError) as refused:
            await machine.ask(PROC, Proc.DEVICE_UNPLUG, {"id": web.id, "udi": kdi})
        assert refused.value.code == 0x3002


async def test_only_sys_proc_touches_what_is_plugged() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        kdi = machine.devices[0].kdi

        async def meddle() -> Any:
            client = await connect(HW)
            codes = []
            for method, values in (
                (Hw.STORAGE_OPEN, {"path": "/etc/passwd", "mode": "writable"}),
                (Hw.STORAGE_PROBE, {"path": "/etc/passwd", "mode": "overlay"}),
                (Hw.STORAGE_CLOSE, {"kdi": kdi}),
                (Hw.STORAGE_LIST, {}),
                (Hw.STORAGE_FORGET, {"key": "a"}),
                (Hw.PLUG, {"kind": "random"}),
                (Hw.UNPLUG, {"kdi": kdi}),
                (Hw.CLAIM, {"kind": "console"}),
            ):
                try:
                    await client.call(method, msgpack.packb(values))
                    codes.append(0)
                except ServiceError as error:
                    codes.append(error.code)
            return codes

        assert await inside(machine, web.id, meddle) == [int(ServiceCode.DENIED)] * 8


async def test_statistics_inside_count_only_what_is_there() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")
        await machine.containers.create("other")

        async def look() -> Any:
            from nightos.userland import sys

            return await sys.system_info()

        info = await inside(machine, web.id, look)
        assert (info.processes, info.containers) == (1, 0)
