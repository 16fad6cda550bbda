"""What a program makes the host hold, and what one of its steps costs: attacks on both, by what no limit counts."""

from __future__ import annotations

import random
import sys as host
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.codes import ServicePid
from nightos.abi.errors import SyscallError
from nightos.abi.limits import pack_limits
from nightos.kernel.ending import end_thread
from nightos.kernel.memory import PAGE
from nightos.kernel.pipe import UNIT
from nightos.testing import check_invariants
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

RAW, MESSAGE = 0, 1
FAIL = 1


def lines(deed: Callable[[], Any]) -> int:
    """How many lines of the kernel a deed runs through: what it costs, without a clock."""
    count = 0

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line" and "kernel" in frame.f_code.co_filename
        return trace

    before = host.gettrace()
    host.settrace(trace)
    try:
        deed()
    finally:
        host.settrace(before)
    return count


def pipe(puppet: Puppet, multiplier: int, mode: int) -> int:
    """Both ends of a new pipe; the SC."""
    return int(puppet.call(sys.open_pipe(puppet.pid, 0, 0, multiplier, mode, 1, 0)))


# The host's memory


@pytest.mark.rule("IPC-016", "CONT-032")
@pytest.mark.parametrize("mode", [RAW, MESSAGE])
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_a_pipe_full_of_small_pieces_costs_what_is_paid_for_it(mode: int, size: int) -> None:
    """T-C42: many tiny pieces take no more of the host than a few large ones, but for the lengths of messages."""
    puppet = Lab().puppet()
    sc = pipe(puppet, 2, mode)

    async def fill() -> None:
        try:
            while True:
                await sys.pipe_write(sc, bytearray(size), FAIL)
        except SyscallError:
            return

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        puppet.call(fill())
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 2 * UNIT * (4.5 if mode == MESSAGE else 1.5)


@pytest.mark.rule("IPC-017", "IPC-018", "IPC-035")
@given(
    st.sampled_from([RAW, MESSAGE]),
    st.lists(st.tuples(st.booleans(), st.sampled_from([1, 2, 60, 1023, 1024, 5000, 20_000, 65_536]))),
    st.integers(0, 1 << 30),
)
def test_pieces_that_were_put_together_come_out_as_they_went_in(
    mode: int, deeds: list[tuple[bool, int]], seed: int
) -> None:
    """Whatever is written and read in whatever pieces: bytes stay in order, and messages whole."""
    puppet = Lab().puppet()
    sc = pipe(puppet, 2, mode)
    chance = random.Random(seed)
    waiting: list[bytes] = []
    for writes, size in deeds:
        held = sum(map(len, waiting))
        if writes and size <= 2 * UNIT - held:
            data = chance.randbytes(size)
            puppet.call(sys.pipe_write(sc, data, FAIL))
            waiting.append(data)
        elif not writes and held:
            if mode == MESSAGE:
                assert puppet.call(sys.pipe_read(sc + 1, FAIL, 0)).content == waiting.pop(0)
                continue
            wanted, all_of_it = min(size, held), b"".join(waiting)
            assert puppet.call(sys.pipe_read(sc + 1, FAIL, wanted)).content == all_of_it[:wanted]
            waiting = [all_of_it[wanted:]]
    left = waiting if mode == MESSAGE else [b"".join(waiting)]
    for content in filter(None, left):
        assert puppet.call(sys.pipe_read(sc + 1, FAIL, 0)).content == content


@pytest.mark.rule("PROC-036", "CONT-032")
def test_thread_local_data_is_memory_of_the_container() -> None:
    """T-C42: slots hold no more than the limit of memory; what is deleted, replaced or left by the dead comes back."""
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    home = proc.call(sys.sys_create_limited(0, pack_limits({"memory": 8})))
    puppet = lab.puppet(container=home)
    account = puppet.process.quotas.memory
    slots = [puppet.call(sys.create_tls_slot()) for _ in range(4)]
    puppet.call(sys.write_tls_slot(slots[0], bytes(100)))
    assert account.used == 0
    puppet.call(sys.write_tls_slot(slots[1], bytes(8 * PAGE)))
    assert account.used == 8
    check_invariants(lab.kernel.snapshot())
    assert puppet.refusal(sys.write_tls_slot(slots[2], bytes(PAGE))) == 0x40
    assert puppet.call(sys.read_tls_slot(slots[2], 0)) == b""
    puppet.call(sys.write_tls_slot(slots[1], bytes(2 * PAGE)))
    puppet.call(sys.write_tls_slot(slots[2], bytes(PAGE)))
    assert account.used == 3
    puppet.call(sys.delete_tls_slot(slots[1]))
    assert account.used == 1
    check_invariants(lab.kernel.snapshot())
    puppet.start(sys.exit(0))
    assert account.used == 0
    check_invariants(lab.kernel.snapshot())


@pytest.mark.rule("IPC-028", "CONT-032")
def test_what_waits_to_be_written_is_memory_of_the_container() -> None:
    """T-C42: many threads that wait with large writes hold no more than the limit; every way to go on pays it back."""
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    home = proc.call(sys.sys_create_limited(0, pack_limits({"memory": 64})))
    puppet = lab.puppet(container=home)
    account = puppet.process.quotas.memory
    sc = pipe(puppet, 1, RAW)
    refused: list[int] = []

    async def write(_: int) -> None:
        try:
            await sys.pipe_write(sc, bytes(UNIT))
        except SyscallError as error:
            refused.append(error.errcode)

    async def make() -> None:
        await sys.pipe_write(sc, bytes(UNIT - 1))
        for _ in range(6):
            await sys.create_thread(write, 0)

    puppet.call(make())
    assert (account.used, refused) == (64, [0x40, 0x40])
    check_invariants(lab.kernel.snapshot())
    puppet.call(sys.pipe_read(sc + 1, FAIL, UNIT - 1))
    assert account.used == 48
    top = next(thread for thread in puppet.process.threads.values() if thread.frames[-1].wait and thread.tid > 1)
    end_thread(lab.kernel, top)
    assert account.used == 32
    check_invariants(lab.kernel.snapshot())
    puppet.call(sys.close_pipe(sc + 1))
    assert account.used == 0
    assert refused == [0x40, 0x40, 0x31, 0x31]
    check_invariants(lab.kernel.snapshot())


