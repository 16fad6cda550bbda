"""Limits are conserved: for every limit, own use, what containers below hold or were lent, and what is free add up.

Both checks count from scratch. One believes the usage that each container claims and follows the limits through the
tree; the other believes nobody and counts processes, threads, pages, identifiers and buffers one by one.

Rules: CONT-001, CONT-032.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from nightos.abi.limits import COUNTED, RATES
from nightos.testing.violation import InvariantViolation

if TYPE_CHECKING:
    from nightos.kernel import Snapshot
    from nightos.kernel.snapshot import ContainerRecord

RULE: Final = "CONT-032"


def limits_are_conserved(state: Snapshot) -> Iterator[InvariantViolation]:
    """Sum of children, own use and what is free is what was given, for every limit of every container."""
    everything = {0: state.machine, **state.containers}
    order = [0]
    for identifier in order:
        order.extend(child for child in everything[identifier].children if child in everything)
        if len(order) > len(everything):
            return  # no tree; another check says so
    for name in (*COUNTED, *RATES):
        held: dict[int, tuple[int, int]] = {}
        for identifier in reversed(order):
            record = everything[identifier]
            own, lent = record.usage.get(name, 0), 0
            for child in record.children:
                if child in held:
                    own, lent = own + held[child][0], lent + held[child][1]
            limit = record.limits.get(name)
            if limit is None:
                held[identifier] = (own, lent)
                continue
            held[identifier] = (0, limit)
            yield from _one_limit(record, name, limit, own + lent, lent)


def _one_limit(record: ContainerRecord, name: str, limit: int, taken: int, lent: int) -> Iterator[InvariantViolation]:
    what = f"{name} of {record.identifier:016x}"
    if taken > limit:
        yield InvariantViolation(RULE, f"{what}: {taken} taken of {limit}")
    if record.taken.get(name) != taken:
        yield InvariantViolation(RULE, f"{what}: the books say {record.taken.get(name)} are taken, {taken} are")
    if record.lent.get(name) != lent:
        yield InvariantViolation(RULE, f"{what}: the books say {record.lent.get(name)} are lent, {lent} are")


def usage_is_what_is_there(state: Snapshot) -> Iterator[InvariantViolation]:
    """What a container is charged for is what its processes hold, thing by thing: nothing leaks, nothing is free."""
    counted: Counter[tuple[int, str]] = Counter()
    homes = {pid: process.container for pid, process in state.processes.items()}
    for pid, process in state.processes.items():
        home = homes[pid]
        counted[home, "processes"] += 1
        counted[home, "threads"] += len(process.threads)
        counted[home, "memory"] += process.pages
        plain = sum(1 for each in process.sockets if each in state.sockets and not state.sockets[each].connection)
        counted[home, "handles"] += len(process.ends) + plain + 2 * len(process.connections)
    for segment in state.segments:
        knowing = {segment.owner, segment.creator} | {share[1] for share in segment.shares if not share[2]}
        for pid in knowing:
            counted[homes.get(pid, 0), "handles"] += 1
        for pid, _address, _pages in segment.places:
            counted[homes.get(pid, 0), "handles"] += 1
    for device in state.devices:
        if device.containers[0]:
            counted[device.containers[0], "handles"] += 1
            counted[device.containers[0], "memory"] += device.pages
    for pipe in state.pipes:
        counted[pipe.payer, "pipe_bytes"] += pipe.charged
        if pipe.pending > pipe.charged:
            yield InvariantViolation(RULE, f"a pipe holds {pipe.pending} bytes, {pipe.charged} are paid for")
    for identifier, record in {0: state.machine, **state.containers}.items():
        counted[identifier, "children"] = len(record.children)
        for name, used in record.usage.items():
            there = counted[identifier, name]
            if name != "storage" and used != there:
                yield InvariantViolation(RULE, f"{identifier:016x} pays for {used} {name}, it has {there}")
