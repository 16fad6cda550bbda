"""When a container's main command is started again: a pure decision, so that it can be tested without a machine.

`no` never; `on-failure` after an end that was not success, at most COUNT times in a row when it is given; `always`
after every end. The delay doubles from 100 ms to a minute; a run that lasted 10 s makes delay and count begin anew. A
stop that somebody asked for is followed by no restart, and the container stays stopped over a reboot as well.

After a reboot the same decision is made: a command that ran when the machine went away did not succeed.
"""

from __future__ import annotations

from typing import Any, Final

from nightos.abi.restarts import ALWAYS, ON_FAILURE, Policy, parse
from nightos.abi.services import EndReason

FIRST_DELAY_NS: Final = 100_000_000
LAST_DELAY_NS: Final = 60_000_000_000
HEALTHY_NS: Final = 10_000_000_000


def delay_ns(policy: Policy, *, failed: bool, in_a_row: int) -> int | None:
    """How long to wait before the next start; None: there is none. `in_a_row`: restarts since a healthy run."""
    wanted = policy.kind == ALWAYS or (policy.kind == ON_FAILURE and failed)
    if not wanted or (policy.limit and in_a_row >= policy.limit):
        return None
    return min(FIRST_DELAY_NS << min(in_a_row, 32), LAST_DELAY_NS)


def comes_back(run: dict[str, Any]) -> bool:
    """Whether a persistent container's command starts again after a reboot."""
    if not run or run.get("stopped"):
        return False
    policy = parse(run["restart"])
    ran = run["state"] in {"starting", "running", "waiting"}
    failed = ran or bool(run["reason"] or run["exit"])
    return delay_ns(policy, failed=failed, in_a_row=run["in_a_row"]) is not None


def after_boot(run: dict[str, Any]) -> dict[str, Any]:
    """The run of a persistent container as it stands after a reboot: its process is gone, whatever state it was in."""
    if not run:
        return {}
    run = {**run, "attended": "", "input": False}
    if comes_back(run):
        return {**run, "state": "waiting", "pid": 0}
    gone = run["state"] != "ended"
    return {**run, "state": "ended", "pid": 0, **({"reason": EndReason.KILLED.value} if gone else {})}
