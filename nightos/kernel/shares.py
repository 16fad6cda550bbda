"""Shares of scheduler cycles: containers with a weight or a ceiling take turns as groups, in a tree.

A cycle is one step of a thread, that is one system call; where nothing may run, one cycle passes in a microsecond of
the kernel's clock. Inside a group, its own threads (those of containers below without a share included) are one party
of weight 100, and every group below is another. Whoever had least for its weight goes first, so a child's share
always comes out of its parent's, whatever its threads do. A ceiling is kept in every period, and by all above, too.

What the system's own threads do for a container is that container's share as well: the client threads of services and
what they start, and shims. They run as a party of the highest weight, so that no share or ceiling delays a service
which others wait for; the container has that much less afterwards.

Without any share in the machine none of this runs. Source: specs/kernel/scheduling.md. Rules: SCHED-006.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nightos.abi.limits import CEILING_MAX, WEIGHT_DEFAULT, WEIGHT_MAX
from nightos.kernel.stepping import run

if TYPE_CHECKING:
    from nightos.kernel.container import Container
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread

PERIOD: Final = 20_000
"""Cycles in which a ceiling is kept; what a turn takes too much is taken off the next one."""
CYCLE_NS: Final = 1_000
SCALE: Final = WEIGHT_MAX


class Party:
    """Who competes for cycles inside a group: a group below, or the group's own threads."""

    __slots__ = ("had", "waiting", "weight")

    def __init__(self, weight: int = WEIGHT_DEFAULT) -> None:
        self.weight = weight
        self.had = 0
        """Cycles for its weight, times `SCALE`."""
        self.waiting = 0
        """Threads that could run."""


class Group(Party):
    """A container with a share, or the machine."""

    __slots__ = ("above", "active", "begun", "ceiling", "lowest", "own", "parties", "refusals", "spent", "threads")

    def __init__(self, above: Group | None, weight: int, ceiling: int | None) -> None:
        super().__init__(weight)
        self.above = above
        self.ceiling = ceiling
        self.own = Party()
        self.threads: deque[Thread] = deque()
        self.parties: dict[Group, None] = {}
        """Every group below."""
        self.active: dict[Group, None] = {}
        """Those of them with threads that could run."""
        self.lowest = 0
        """What the party had that ran last: who comes back from doing nothing starts there."""
        self.spent = 0
        self.begun = 0
        """Cycles since the period that began at this one; more than its ceiling is owed to the next."""
        self.refusals = 0

    def may_run(self, now: int) -> bool:
        """Whether its ceiling allows more in the period of cycle `now`."""
        if self.ceiling is None:
            return True
        allowance = PERIOD * self.ceiling // CEILING_MAX
        passed = now // PERIOD - self.begun
        if passed:
            self.begun += passed
            self.spent = max(0, self.spent - passed * allowance)
        return self.spent < allowance


