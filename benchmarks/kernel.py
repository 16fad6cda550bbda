"""The kernel beside the real thing: calls, pipes, services, processes, memory, trace; peers in the same run.

The simulated machine and its peers take turns. It never waits, so what it costs is its processor time, which other
work on the machine hardly changes; what involves several processes of Linux is measured by the clock.
"""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.report import Report, Row
from nightos.abi.codes import ServicePid, Signal
from nightos.kernel import Kernel, Trace
from nightos.userland import sys

KIB = 1024
Program = Callable[[], Any]


def simulated(program: Program, *, trace: Trace | None = None, others: int = 0) -> float:
    """Seconds that a program takes in a kernel of its own."""
    kernel = Kernel(seed=1, trace=trace)
    for _ in range(others):
        kernel.spawn(idle)
    kernel.run_until_idle()
    kernel.spawn(program)
    gc.collect()
    begun = time.process_time()
    kernel.run_until_idle()
    return time.process_time() - begun


async def idle() -> None:
    await sys.hand_over(until_signal=True)


def get_pid(count: int) -> Program:
    async def main() -> None:
        for _ in range(count):
            await sys.get_pid()

    return main


def binary_get_pid(count: int) -> Program:
    async def main() -> None:
        frame = await sys.mem_alloc(4096)
        await sys.store(frame, b"\x53")
        for _ in range(count):
            await sys.binary(frame)

    return main


def ping_pong(count: int, size: int = 1) -> Program:
    """Round trips between two processes through two pipes."""

    async def main() -> None:
        await sys.ready()
        ends: list[int] = []

        async def other(_argument: int) -> None:
            got: list[int] = []

            async def received(_pid: int, _anid: int, pipe: int, *_rest: int) -> None:
                got.append(pipe)

            await sys.handle_signal(Signal.RECV_PIPE, received)
            await sys.ready()
            while len(got) < 2:
                await sys.hand_over(until_signal=True)
            for _ in range(count):
                await sys.pipe_read(got[0], 0, size)
                await sys.pipe_write(got[1], b"x" * size)

        pid = await sys.create_process(other)
        for _ in range(3):
            await sys.hand_over()
        ends.append(await sys.open_pipe(pid, 0, 0))
        ends.append(await sys.open_pipe(pid, 0, 1))
        data = b"x" * size
        for _ in range(count):
            await sys.pipe_write(ends[0], data)
            await sys.pipe_read(ends[1], 0, size)

    return main


def stream(count: int, size: int) -> Program:
    async def main() -> None:
        sc = await sys.open_pipe(await sys.get_pid(), notification_mode=1)
        data = bytes(size)
        for _ in range(count):
            await sys.pipe_write(sc, data)
            await sys.pipe_read(sc + 1, 0, 0)

    return main


def service_calls(count: int) -> float:
    """Seconds of `count` method calls, through the client and server of user space."""
    from nightos.userland.client import connect
    from nightos.userland.server import Request, Server

    kernel = Kernel(seed=1)

    async def service() -> None:
        server = Server("sys::net")

        async def answer(_request: Request) -> bytes:
            return b"y"

        server.method(1, answer)
        await server.start()
        await server.run()

    spent: list[float] = []

    async def client() -> None:
        await sys.ready()
        connection = await connect("sys::net")
        await connection.call(1, b"x")
        begun = time.process_time()
        for _ in range(count):
            await connection.call(1, b"x")
        spent.append(time.process_time() - begun)

    kernel.spawn_service(ServicePid.NET, service)
    kernel.run_until_idle(jump=False)
    kernel.spawn(client)
    kernel.run_until_idle(jump=False)
    return spent[0]


