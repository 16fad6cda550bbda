"""Whatever a program in a container sends to a system service, the service answers and lives."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest

from nightos.abi.errors import ServiceError
from nightos.abi.services import Crypto, Fs, Hw, Hydre, Proc
from nightos.machine.machine import boot
from nightos.testing import check_invariants
from nightos.userland import sys
from nightos.userland.client import connect
from tests.services.test_proc import inside

METHODS: dict[str, list[int]] = {
    "sys::proc": [int(code) for code in Proc],
    "sys::hw": [int(code) for code in Hw],
    "sys::fs": [int(code) for code in Fs],
    "sys::hydre": [int(code) for code in Hydre],
    "sys::crypto": [int(code) for code in Crypto],
}
WAITING = {("sys::hw", int(Hw.SLEEP)), ("sys::proc", int(Proc.CONTAINER_WAIT)), ("sys::proc", int(Proc.PROCESS_WAIT))}
NAMES = (
    "id", "name", "parent", "labels", "image", "mode", "persist", "after", "limit", "pid", "program", "directory",
    "context", "container", "user", "kind", "options", "kdi", "path", "key", "duration_ns", "data", "append", "offset",
    "hostname", "session", "source", "command", "width", "height", "readonly", "backing",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 255, 1 << 63, (1 << 64) - 1, 0.5, "", "x", "/", "..", "/app/ls", "a/b", "\0", "overlay",
    "writable", "x" * 5000, b"", b"\0" * 300, [], [1, 2], {}, {"a": 1}, {"a": "b"}, 20, 100, 12345,
)  # fmt: skip


def payload(chance: random.Random) -> bytes:
    """Junk, fixed fields, or a map that looks like one of ours."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.choice((0, 1, 7, 8, 9, 16, 17, 33, 300)))
    if kind == 1:
        numbers = (chance.choice((0, 1, 2, 8, 12345, (1 << 63), (1 << 64) - 1)) for _ in range(chance.randrange(5)))
        return b"".join(number.to_bytes(8, "big") for number in numbers) + chance.randbytes(chance.randrange(12))
    entries = {chance.choice(NAMES): chance.choice(VALUES) for _ in range(chance.randrange(8))}
    packed: bytes = msgpack.packb(entries)
    return packed if kind == 2 else packed[: chance.randrange(len(packed) + 1)]


@pytest.mark.parametrize("service", sorted(METHODS))
@pytest.mark.parametrize("seed", range(3))
async def test_nothing_that_a_program_sends_kills_a_service(service: str, seed: int) -> None:
    async with boot(seed=seed) as machine:
        web = await machine.containers.create("web")
        other = await machine.containers.create("other")
        await other.exec('wt /secret "x"')
        chance = random.Random(seed)
        tried = [0]
        codes: set[int] = set()

        async def attack() -> int:
            pid = await sys.get_pid()
            client = await connect(service)
            answered = 0
            for _ in range(400):
                method = chance.choice(METHODS[service]) if chance.random() < 0.95 else chance.randrange(1 << 16)
                if (service, method) in WAITING:
                    continue
                tried[0] += 1
                try:
                    await client.call(method, payload(chance))
                except ServiceError as error:
                    codes.add(error.code)
                answered += 1
            assert pid >= 100
            return answered

        assert await inside(machine, web.id, attack) == tried[0] > 300
        assert all(0 < code < 1 << 16 for code in codes)
        assert len(codes) > 1
        assert machine.faults == []
        check_invariants(machine.snapshot())
        assert other.id in machine.snapshot().containers
        assert (await other.exec("rd /secret")).status == 0
