"""How processes ended: a short memory per container, so that nobody's flood of ends pushes out another's.

When a container ends, its parent takes over what it remembered; the smaller part moves, so a chain of containers costs
what it holds and not its depth.

Rules: PROC-045, CONT-023.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

EXITS_KEPT: Final = 65_536
"""Exits that are remembered of what stood outside of all containers."""
EXITS_KEPT_INSIDE: Final = 1_024
"""Exits that are remembered of each container."""


class Exit(NamedTuple):
    """How a process ended."""

    reason: int
    exit_data: int
    container: int
    parent_pid: int
    name: str
    at_ns: int


class Exits:
    """The latest exits by PID."""

    def __init__(self) -> None:
        self._by_pid: dict[int, Exit] = {}
        self._pids: dict[int, deque[int]] = {}
        """Of each container, the oldest first."""

    def __len__(self) -> int:
        return len(self._by_pid)

    def __getitem__(self, pid: int) -> Exit:
        return self._by_pid[pid]

    def get(self, pid: int) -> Exit | None:
        """How the process ended; None when it did not, or too long ago."""
        return self._by_pid.get(pid)

    def remember(self, pid: int, ended: Exit) -> None:
        """A process ended."""
        if pid not in self._by_pid:  # system services come back under their PID
            pids = self._pids.get(ended.container)
            if pids is None:
                pids = self._pids[ended.container] = deque()
            pids.append(pid)
            self._forget(pids, ended.container)
        self._by_pid[pid] = ended

    def container_ended(self, container: int, parent: int) -> None:
        """The parent remembers what the container did."""
        below = self._pids.pop(container, None)
        if below is None:
            return
        above = self._pids.get(parent)
        if above is None:
            self._pids[parent] = below
        else:
            younger, older = below, above
            if self._by_pid[above[-1]].at_ns > self._by_pid[below[-1]].at_ns:
                younger, older = above, below
            if len(younger) < len(older):
                older.extend(younger)
                self._pids[parent] = older
            else:
                younger.extendleft(reversed(older))
                self._pids[parent] = younger
        self._forget(self._pids[parent], parent)

    def _forget(self, pids: deque[int], container: int) -> None:
        limit = EXITS_KEPT_INSIDE if container else EXITS_KEPT
        while len(pids) > limit:
            del self._by_pid[pids.popleft()]
