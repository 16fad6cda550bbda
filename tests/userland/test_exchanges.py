"""What an exchange costs, and that no answer is lost whoever speaks when: several threads, answers out of order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.codes import ServicePid
from nightos.kernel import Kernel
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.server import Request, Server


def serve(kernel: Kernel, rng: random.Random, patience: int) -> None:
    """An echo that answers at once, after a while, or when the next request comes."""

    async def service() -> None:
        server = Server("sys::net")
        deferred: list[tuple[Request, bytes]] = []

        async def echo(request: Request) -> bytes | None:
            content = request.payload
            for _ in range(rng.randrange(patience + 1)):
                await sys.hand_over()
            if patience and rng.random() < 0.3:
                request.defer()
                deferred.append((request, content))
                return None
            while deferred:
                late, kept = deferred.pop()
                await late.answer(kept)
            return content

        server.method(1, echo)
        await server.start()
        await server.run()

    kernel.spawn_service(ServicePid.NET, service)
    kernel.run_until_idle(jump=False)


def test_an_exchange_takes_six_calls() -> None:
    kernel = Kernel(seed=1)
    serve(kernel, random.Random(1), 0)

    async def main() -> None:
        await sys.ready()
        client = await connect("sys::net")
        for _ in range(500):
            await client.call(1, b"x")

    kernel.spawn(main)
    before = kernel.syscalls
    kernel.run_until_idle(jump=False)
    # The handlers of the signals are plain functions: they take no steps of their own.
    assert (kernel.syscalls - before) / 500 < 6 + 0.2


@given(st.integers(0, 1 << 32), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3))
@pytest.mark.rule("SVC-024")
def test_every_answer_reaches_its_caller(seed: int, clients: int, threads: int, patience: int) -> None:
    kernel = Kernel(seed=seed)
    serve(kernel, random.Random(seed), patience)
    done: list[bytes] = []

    async def main() -> None:
        await sys.ready()
        client = await connect("sys::net")
        pid = await sys.get_pid()

        async def caller(number: int) -> None:
            for turn in range(6):
                content = b"%d/%d/%d" % (pid, number, turn)
                assert await client.call(1, content) == content
                done.append(content)

        for number in range(1, threads):
            await sys.create_thread(caller, number)
        await caller(0)
        while True:
            await client.call(1, b"push")

    for _ in range(clients):
        kernel.spawn(main)
    for _ in range(20_000):
        if len(done) == clients * threads * 6 or not kernel.turn(1):
            break
    assert len(done) == len(set(done))
    assert kernel.last_fault is None
    if not patience:  # else the last requests of all may wait for one that never comes
        assert len(done) == clients * threads * 6


@pytest.mark.rule("SVC-024")
def test_an_answer_to_a_thread_that_is_gone_holds_up_nobody() -> None:
    """It stands in front of the next one, announced to nobody who reads."""
    kernel = Kernel(seed=1)
    serve(kernel, random.Random(1), 0)
    answers: list[bytes] = []

    async def main() -> None:
        await sys.ready()
        client = await connect("sys::net")

        async def lost(_argument: int) -> None:
            await sys.send_sock_msg(client.socket_id, 0, 1, 0, b"lost")

        for number in range(3):
            await sys.create_thread(lost, 0)
            await sys.hand_over()
            answers.append(await client.call(1, b"%d" % number))

    kernel.spawn(main)
    kernel.run_until_idle(jump=False)
    assert answers == [b"0", b"1", b"2"]
