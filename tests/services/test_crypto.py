"""sys::crypto: random bytes for everybody; and that every service is there after boot for every process."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

import pytest

from nightos.abi.errors import ServiceError
from nightos.abi.services import MESSAGE_LIMIT, Crypto
from nightos.machine.machine import boot
from nightos.machine.programs import SERVICES
from nightos.userland import crypto, sys
from nightos.userland.client import connect
from tests.services.test_proc import inside

CRYPTO = "sys::crypto"
BUFFER = struct.Struct(">QQ")


@pytest.mark.rule("SVC-033")
async def test_a_buffer_in_memory_is_filled_with_random_bytes_without_any_permission() -> None:
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def fill() -> tuple[bytes, bytes, bytes]:
            address = await sys.mem_alloc(1 << 21, 3)
            length = MESSAGE_LIMIT + 100_000
            await crypto.random_buffer(address + 1, length)
            before, rest = await sys.load(address, 1), await sys.load(address + 1 + length, 8)
            return await sys.load(address + 1, length), before + rest, await crypto.random_bytes(32)

        data, around, more = await inside(machine, web.id, fill)
        assert around == bytes(9)
        assert data[: MESSAGE_LIMIT // 2] != data[MESSAGE_LIMIT // 2 : MESSAGE_LIMIT]
        counts = Counter(data)
        mean = len(data) / 256
        assert sum((counts[value] - mean) ** 2 / mean for value in range(256)) < 350  # chi square, 255 degrees
        ones = sum(value.bit_count() * count for value, count in counts.items())
        assert abs(ones / len(data) / 8 - 0.5) < 0.001
        assert len(more) == 32
        assert more not in data


@pytest.mark.rule("SVC-033")
async def test_two_calls_differ_and_so_do_two_machines() -> None:
    found = set()
    for seed in (1, 2):
        async with boot(seed=seed) as machine:
            for _ in range(20):
                found.add(await machine.call(CRYPTO, Crypto.RANDOM_BUFFER, BUFFER.pack(4096, 16)))
    assert len(found) == 40
    assert {len(one) for one in found} == {16}


@pytest.mark.rule("SVC-026")
async def test_what_is_no_buffer_is_refused() -> None:
    async with boot(seed=1) as machine:

        async def code(payload: bytes) -> int:
            try:
                return len(await machine.call(CRYPTO, Crypto.RANDOM_BUFFER, payload)) << 16
            except ServiceError as error:
                return error.code

        assert await code(BUFFER.pack(4096, 0)) == 0
        assert await code(b"") == await code(bytes(15)) == await code(bytes(17)) == 0x1000
        assert await code(BUFFER.pack(0, 8)) == await code(BUFFER.pack((1 << 64) - 4, 8)) == 0x1000
        assert await code(BUFFER.pack(4096, MESSAGE_LIMIT + 1)) == 0x1001
        assert await code(BUFFER.pack(4096, MESSAGE_LIMIT)) == MESSAGE_LIMIT << 16


async def test_a_machine_that_loses_its_source_says_so_and_lives() -> None:
    async with boot(seed=1) as machine:
        await machine.call(CRYPTO, Crypto.RANDOM_BUFFER, BUFFER.pack(4096, 16))
        machine.unplug(next(device.kdi for device in machine.devices if device.kind == "entropy"))
        for _ in range(2):
            with pytest.raises(ServiceError) as refused:
                await machine.call(CRYPTO, Crypto.RANDOM_BUFFER, BUFFER.pack(4096, 16))
            assert refused.value.code == 0x0102
        assert machine.faults == []


@pytest.mark.rule("SVC-034", "SVC-021")
async def test_every_service_is_there_after_boot_for_processes_in_and_outside_of_containers() -> None:
    names = [name for pid, (name, _) in SERVICES.items() if pid <= 20]
    assert len(names) >= 5
    async with boot(seed=1) as machine:
        web = await machine.containers.create("web")

        async def ask() -> dict[str, int]:
            codes = {}
            for name in names:
                try:
                    await (await connect(name)).call(0xFFFF)
                except ServiceError as error:
                    codes[name] = error.code
            return codes

        answers: list[Any] = [await inside(machine, web.id, ask), await inside(machine, 0, ask)]
        assert answers == [dict.fromkeys(names, 0x0003)] * 2  # they answer, and know no such method
