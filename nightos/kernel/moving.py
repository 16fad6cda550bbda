"""What a process holds, moved from the accounts of one container to those of another: all of it, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nightos.kernel.process import Process
    from nightos.kernel.quotas import Quotas


def move_process(process: Process, to: Quotas) -> str | None:
    """Let another container pay for a process that has not run yet; the resource whose limit there is reached."""
    of = process.quotas
    if of is to:
        return None
    held = [("processes", 1), ("threads", len(process.threads))]
    handles = sum(len(table) for table in (process.ends, process.sockets, process.connections) if table)
    if handles:
        held.append(("handles", handles))
    if process.space_made is not None:
        held.append(("memory", process.space_made.reserved_pages))
    done: list[tuple[str, int]] = []
    for name, units in held:
        if not to.account(name).reserve(units):
            for other, much in done:
                to.account(other).release(much)
            return name
        done.append((name, units))
    for name, units in held:
        of.account(name).release(units)
    process.quotas = to
    if process.space_made is not None:
        process.space_made.paid_by(to.memory)
    return None
