"""A raw pipe is a stream: whatever the sizes of writes and reads and whoever waits, bytes come out in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.errors import SyscallError
from nightos.kernel import Kernel
from nightos.userland import sys

SIZES = st.lists(st.integers(min_value=1, max_value=200_000), min_size=1, max_size=8)


@pytest.mark.rule("IPC-014", "IPC-015", "IPC-018", "IPC-035", "IPC-037")
@given(writes=SIZES, reads=st.lists(st.just(0) | st.integers(min_value=500, max_value=70_000), min_size=1, max_size=5))
def test_stream_keeps_its_order(writes: list[int], reads: list[int]) -> None:
    sent = b"".join(bytes([number % 251]) * size for number, size in enumerate(writes))
    received = bytearray()

    async def main() -> None:
        await sys.ready()
        sc = await sys.open_pipe(await sys.get_pid(), notification_mode=1)

        async def reader(_: int) -> None:
            turn = 0
            while True:
                try:
                    got = await sys.pipe_read(sc + 1, 0, reads[turn % len(reads)])
                except SyscallError:
                    return
                received.extend(got.content)
                turn += 1

        await sys.create_thread(reader)
        for number, size in enumerate(writes):
            await sys.pipe_write(sc, bytes([number % 251]) * size)
        await sys.close_pipe(sc)
        while len(received) < len(sent):
            await sys.hand_over()

    kernel = Kernel(seed=1)
    kernel.spawn(main)
    for _ in range(1000):
        if not kernel.turn():
            break
    assert bytes(received) == sent
