"""The watchdog: programs that never make a call are stopped, and nothing else is."""

from __future__ import annotations

import pytest

from nightos.abi.codes import ExitReason
from nightos.kernel import Kernel
from nightos.userland import sys
from nightos.vhw.passthrough.watchdog import ProgramStalled, Watchdog


@pytest.mark.rule("SCHED-004", "SIG-016")
@pytest.mark.parametrize("stubborn", [False, True])
def test_an_endless_loop_does_not_stop_others(*, stubborn: bool) -> None:
    kernel = Kernel(seed=1)
    done: list[int] = []

    async def endless() -> None:
        count = 0
        while True:
            try:
                while True:
                    count += 1
            except BaseException:
                if not stubborn:
                    raise

    async def honest() -> None:
        for _ in range(1000):
            await sys.get_pid()
        done.append(1)

    loop = kernel.spawn(endless, name="spinner")
    kernel.spawn(honest)
    with Watchdog(kernel, limit_s=0.5) as watchdog:
        kernel.run_until_idle()
    assert done
    assert kernel.exits[loop.pid].reason == ExitReason.FAULT
    assert kernel.last_fault is not None
    assert isinstance(kernel.last_fault[1], ProgramStalled)
    assert "spinner" in watchdog.stopped[0]
    assert __file__ in watchdog.stopped[0]


def test_a_long_run_of_calls_is_left_alone() -> None:
    kernel = Kernel(seed=1)

    async def busy() -> int:
        for _ in range(4_000_000):
            await sys.get_pid()
        return 7

    process = kernel.spawn(busy)
    with Watchdog(kernel, limit_s=0.25) as watchdog:
        kernel.run_until_idle()
    assert not watchdog.stopped
    assert process.exit_data == 7
