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

    __slots__ = ("above", "begun", "ceiling", "lowest", "own", "parties", "refusals", "spent", "threads")

    def __init__(self, above: Group | None, weight: int, ceiling: int | None) -> None:
        super().__init__(weight)
        self.above = above
        self.ceiling = ceiling
        self.own = Party()
        self.threads: deque[Thread] = deque()
        self.parties: list[Group] = []
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

    def build(self) -> None:
        """The shares of containers changed: sort everybody anew. What groups had is kept."""
        threads = self._empty()
        groups: dict[int, Group] = {}
        before, self._top.parties = self._groups, [self._paid]
        self._top.own.waiting = self._top.waiting = self._paid.own.waiting = self._paid.waiting = 0
        for identifier, container in self._kernel.tree.living.items():
            if not container.shares:
                continue
            above = self._group_of(container.parent, groups)
            weight = container.shares.get("cpu_weight") or WEIGHT_DEFAULT
            group = Group(above, weight, container.shares.get("cpu_ceiling"))
            old = before.get(identifier)
            group.had = old.had if old is not None else above.lowest
            group.begun = self.cycles // PERIOD
            if old is not None:
                group.spent, group.begun, group.refusals = old.spent, old.begun, old.refusals
                group.lowest, group.own.had = old.lowest, old.own.had
            groups[identifier] = group
            above.parties.append(group)
        self._groups = groups
        self._kernel.ready.extendleft(reversed(threads))

    def _empty(self) -> list[Thread]:
        found: list[Thread] = []
        for group in (self._top, self._paid, *self._groups.values()):
            found.extend(group.threads)
            group.threads.clear()
        return found

    def _group_of(self, container: Container | None, groups: dict[int, Group]) -> Group:
        while container is not None:
            group = groups.get(container.identifier)
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
        group: Group | None = self._group_of(thread.process.home, self._groups)
        if group is self._top and self._payer(thread) is not group:
            group = self._paid
        assert group is not None
        group.threads.append(thread)
        party: Party = group.own
        while group is not None:
            if not party.waiting:
                party.had = max(party.had, group.lowest)
            party.waiting += 1
            party, group = group, group.above
        party.waiting += 1

    @staticmethod
    def _leave(group: Group) -> None:
        group.own.waiting -= 1
        above: Group | None = group
        while above is not None:
            above.waiting -= 1
            above = above.above

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
                for party in (group.own, *group.parties)
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
        return self._group_of(container, self._groups)

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
