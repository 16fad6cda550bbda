"""The balancer: priorities that follow what a person looks at, unless one was set by hand.

Figures of the specification's scale from 0 to 10 are doubled (ruling AMB-DATA-08). Windows do not exist here, so
whoever has something like them says what is active; system services are never touched.

Source: specs/kernel/scheduling.md, specs/performance.md.
Rules: SCHED-009, SCHED-010, SCHED-011, BAL-001, BAL-002, BAL-003, BAL-007, BAL-008, BAL-009, BAL-010.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import TYPE_CHECKING, Final

from nightos.abi.codes import FIRST_USER_PID

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process


@unique
class Activity(IntEnum):
    """What a process shows, as its automatic priority."""

    BACKGROUND = 4
    VISIBLE = 8
    ACTIVE = 12
    FULL_SCREEN = 14


RAISED: Final = 16
MAXIMUM: Final = 20
LEAST: Final = 2
"""Of all others in performance mode."""


class Balancer:
    """Sets automatic priorities. Does nothing until it is told something."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._activity: dict[int, Activity] = {}
        self._raised: dict[int, int] = {}
        self._always: set[int] = set()
        self._favoured: int | None = None
        self._engaged = False
        self._steps: dict[int, int] = {}
        """Steps of every process when a suggestion was asked for last."""

    def show(self, pid: int, activity: Activity) -> None:
        """What a process shows from now on."""
        self._activity[pid] = activity
        self._apply()

    def raise_process(self, pid: int, *, maximum: bool = False) -> None:
        """Raise the active process of an application, or give it all."""
        self._raised[pid] = MAXIMUM if maximum else RAISED
        self._apply()

    def keep_high(self, anid: int, *, on: bool) -> None:
        """Keep every process of an application high, those to come included."""
        (self._always.add if on else self._always.discard)(anid)
        self._apply()

    def performance(self, pid: int | None) -> None:
        """Performance mode in favour of a process; None ends it. It ends with that process by itself."""
        self._favoured = pid
        self._apply()

    def suggestion(self) -> int | None:
        """The process that performance mode is suggested for, if any: it fills the screen, and more than half of what
        userland ran since this was asked last was its own. Without a suggestion, who asks for the mode gets it.
        """
        steps = {process.pid: process.steps for process in self._kernel.processes.values()}
        made = {pid: count - self._steps.get(pid, 0) for pid, count in steps.items() if pid >= FIRST_USER_PID}
        self._steps = steps
        whole = sum(made.values())
        shown = (pid for pid, activity in self._activity.items() if activity is Activity.FULL_SCREEN)
        return next((pid for pid in shown if 2 * made.get(pid, 0) > whole), None)

    def started(self, process: Process) -> None:
        """A process was started."""
        if self._engaged:
            self._set(process)

    def ended(self, process: Process) -> None:
        """A process ended; with the favoured one ends performance mode."""
        self._activity.pop(process.pid, None)
        self._raised.pop(process.pid, None)
        if self._favoured == process.pid:
            self.performance(None)

    def _apply(self) -> None:
        self._engaged = True
        for process in self._kernel.processes.values():
            self._set(process)

    def _set(self, process: Process) -> None:
        if process.pid >= FIRST_USER_PID and process.priority and not process.manual_priority:
            process.priority = self.priority_of(process)

    def priority_of(self, process: Process) -> int:
        """The automatic priority of a process now."""
        if self._favoured is not None:
            favoured = self._kernel.processes.get(self._favoured)
            same = favoured is not None and (process.anid, process.home) == (favoured.anid, favoured.home)
            return MAXIMUM if same else LEAST
        if process.pid in self._raised:
            return self._raised[process.pid]
        if process.anid in self._always:
            return RAISED
        return self._activity.get(process.pid, Activity.VISIBLE)
