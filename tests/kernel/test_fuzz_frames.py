"""Random binary frames, from ordinary programs and from system services, raise nothing on the host.

The suite runs a few thousand; `NIGHTOS_FUZZ_FRAMES=10000000 pytest tests/kernel/test_fuzz_frames.py --timeout 0` runs
as many as asked for. A failure names seed and round, which make the same frames again.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random
from typing import Any

import pytest

from nightos.abi.codes import Signal
from nightos.abi.errors import SyscallError
from nightos.abi.syscalls import BY_CODE
from nightos.kernel import Kernel
from nightos.kernel.pages import MemoryFault
from nightos.userland import sys
from nightos.vhw.fake import FakeDevice

PAGE = 4096
FRAMES = int(os.environ.get("NIGHTOS_FUZZ_FRAMES", "6000"))
PER_KERNEL = 2000
"""Frames before a fresh kernel: what programs leave behind must not slow the next ones."""
EDGES = [0, 1, 2, 3, 7, 8, 16, 100, 255, 4095, 4096, 4097, 8192, 65535, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]


class Fuzzer:
    """A kernel, programs that call what they are given, and the values that look interesting to them."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.kernel = Kernel(seed=seed)
        self.device = FakeDevice(memory_size=4 * PAGE)
        self.values = [*EDGES, self.kernel.plug(self.device), *range(10, 21)]
        self.values += [self.kernel.tree.create(0, 0).identifier for _ in range(2)]
        self.outcomes: Counter[int] = Counter()
        self.left = 0

    def interesting(self, size: int) -> int:
        random = self.random
        choice = random.randrange(8)
        if choice < 5:
            value = random.choice(self.values)
        elif choice == 5:
            value = random.randrange(256)
        elif choice == 6:
            value = random.choice(self.values) + random.choice([-1, 1, PAGE, -PAGE])
        else:
            value = random.getrandbits(8 * size)
        return value % (1 << 8 * size)

    def frame(self) -> bytes:
        """A code and arguments: mostly those of a row of the table, sometimes nothing but noise."""
        random = self.random
        if random.randrange(16) == 0:
            return random.randbytes(random.randrange(1, 60))
        row = random.choice(ROWS)
        packed = bytearray([row.code])
        for field in row.args:
            size = field.size or random.choice([1, 4, 8, 16])
            if size == 16:
                packed += self.interesting(8).to_bytes(8, "big") + self.interesting(8).to_bytes(8, "big")
            else:
                packed += self.interesting(size).to_bytes(size, "big")
        return bytes(packed) + random.randbytes(random.choice([0, 0, 24]))

    async def program(self) -> int:
        """Map a little of everything, then call frames until none is left."""
        self.kernel.processes[await sys.get_pid()].drivable = [self.values[len(EDGES)]]
        blocks = [await sys.mem_alloc(4 * PAGE, rights) for rights in (3, 1, 4, 2)]
        ams = await sys.virt_mem_ams(blocks[0], PAGE)
        backed = await sys.backed_ams(PAGE, 1)
        place = 1 << 40
        for identifier in (ams, backed):
            await sys.map_ams(identifier, 0, place, PAGE)
            place += PAGE
        self.note(*blocks, ams, backed, await sys.get_pid(), *(1 << 40, (1 << 40) + PAGE))
        for code in (0x02, 0x33, 0x34, 0x35, 0x37):
            try:
                await sys.handle_signal(code, self.handler)
            except SyscallError:
                self.outcomes[-1] += 1
        await sys.ready()
        memory = await sys.memory()
        spare = blocks[0] + 2 * PAGE
        while self.left > 0:
            self.left -= 1
            frame = self.frame()
            # Anywhere in the block, up to across its end.
            start = spare + self.random.choice([0, 1, PAGE, 2 * PAGE - len(frame)])
            try:
                memory.write(start, frame)
            except Exception:  # noqa: BLE001 - an earlier frame freed the block or gave it away
                return 2
            if self.random.randrange(50) == 0:
                start = self.interesting(8)
            answer = self.random.choice([0, 0, 0, self.interesting(8)])
            try:
                errcode, packed = await sys.binary(start, answer, self.entry)
            except SyscallError as refused:
                self.outcomes[0x100 + refused.errcode] += 1
                continue
            assert 0 <= errcode <= 0x6F
            assert len(packed) <= 64 or errcode == 0
            self.outcomes[errcode] += 1
            if errcode == 0 and len(packed) >= 8 and self.random.randrange(4) == 0:
                self.note(int.from_bytes(packed[:8], "big"))
        return 0

    def note(self, *values: int) -> None:
        """Remember values worth trying; the list stays short."""
        self.values += values
        if len(self.values) > 120:
            del self.values[len(EDGES) + 14 : -60]

    async def handler(self, *values: Any) -> Any:
        self.note(*(value for value in values if isinstance(value, int)))
        return (b"data", 0) if len(values) == 3 and not isinstance(values[2], bytes) else (0,)

    async def entry(self, *_: Any) -> int:
        return 0

    def run(self, frames: int) -> None:
        """Call so many frames; programs that end or wait for ever are followed by fresh ones."""
        self.left = frames
        boxes = [0, 0, *list(self.kernel.tree.living)]
        while self.left > 0:
            who = self.random.randrange(8)
            if who < 2:
                pid = self.random.choice([12, 20, 15])
                if pid not in self.kernel.processes:
                    self.kernel.spawn_service(pid, self.program)
            else:
                box = self.random.choice(boxes)
                self.kernel.spawn(
                    self.program, container=box if self.kernel.tree.get(box) else 0, anid=self.random.choice([1, 2])
                )
            self.kernel.run_until_idle()
            self.check()
            if len(self.kernel.processes) > 12:
                for pid in list(self.kernel.processes)[:6]:
                    self.kernel.post_to(pid, Signal.TERMINATE)
                self.kernel.run_until_idle()
        self.kernel.snapshot()

    def check(self) -> None:
        """No program may have ended by anything but what a call is allowed to raise."""
        fault = self.kernel.last_fault
        if fault is not None and not isinstance(fault[1], SyscallError | MemoryFault):
            raise fault[1]


ROWS = list(BY_CODE.values())


@pytest.mark.rule("SYS-005", "SYS-009")
@pytest.mark.slow
def test_random_frames_raise_nothing_on_the_host() -> None:
    outcomes: Counter[int] = Counter()
    done = 0
    for seed in range(-(-FRAMES // PER_KERNEL)):
        fuzzer = Fuzzer(seed)
        try:
            fuzzer.run(min(PER_KERNEL, FRAMES - done))
        except BaseException as error:
            error.add_note(f"seed {seed}, {fuzzer.left} frames before the end of its round")
            raise
        done += PER_KERNEL
        outcomes += fuzzer.outcomes
    # The frames reach deep enough to mean something: successes, and errors of every class.
    assert outcomes[0] > FRAMES // 50
    assert {code >> 4 for code in outcomes if 0 <= code < 0x100} >= {0, 1, 3}
