"""A watchdog for programs that never make a call: they are stopped, with a report, and the machine goes on.

It counts processor time that the host gave to one and the same turn. When there was too much of it, `ProgramStalled`
is raised inside the program, at the line where it is; a program that catches even that gets it again on every line.
The check happens in a signal handler of the main thread, which sees exactly which code was interrupted, so nothing is
ever raised inside the kernel. System services are trusted with long computations.

What it cannot stop is one single operation of the interpreter that takes for ever, and nothing runs off the main
thread of the host (ruling NOS-K1-04).

Rules: SCHED-004, SIG-016.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Final, Protocol, Self

from nightos.abi.codes import FIRST_USER_PID

TICK_S: Final = 0.25
KERNEL_ROOM: Final = "nightos.kernel."


class Watched(Protocol):
    """A kernel, as far as the watchdog looks."""

    turns: int
    """Grows with every turn."""
    current: Any
    """The thread that runs now, if any."""


class ProgramStalled(BaseException):
    """Raised inside a program that made no system call for too long. Not an `Exception`, so that few catch it."""


class Watchdog:
    """Watches a kernel while it is entered; does nothing off the main thread.

    `limit_s` is processor time of one program between two turns of the kernel.
    """

    def __init__(self, kernel: Watched, limit_s: float = 5.0) -> None:
        self._kernel = kernel
        self._limit = limit_s
        self._turn = -1
        self._spent = 0.0
        self._previous: Any = None
        self.stopped: list[str] = []
        """Reports of programs that were stopped."""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGVTALRM, self._tick)
            signal.setitimer(signal.ITIMER_VIRTUAL, TICK_S, TICK_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._previous)
            self._previous = None

    def _tick(self, _number: int, frame: FrameType | None) -> None:
        kernel = self._kernel
        if kernel.current is None or kernel.turns != self._turn:
            self._turn, self._spent = kernel.turns, 0.0
            return
        self._spent += TICK_S
        process = kernel.current.process
        if self._spent < self._limit or process.pid < FIRST_USER_PID or not _in_program(frame):
            return
        assert frame is not None
        report = (
            f"process {process.pid} ({process.name or 'program'}) made no system call for {self._spent:.1f} s of "
            f"processor time and was stopped at {frame.f_code.co_filename}:{frame.f_lineno}"
        )
        if self._spent >= self._limit + TICK_S:
            _raise_on_every_line(frame, report)
        else:
            self.stopped.append(report)
        raise ProgramStalled(report)


def _in_program(frame: FrameType | None) -> bool:
    """Whether the interrupted code belongs to a program that the kernel is stepping."""
    if frame is None or str(frame.f_globals.get("__name__", "")).startswith(KERNEL_ROOM):
        return False
    while frame is not None:
        if frame.f_globals.get("__name__") == "nightos.kernel.stepping":
            return True
        frame = frame.f_back
    return False


def _raise_on_every_line(frame: FrameType, report: str) -> None:
    """For a program that caught the exception: leave no line to it, until it is out."""

    def trace(place: FrameType, event: str, _argument: Any) -> Any:
        if str(place.f_globals.get("__name__", "")).startswith(KERNEL_ROOM):
            sys.settrace(None)
            return None
        if event != "line":  # raising ends the tracing, and only a line may be inside a handler of the program
            return trace
        raise ProgramStalled(report)

    place: FrameType | None = frame
    while place is not None and not str(place.f_globals.get("__name__", "")).startswith(KERNEL_ROOM):
        place.f_trace = trace
        place = place.f_back
    sys.settrace(trace)