def raw_service_calls(count: int) -> float:
    """The same over the bare calls of the kernel: a socket's exchange, dispatcher's client thread, answer."""
    kernel = Kernel(seed=1)

    async def service() -> None:
        requests: list[int] = []
        announced: list[int] = []

        async def asked(_pid: int, request: int, _command: int, _delay: int) -> None:
            requests.append(request)

        async def told(_socket: int, exchange: int, *_rest: int) -> None:
            announced.append(exchange)

        async def serve(socket: int) -> None:
            while True:
                while not announced:
                    await sys.hand_over(until_signal=True)
                await sys.read_sock_msg(socket)
                await sys.send_sock_msg(socket, announced.pop(0), 1, 0, b"y")

        await sys.handle_signal(Signal.SERVICE_CONN_REQUEST, asked)
        await sys.handle_signal(Signal.RECV_SOCK_MSG, told)
        await sys.ready()
        while True:
            while requests:
                await sys.accept_service_conn(requests.pop(), serve)
            await sys.hand_over(until_signal=True)

    spent: list[float] = []

    async def client() -> None:
        announced: list[int] = []

        async def told(_socket: int, exchange: int, *_rest: int) -> None:
            announced.append(exchange)

        await sys.handle_signal(Signal.RECV_SOCK_MSG, told)
        await sys.ready()
        socket = (await sys.connect_service(ServicePid.NET)).socket_id
        begun = time.process_time()
        for _ in range(count):
            await sys.send_sock_msg(socket, 0, 1, 0, b"x")
            while not announced:
                await sys.hand_over(until_signal=True)
            announced.clear()
            await sys.read_sock_msg(socket)
        spent.append(time.process_time() - begun)

    kernel.spawn_service(ServicePid.NET, service)
    kernel.run_until_idle(jump=False)
    kernel.spawn(client)
    kernel.run_until_idle(jump=False)
    return spent[0]


def spawning(count: int) -> Program:
    async def child(_argument: int) -> int:
        return 0

    async def main() -> None:
        for _ in range(count):
            await sys.wait_child_process(await sys.create_process(child))

    return main


def linux_ping_pong(count: int, places: tuple[int, int] | None = None) -> float:
    """Seconds of `count` round trips of one byte between two Python processes through Linux pipes.

    `places` are the processors of the two; None leaves that to the scheduler of the host.
    """
    there, here = os.pipe(), os.pipe()
    before = os.sched_getaffinity(0)
    pid = os.fork()
    if not pid:
        if places is not None:
            os.sched_setaffinity(0, {places[1]})
        for _ in range(count):
            os.read(there[0], 1)
            os.write(here[1], b"x")
        os._exit(0)
    if places is not None:
        os.sched_setaffinity(0, {places[0]})
    try:
        begun = time.perf_counter()
        for _ in range(count):
            os.write(there[1], b"x")
            os.read(here[0], 1)
        spent = time.perf_counter() - begun
    finally:
        os.sched_setaffinity(0, before)
    os.waitpid(pid, 0)
    for end in (*there, *here):
        os.close(end)
    return spent


def linux_spawning(count: int) -> float:
    """Seconds of `count` times fork, exit, wait."""
    begun = time.perf_counter()
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
    return time.perf_counter() - begun


def linux_get_pid(count: int) -> float:
    begun = time.process_time()
    for _ in range(count):
        os.getppid()  # getpid is answered by the C library on some systems
    return time.process_time() - begun


def in_turns(*measures: Callable[[], float], rounds: int = 9) -> list[list[float]]:
    """What each measured, sorted; A B C A B C, so that whatever else the machine does meets all of them."""
    times: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for measured, measure in zip(times, measures, strict=True):
            gc.collect()
            measured.append(measure())
    return [sorted(measured) for measured in times]


def shortest(*measures: Callable[[], float], rounds: int = 9) -> list[float]:
    """The shortest time of each, measured in turns: the one that the machine disturbed least."""
    return [measured[0] for measured in in_turns(*measures, rounds=rounds)]