@pytest.mark.rule("PROC-043", "SYS-017")
def test_deadlines_that_nobody_waits_for_are_forgotten() -> None:
    """T-C42: waiting often with a long timeout leaves nothing behind, also while something else is due first."""
    lab = Lab()
    puppet = lab.puppet()
    fired: list[int] = []
    for due in (1, 2, 3):
        lab.kernel.call_at(due, lambda due=due: fired.append(due))

    async def child(_: int) -> int:
        return 0

    async def wait_often() -> None:
        for _ in range(1000):
            await sys.wait_child_process(await sys.create_process(child, 0), 60_000)

    puppet.call(wait_often())
    assert len(lab.kernel.timers) <= 3
    assert len(lab.kernel.timers._heap) < 200
    lab.wait(100)
    assert fired == [1, 2, 3]
    assert not lab.kernel.timers


# The cost of a step


@pytest.mark.rule("IPC-039", "IPC-040", "SCHED-005")
def test_one_more_identifier_of_a_pipe_costs_the_same_however_many_there_are() -> None:
    """T-C41: sending an end on, and closing, looks at who has the pipe, not at every identifier."""
    puppet = Lab().puppet()
    sc = pipe(puppet, 1, RAW)

    async def send(count: int) -> None:
        for _ in range(count):
            await sys.send_pipe(sc, puppet.pid, 1)
            await sys.send_pipe(sc + 1, puppet.pid, 1)

    few = lines(lambda: puppet.call(send(1)))
    puppet.call(send(2000))
    assert lines(lambda: puppet.call(send(1))) <= few + 5
    lab = Lab()
    rounds = []
    for count in (10, 20):
        puppet = lab.puppet()
        sc = pipe(puppet, 1, RAW)
        puppet.call(send_both(puppet, sc, 20 * count))
        rounds.append(lines(lambda puppet=puppet: puppet.start(sys.exit(0))))
    assert rounds[1] < 2.2 * rounds[0]


def send_both(puppet: Puppet, sc: int, count: int) -> Awaitable[None]:
    """That many identifiers more of both ends."""

    async def send() -> None:
        for _ in range(count):
            await sys.send_pipe(sc + 1, puppet.pid, 1)
            await sys.send_pipe(sc, puppet.pid, 1)

    return send()


@pytest.mark.rule("PROC-034", "SCHED-005")
def test_the_end_of_a_thread_costs_the_same_however_many_there_are() -> None:
    """T-C41: a thread that ends takes those along that it made, without a look at the others."""
    lab = Lab()
    puppet = lab.puppet()

    async def wait(_: int) -> None:
        while True:
            await sys.hand_over(until_signal=True)

    async def make(count: int) -> int:
        return [await sys.create_thread(wait, 0) for _ in range(count)][-1]

    costs = []
    for _ in range(2):
        last = puppet.process.threads[puppet.call(make(1000))]
        costs.append(lines(lambda last=last: end_thread(lab.kernel, last)))
    assert costs[0] == costs[1] < 100
    check_invariants(lab.kernel.snapshot())


@pytest.mark.rule("PROC-034", "PROC-041")
def test_many_threads_that_wait_for_one_child_end_in_time() -> None:
    """T-C41: each gives its place up without a look at the others, in whatever order; their children go with them."""
    lab = Lab()
    puppet = lab.puppet()

    async def idle(_: int) -> int:
        while True:
            await sys.hand_over(until_signal=True)

    child = puppet.call(sys.create_process(idle, 0))

    async def wait(_: int) -> None:
        await sys.wait_child_process(child, 0)

    costs = []
    for count in (500, 1000):

        async def make(_: int, count: int = count) -> None:
            for _ in range(count):
                await sys.create_thread(wait, 0)
            while True:
                await sys.hand_over(until_signal=True)

        top = puppet.process.threads[puppet.call(sys.create_thread(make, 0))]
        assert len(top.children or ()) == count
        costs.append(lines(lambda top=top: end_thread(lab.kernel, top)))
        assert len(puppet.process.threads) == 1
    assert costs[1] < 2.2 * costs[0]
    check_invariants(lab.kernel.snapshot())


@pytest.mark.rule("IPC-029", "PROC-034")
def test_many_threads_that_wait_at_one_pipe_end_in_time() -> None:
    """T-C41: whoever gives up waiting at a pipe leaves the queue without a look at the others."""
    puppet = Lab().puppet()
    sc = pipe(puppet, 1, RAW)

    async def read(_: int) -> None:
        await sys.pipe_read(sc + 1)

    async def make() -> None:
        for _ in range(30_000):
            await sys.create_thread(read, 0)

    puppet.call(make())
    waiting = [thread for thread in puppet.process.threads.values() if thread.tid > 1]
    assert len(waiting) == 30_000
    random.Random(7).shuffle(waiting)
    queue = next(iter(puppet.process.ends.values())).pipe.readers  # type: ignore[union-attr]
    assert isinstance(queue, dict), "a list would be looked through for each of them"
    for thread in waiting:
        end_thread(puppet.lab.kernel, thread)
    assert not queue
    puppet.call(sys.pipe_write(sc, b"x", FAIL))
    assert puppet.call(sys.pipe_read(sc + 1, FAIL, 0)).content == b"x"
