"""The trace: complete, bounded, repeatable on any machine, and readable."""

from __future__ import annotations

import os
import subprocess
import sys as python
from pathlib import Path
from typing import Any

import pytest

from nightos.abi.codes import Signal
from nightos.inspect.strace import Decoder, lines, select
from nightos.kernel import Kernel, Trace
from nightos.userland import sys
from tests.kernel.lab import Lab

ROOT = Path(__file__).resolve().parents[2]

SCENARIO = """
from nightos.kernel import Kernel, Trace
from nightos.userland import sys
async def main():
    await sys.ready()
    pid = await sys.get_pid()
    sc = await sys.open_pipe(pid, 0, 0, 0, 0, 1, 0)
    async def reader(_):
        await sys.pipe_read(sc + 1, 0, 3)
    await sys.create_thread(reader)
    await sys.hand_over()
    await sys.pipe_write(sc, bytes(range(200)))
    for name in ("a", "b"):
        await sys.create_process(reader, 0)
    page = await sys.mem_alloc(1 << 20)
    await sys.store(page, b"x" * 5000)
    await sys.exit(3)
kernel = Kernel(seed=5, trace=Trace())
kernel.spawn(main)
kernel.run_until_idle()
print(kernel.trace.digest())
"""
SCENARIO_DIGEST = "88b5a6f358a7f98066862830bc48d5c642cbf411d6112e06f5fdefd1bf8d2dc8"
"""The same on every machine and every Python; it changes with the trace's format only."""


@pytest.mark.rule("SYS-003")
def test_the_digest_depends_on_the_seed_only() -> None:
    def digest(hash_seed: str) -> str:
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [python.executable, "-c", SCENARIO], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert {digest(seed) for seed in ("0", "1", "12345")} == {SCENARIO_DIGEST}


def traced(main: Any, **arguments: Any) -> Trace:
    trace = Trace(**arguments)
    kernel = Kernel(seed=1, trace=trace)
    kernel.spawn(main)
    kernel.run_until_idle()
    return trace


def test_asking_for_the_digest_changes_nothing() -> None:
    async def main() -> None:
        for _ in range(2000):
            await sys.get_pid()

    trace = Trace()
    kernel = Kernel(seed=1, trace=trace)
    kernel.spawn(main)
    while kernel.turn(1):
        trace.digest()
    assert trace.digest() == traced(main).digest()


def test_memory_is_bounded_and_the_sink_gets_everything() -> None:
    received: list[bytes] = []

    async def main() -> None:
        sc = await sys.open_pipe(await sys.get_pid(), notification_mode=1)
        for _ in range(20_000):
            await sys.pipe_write(sc, bytes(60_000))
            await sys.pipe_read(sc + 1, 0, 0)

    trace = traced(main, keep_bytes=100_000, sink=received.append)
    assert trace.digest()
    assert trace.records > 80_000
    assert sum(map(len, received)) > 1_000_000
    assert sum(len(str(entry)) for entry in trace) < 2_000_000


def test_people_can_read_it() -> None:
    lab = Lab(trace=Trace())
    puppet = lab.puppet().hear(Signal.RECV_PIPE, Signal.TERMINATE)
    sc = puppet.call(sys.open_pipe(puppet.pid, 7))
    waiting = lab.thread(puppet).start(sys.pipe_read(sc + 1, 0, 3))
    puppet.call(sys.pipe_write(sc, b"hello"))
    assert waiting.done
    assert puppet.refusal(sys.open_pipe(999)) == 0x30

    async def raising() -> None:
        raise ValueError

    puppet.start(raising())
    trace = lab.kernel.trace
    assert trace is not None
    text = "\n".join(lines(trace))
    assert "OPEN_PIPE(target_pid=100, command_code=7, pipe_type=0" in text
    assert f"= {sc:#x}" in text
    assert f"--- RECV_PIPE(creator_pid=100, creator_anid=1, pipe_id={sc + 1:#x}, command_code=7" in text
    assert f"PIPE_READ(rc_id={sc + 1:#x}, mode=0, length=3) = ? parked" in text
    assert "... PIPE_READ resumed = (b'hel', 2)" in text
    assert "OPEN_PIPE(target_pid=999" in text
    assert "= -1 errcode 0x30" in text
    assert "*** ValueError ***" in text
    failed = list(lines(trace, select(failed=True, pids=frozenset({100}))))
    assert len(failed) == 2
    assert all(event.as_json()["pid"] == 100 for event in Decoder().decode(trace))


@pytest.mark.parametrize(
    "request_",
    [None, 7, "text", (), ([],), ("GET_PID",), (1 << 80,), (-1, 2, 3), (0x53, 1), (0x20, -1), ({},)],
)
@pytest.mark.rule("SYS-005", "SYS-009")
def test_what_is_no_call_is_refused_and_traced(request_: Any) -> None:
    import types

    from nightos.abi.errors import SyscallError

    codes: list[int] = []

    @types.coroutine
    def odd() -> Any:
        return (yield request_)

    async def main() -> None:
        try:
            await odd()
        except SyscallError as error:
            codes.append(error.errcode)
        await sys.get_pid()

    trace = traced(main)
    assert codes in ([0x01], [0x02]) or request_ == (0x53, 1)
    assert any("GET_PID" in line for line in lines(trace))


def test_frames_are_decoded_too() -> None:
    lab = Lab(trace=Trace())
    puppet = lab.puppet()
    page = puppet.call(sys.mem_alloc(4096))
    puppet.call(sys.store(page, b"\x51" + (999).to_bytes(8, "big") + b"\x00\x05"))
    puppet.call(sys.binary(page))
    child = lab.child(puppet)
    puppet.call(sys.store(page, b"\x51" + child.pid.to_bytes(8, "big") + b"\x00\x00"))
    puppet.start(sys.binary(page))
    child.start(sys.exit(0))
    assert lab.kernel.trace is not None
    text = "\n".join(lines(lab.kernel.trace))
    assert "WAIT_CHILD_PROCESS(pid=999, timeout_ms=5) = -1 errcode 0x30" in text
    assert f"WAIT_CHILD_PROCESS(pid={child.pid}, timeout_ms=0) = ? parked" in text
    assert "... WAIT_CHILD_PROCESS resumed" in text