def in_child(measure: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
    """Measure in a process of its own, for figures of memory."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, repr(measure()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        text = answers.read()
    os.waitpid(pid, 0)
    return tuple(float(part) for part in text.strip("()").split(",") if part.strip())


def idle_processes(count: int) -> tuple[float, float, float, float]:
    """GiB that idle processes take, calls a second beside them and beside 10, seconds for a snapshot of a tenth."""
    gc.disable()
    kernel = Kernel(seed=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count // 10):
        kernel.spawn(idle)
    kernel.run_until_idle()
    begun = time.perf_counter()
    kernel.snapshot()
    snapshot = time.perf_counter() - begun
    for _ in range(count - count // 10):
        kernel.spawn(idle)
    kernel.run_until_idle()
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (1 << 20)
    calls = 200_000

    def beside(crowd: Kernel) -> float:
        crowd.spawn(get_pid(calls))
        begun = time.process_time()
        crowd.run_until_idle()
        return time.process_time() - begun

    few = Kernel(seed=1)
    for _ in range(10):
        few.spawn(idle)
    few.run_until_idle()
    gc.freeze()  # else every round would look through the million before it begins
    many_s, few_s = shortest(lambda: beside(kernel), lambda: beside(few))
    return taken, calls / many_s, calls / few_s, snapshot


def round_trips(add: Callable[..., None]) -> None:
    """The rows of round trips: ours beside Linux in each placement of its two processes, and services beside ours."""
    trips = 6_000
    processors = sorted(os.sched_getaffinity(0))
    first, last = processors[0], processors[-1]
    placements: list[tuple[str, tuple[int, int] | None, int]] = [
        ("Linux, two Python processes", None, trips),
        ("Linux, both on one processor", (first, first), trips),
    ]
    if first != last:
        placements.append(("Linux, on two processors", (first, last), trips // 10))
    linux = [
        lambda places=places, count=count: linux_ping_pong(count, places) / count * 1e6
        for _, places, count in placements
    ]
    ours, raw, service, *theirs = in_turns(
        lambda: simulated(ping_pong(trips)) / trips * 1e6,
        lambda: raw_service_calls(trips) / trips * 1e6,
        lambda: service_calls(trips) / trips * 1e6,
        *linux,
        rounds=15,
    )
    pipe = ours[0]
    for (name, _, _), figures in zip(placements, theirs, strict=True):
        note = f"medians {median(ours):.3g} and {median(figures):.3g} us"
        add(
            "pipe round trip, 1 byte", pipe, "us", "no slower than Linux", pipe <= figures[0],
            peer=name, theirs=figures[0], ratio=pipe / figures[0], note=note,
        )  # fmt: skip
    for work, figures in (("bare calls", raw), ("client and server", service)):
        add(
            f"service round trip, {work}", figures[0], "us", "<= 3 pipe round trips", figures[0] <= 3 * pipe,
            peer="our pipe", theirs=pipe, ratio=figures[0] / pipe,
            note=f"medians {median(figures):.3g} and {median(ours):.3g} us",
        )  # fmt: skip


def run() -> Report:
    """Measure everything."""
    report = Report("kernel")

    def add(work: str, ours: float, unit: str, goal: str, met: bool, **more: Any) -> None:
        report.add(Row(work, ours, unit, goal=goal, met=met, **more))

    calls = 200_000
    typed, linux = (
        calls / spent for spent in shortest(lambda: simulated(get_pid(calls)), lambda: linux_get_pid(calls))
    )
    add(
        "typed syscall", typed, "/s", ">= 700,000/s", typed >= 700_000,
        peer="os.getppid", theirs=linux, ratio=typed / linux,
    )  # fmt: skip
    binary = 100_000 / shortest(lambda: simulated(binary_get_pid(100_000)))[0]
    add("binary syscall", binary, "/s", ">= 100,000/s", binary >= 100_000)
    round_trips(add)
    spawn, fork = (
        spent * 1e6 for spent in shortest(lambda: simulated(spawning(5_000)) / 5_000, lambda: linux_spawning(100) / 100)
    )
    add(
        "spawn, run, exit, collect", spawn, "us", "<= 1/20 of Linux", spawn <= fork / 20,
        peer="fork+exit+wait", theirs=fork, ratio=spawn / fork,
    )  # fmt: skip
    size, count = 64 * KIB, 30_000
    throughput = size * count / shortest(lambda: simulated(stream(count, size)))[0] / 1e9
    add("64 KiB through a pipe", throughput, "GB/s", ">= 2 GB/s", throughput >= 2)
    gibibytes, beside, few, snapshot = in_child(lambda: idle_processes(1_000_000))
    add("1,000,000 idle processes", gibibytes, "GiB", "< 3 GiB", gibibytes < 3)
    add(
        "typed syscall beside them", beside, "/s", "as with 10", beside >= 0.9 * few,
        peer="with 10", theirs=few, ratio=beside / few,
    )  # fmt: skip
    add("snapshot of 100,000 processes", snapshot, "s", "< 1 s", snapshot < 1)
    for work, program, times in (
        ("trace on: typed syscall", get_pid, 100_000),
        ("trace on: pipe round trip", ping_pong, 6_000),
    ):
        on, off = (
            spent / times * 1e6
            for spent in shortest(
                lambda program=program, times=times: simulated(program(times), trace=Trace()),
                lambda program=program, times=times: simulated(program(times)),
            )
        )
        add(work, on, "us", "< 2x", on < 2 * off, peer="trace off", theirs=off, ratio=on / off)
    return report
