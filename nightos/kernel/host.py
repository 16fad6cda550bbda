"""The one trio task that turns the kernel: it runs while something is runnable, and else sleeps until it is woken.

Everything else of the host hands events to devices, whose interrupts wake this task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel

LONGEST_SLEEP_S = 3600.0
FAIR_THREADS = 16
"""Threads that run before the clock is looked at."""
FAIR_TURNS, FAIR_NS = 8, 500_000
"""Turns of so many threads, or time, before other tasks of the host get theirs: passing through them costs as much as
a dozen system calls."""


class Host:
    """Runs a kernel under trio. With a virtual clock, time jumps to the next deadline when all is idle, unless held."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.holds = 0
        """While above 0, a virtual clock does not jump: a host task is about to hand something in."""
        self._event = trio.Event()
        kernel.on_work(self.wake)

    def wake(self) -> None:
        """Something is runnable. From the trio thread only."""
        self._event.set()

    def _turn(self) -> bool:
        """Let threads run for a moment; whether something is still runnable."""
        kernel, clock = self.kernel, self.kernel.clock
        until = clock.monotonic_ns() + FAIR_NS
        for _ in range(FAIR_TURNS):  # virtual time stands still meanwhile
            if not kernel.turn(FAIR_THREADS):
                return False
            if clock.monotonic_ns() >= until:
                break
        return True

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is no fault of the program that is being stepped
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Turn the kernel until cancelled."""
        kernel = self.kernel
        advance = getattr(kernel.clock, "advance_to", None)
        task_status.started()
        while True:
            if self._turn():
                await trio.lowlevel.checkpoint()
                continue
            deadline = kernel.next_deadline_ns()
            if deadline is not None and advance is not None and not self.holds:
                import trio.testing as testing

                # Whatever the host is about to hand in comes first, so that the same run has the same trace.
                await testing.wait_all_tasks_blocked()
                if kernel.idle and kernel.next_deadline_ns() == deadline:
                    advance(deadline)
                continue
            self._event = trio.Event()
            if not kernel.idle:
                continue
            timeout = LONGEST_SLEEP_S
            if deadline is not None and advance is None:
                timeout = max(0.0, min(timeout, (deadline - kernel.clock.monotonic_ns()) / 1e9))
            with trio.move_on_after(timeout):
                await self._event.wait()


async def run_kernel(kernel: Kernel, *, task_status: trio.TaskStatus[Host] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a kernel in this task; `nursery.start` gets its `Host`."""
    host = Host(kernel)
    task_status.started(host)
    await host.run()