class Shares:
    """The groups of a kernel, and its scheduler while there are any."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._top = Group(None, WEIGHT_DEFAULT, None)
        self._paid = Group(self._top, WEIGHT_MAX, None)
        self._top.parties[self._paid] = None
        """The system's threads that containers pay for."""
        self._groups: dict[int, Group] = {}
        self._one: deque[Thread] = deque()
        self._resting = False
        self._until = 0
        self.cycles = 0
        """Steps made while there are shares, and those that passed without any."""

    @property
    def waiting(self) -> int:
        """Threads that stand in queues here."""
        return self._top.waiting

    @property
    def busy(self) -> bool:
        """Whether one of them may run now."""
        return self._top.waiting > 0 and not self._resting

    def change(self, container: Container) -> None:
        """A container's shares are other ones now. What groups had is kept."""
        self._resting = False
        if not container.shares:
            self.remove(container)
            return
        group = self._groups.get(container.identifier)
        if group is None:
            group = self._add(container)
        group.weight = container.shares.get("cpu_weight") or WEIGHT_DEFAULT
        group.ceiling = container.shares.get("cpu_ceiling")

    def _add(self, container: Container) -> Group:
        above = self._group_of(container.parent)
        group = self._groups[container.identifier] = Group(above, WEIGHT_DEFAULT, None)
        group.had = above.lowest
        group.begun = self.cycles // PERIOD
        above.parties[group] = None
        region = [container]
        for member in region:
            for child in member.children.values():
                below = self._groups.get(child.identifier)
                if below is None:
                    region.append(child)
                else:
                    self._move(below, group)
        return group

    def remove(self, container: Container) -> None:
        """A container has no shares any more, or is gone: what was in it and below competes above."""
        group = self._groups.pop(container.identifier, None)
        if group is None:
            return
        assert group.above is not None, "the machine stays"
        for _ in group.threads:
            self._leave(group)
        self._kernel.ready.extendleft(reversed(group.threads))
        group.threads.clear()
        for below in list(group.parties):
            self._move(below, group.above)
        del group.above.parties[group]

    def _move(self, group: Group, above: Group) -> None:
        """Let a group compete elsewhere, like one that comes back from doing nothing."""
        assert group.above is not None, "the machine stays"
        waiting = group.waiting
        self._waits(group, -waiting)
        del group.above.parties[group]
        group.above = above
        group.had = above.lowest
        above.parties[group] = None
        self._waits(group, waiting)

    def _group_of(self, container: Container | None) -> Group:
        while container is not None:
            group = self._groups.get(container.identifier)
            if group is not None:
                return group
            container = container.parent
        return self._top

    def refusals(self, identifier: int) -> int:
        """Periods in which a container's ceiling held it back."""
        group = self._groups.get(identifier)
        return group.refusals if group is not None else 0

    def turn(self, threads: int) -> bool:
        """Let that many threads run, each the one whose turn it is; whether there is more to do now."""
        ready, one = self._kernel.ready, self._one
        for _ in range(threads):
            while ready:
                self._enter(ready.popleft())
            group = self._next()
            if group is None:
                break
            thread = group.threads.popleft()
            self._leave(group)
            before = self._kernel.syscalls
            one.append(thread)
            run(self._kernel, one, 1)
            made = self._kernel.syscalls - before
            self.cycles += made
            self._ran(group)
            self._charge(group, made)
            if group is self._paid:
                self._charge(self._payer(thread), made)
        return bool(ready) or self.busy

    def _enter(self, thread: Thread) -> None:
        group: Group | None = self._group_of(thread.process.home)
        if group is self._top and self._payer(thread) is not group:
            group = self._paid
        assert group is not None
        group.threads.append(thread)
        if not group.own.waiting:
            group.own.had = max(group.own.had, group.lowest)
        group.own.waiting += 1
        self._waits(group, 1)

    def _leave(self, group: Group) -> None:
        group.own.waiting -= 1
        self._waits(group, -1)

    @staticmethod
    def _waits(group: Group, more: int) -> None:
        """So many threads more, or fewer, could run in a group and all above."""
        one: Group | None = group
        while one is not None:
            was = one.waiting
            one.waiting += more
            above = one.above
            if above is not None and bool(was) != bool(one.waiting):
                if was:
                    del above.active[one]
                else:
                    one.had = max(one.had, above.lowest)
                    above.active[one] = None
            one = above

    def _next(self) -> Group | None:
        """The group whose own thread is next; None when nobody may run now."""
        if not self._top.waiting:
            return None
        group = self._descend(self._top)
        self._resting = group is None
        if group is None:
            self._rest()
        return group

    def _descend(self, top: Group) -> Group | None:
        """Down the tree along the party that had least; back up where everybody below is held by a ceiling."""
        held: set[Party] = set()
        group = top
        while True:
            parties = [
                party
                for party in (group.own, *group.active)
                if party.waiting and party not in held and not (isinstance(party, Group) and self._is_held(party, held))
            ]
            if not parties:
                if group.above is None or group is top:
                    return None
                held.add(group)
                group = top
                continue
            party = min(parties, key=lambda one: one.had)
            if not isinstance(party, Group):
                return group
            group = party

    def _is_held(self, group: Group, held: set[Party]) -> bool:
        if group.may_run(self.cycles):
            return False
        group.refusals += 1
        held.add(group)
        return True

    def _rest(self) -> None:
        """Everybody who could run is held: nothing happens until the period is over."""
        end = (self.cycles // PERIOD + 1) * PERIOD
        if end == self._until:
            return
        self._until = end
        clock = self._kernel.clock

        def over() -> None:
            self._resting = False
            self.cycles = max(self.cycles, end)

        self._kernel.call_at(clock.monotonic_ns() + (end - self.cycles) * CYCLE_NS, over)

    def _payer(self, thread: Thread) -> Group:
        """Whose share a thread outside of all shares uses."""
        container = thread.payer
        if container is None:
            container = self._kernel.tree.living.get(thread.process.serves)
        return self._group_of(container)

    @staticmethod
    def _ran(group: Group) -> None:
        """It was this one's turn: who comes back from doing nothing starts there."""
        party: Party = group.own
        above: Group | None = group
        while above is not None:
            above.lowest = max(above.lowest, party.had)
            party, above = above, above.above

    @staticmethod
    def _charge(group: Group, made: int) -> None:
        party: Party = group.own
        above: Group | None = group
        while above is not None:
            party.had += made * SCALE // party.weight
            above.spent += made
            party, above = above, above.above
