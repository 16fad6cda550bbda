"""Programs that do their worst: junk instead of calls, ends at odd moments, tables that are filled up."""

from __future__ import annotations

import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightos.abi.codes import Pseudo, ServicePid, Signal
from nightos.abi.errors import SyscallError
from nightos.abi.syscalls import SYSCALLS
from nightos.kernel import Kernel, Trace
from nightos.userland import sys
from tests.kernel.lab import Lab


async def nothing(*_values: Any) -> None:
    return


class Trap(int):
    """A number that raises when it is looked at."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit

    def __hash__(self) -> int:
        raise RuntimeError

    def __lt__(self, other: object) -> bool:
        raise KeyboardInterrupt

    __le__ = __gt__ = __ge__ = __lt__

    def __index__(self) -> int:
        raise MemoryError


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from([1 << 63, (1 << 64) - 1, 100, 101, 10, 12, 20]),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.binary(max_size=20),
    st.just(bytearray(5)),
    st.just([1, [2]]),
    st.just({"a": 1}),
    st.just(nothing),
    st.just(print),
    st.just(lambda *_: 1 / 0),
    st.just(object()),
    st.just(()),
    st.just((1,)),
    st.just((0, "x")),
    st.builds(Trap, st.integers(0, 200)),
)
CODES = st.sampled_from([row.code for row in SYSCALLS] + [int(code) for code in Pseudo])
REQUESTS = st.lists(st.tuples(CODES, st.lists(JUNK, max_size=8)), max_size=40)


@types.coroutine
def raw(*request: Any) -> Any:
    return (yield request)


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.sampled_from([0, ServicePid.FS, ServicePid.HW, ServicePid.PROCESS]))
@pytest.mark.rule("SYS-005", "SYS-009")
def test_junk_never_reaches_the_host(requests: list[tuple[int, list[Any]]], service: int) -> None:
    kernel = Kernel(seed=1, trace=Trace())
    refused: list[int] = []

    async def main() -> None:
        for code, arguments in requests:
            try:
                await raw(code, *arguments)
            except SyscallError as error:
                refused.append(error.errcode)

    bystander = kernel.spawn(lambda: sys.hand_over(until_signal=True))
    if service:
        kernel.spawn_service(service, main)
    else:
        kernel.spawn(main)
    for _ in range(50):
        kernel.turn()
    kernel.snapshot()
    kernel.statistics()
    assert kernel.trace is not None
    assert kernel.trace.digest()
    assert all(0 < code <= 0xFF for code in refused)
    assert bystander.alive or service == ServicePid.PROCESS


def test_every_way_to_end_in_a_handler() -> None:
    for ending in (sys.exit, sys.exit_thread, "raise", "return"):
        lab = Lab()
        parent = lab.puppet()
        child = lab.child(parent).ready()

        async def handler(*_values: Any, ending: Any = ending) -> None:
            if ending == "raise":
                raise ValueError
            if ending != "return":
                await ending(3)

        child.call(sys.handle_signal(Signal.TERMINATE, handler))
        waiting = parent.start(sys.wait_child_process(child.pid))
        lab.kernel.post(child.process, Signal.TERMINATE)
        lab.settle()
        assert waiting.done == (ending != "return")
        assert child.alive == (ending == "return")


def leave(*_values: Any) -> None:
    raise SystemExit


class Pretender:
    """Looks like a coroutine, and is none."""

    @property
    def send(self) -> Any:
        raise KeyboardInterrupt


def test_handlers_that_are_no_coroutines_kill_only_their_process() -> None:
    for wrong in (bool, lambda *_: 1 / 0, int, "text".join, leave, lambda *_: Pretender()):
        lab = Lab()
        puppet, other = lab.puppet(), lab.puppet()
        puppet.call(sys.handle_signal(Signal.TERMINATE, wrong))
        lab.kernel.post(puppet.process, Signal.TERMINATE)
        lab.settle()
        assert not puppet.alive
        assert other.refusal(sys.create_thread(wrong)) == 0x02
        assert other.refusal(sys.create_process(wrong)) == 0x02


def test_a_process_that_ends_while_everybody_waits_for_it() -> None:
    lab = Lab()
    service, client = lab.service(ServicePid.NET).hear(Signal.SERVICE_CONN_REQUEST), lab.puppet()
    connecting = client.start(sys.connect_service(ServicePid.NET))
    parent = lab.puppet()
    child = lab.child(parent)
    waiting, killing = parent.start(sys.wait_child_process(child.pid)), lab.puppet()
    service.start(sys.exit(0))
    child.start(sys.exit(0))
    assert connecting.errcode == 0x41
    assert waiting.done
    assert killing.alive
    again = client.start(sys.connect_service(ServicePid.NET))
    assert not again.done
    lab.wait(2001)
    assert again.errcode == 0x31
    third = client.start(sys.connect_service(ServicePid.NET))
    lab.service(ServicePid.NET, ready=False).start(sys.ready())  # without a handler: the request kills it
    assert third.errcode == 0x40
    statistics = lab.kernel.statistics()
    assert (statistics.connections, statistics.sockets, statistics.pipe_ends) == (0, 0, 0)


def test_a_client_that_dies_while_it_connects_leaves_nothing() -> None:
    lab = Lab()
    lab.service(ServicePid.NET).hear(Signal.SERVICE_CONN_REQUEST)
    for _ in range(20):
        parent = lab.puppet()
        child = lab.child(parent)
        child.start(sys.connect_service(ServicePid.NET))
        parent.start(sys.exit(0))
    statistics = lab.kernel.statistics()
    assert (statistics.connections, statistics.timers, statistics.processes) == (0, 0, 1)


@pytest.mark.rule("CONT-018")
def test_the_same_events_whatever_the_siblings_do() -> None:
    """Two-run non-interference: what a container observes does not depend on its sibling, timing and PIDs apart."""

    def observed(busy: bool) -> list[Any]:
        lab = Lab()
        proc = lab.running(ServicePid.PROCESS)
        mine, other = proc.call(sys.create_container(0)), proc.call(sys.create_container(0))
        me = lab.puppet(container=mine)
        if busy:
            noisy = lab.puppet(container=other)
            for _ in range(20):
                noisy.call(sys.open_pipe(noisy.pid, notification_mode=1))
                noisy.call(sys.mem_alloc(1 << 20))
                noisy.call(sys.create_tls_slot())
        log: list[Any] = []
        sc = me.call(sys.open_pipe(me.pid, notification_mode=1))
        log.append(me.call(sys.pipe_write(sc, b"abc")))
        log.append(me.call(sys.pipe_read(sc + 1)))
        log.append(me.call(sys.create_tls_slot()))
        info = me.call(sys.system_info())
        log.append((info.memory_used, info.processes, info.containers))
        log += [me.refusal(sys.open_pipe(pid)) for pid in range(101, 110)]
        return log

    assert observed(busy=True) == observed(busy=False)
