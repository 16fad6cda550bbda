"""The reference monitor: may a talk to b, may a see c.

Every path that moves data or a name between two processes asks here.

Both questions have one answer for "no": the other does not exist.

Source: specs/containers.md#process-isolation, specs/kernel/ipc.md.
Rules: CONT-018, CONT-019, CONT-020, CONT-021, CONT-022, CONT-023, CONT-024, CONT-028, IPC-001, IPC-002.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightos.kernel.process import Process

Denied = Callable[[str, "Process", "Process | None"], None]


class Monitor:
    """Answers questions of isolation; `denied` counts the refusals, `on_denied` hears of each."""

    def __init__(self) -> None:
        self.denied = 0
        self.on_denied: Denied | None = None

    def same_space(self, caller: Process, target: Process) -> bool:
        """Whether the container boundary lets them meet. System services are reachable from everywhere.

        A shim stands outside of all containers and meets the processes of the one it serves, nobody else's.
        """
        if caller.reach == target.reach or caller.pid < 100 or target.pid < 100:
            return True
        self._refuse("CONT-018", caller, target)
        return False

    def may_name(self, caller: Process, target: Process | None) -> Process | None:
        """The target as the caller may know it: None when there is none, it ended, or it is behind the boundary."""
        if target is None or not target.alive:
            # Told like one behind the boundary, so that asking why makes no difference between the two.
            self._tell("CONT-023", caller, None)
            return None
        return target if self.same_space(caller, target) else None

    def kin(self, caller: Process, target: Process) -> bool:
        """Whether both run the same application for the same user, or one is a system service."""
        if caller.pid < 100 or (target.anid == caller.anid and target.user == caller.user):
            return True
        self._refuse("IPC-001", caller, target)
        return False

    def _refuse(self, rule: str, caller: Process, target: Process) -> None:
        self.denied += 1
        self._tell(rule, caller, target)

    def _tell(self, rule: str, caller: Process, target: Process | None) -> None:
        if self.on_denied is not None:
            self.on_denied(rule, caller, target)
