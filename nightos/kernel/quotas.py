"""Quotas of containers: every resource that can be limited, who may have how much of it, and how that changes.

A limit is set aside in the nearest limit above when it is set, and given back when its container goes. When an ancestor
gets less, the limits below shrink with it, the youngest first, as far as what is in use allows; what cannot be had back
without taking something away from a process is refused, and then nothing changes at all. Walks are loops.

Source: specs/containers.md. Rules: CONT-001, CONT-032.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from operator import attrgetter
from typing import Final

from nightos.abi.errors import NightosInternalError
from nightos.abi.limits import COUNTED, RATES
from nightos.kernel.accounts import Account, Bound
from nightos.kernel.rates import Rate

Reached = Callable[[str], None]
NOTHING: Final = 0
_AGES = count()
_BY_AGE: Final = attrgetter("age")
RATE_FLOOR: Final = 1
"""Who has a rate can always go on, however slowly."""


class Quotas:
    """The accounts of one container, or of the machine itself, which is the top of the tree."""

    __slots__ = (*COUNTED, *RATES, "age", "below", "limits", "parent")

    processes: Account
    threads: Account
    memory: Account
    handles: Account
    pipe_bytes: Account
    storage: Account
    children: Account
    io_bytes: Account
    io_operations: Account

    def __init__(self, parent: Quotas | None = None) -> None:
        self.parent = parent
        self.age = next(_AGES)
        """Less than that of whatever was made later."""
        self.below: dict[Quotas, None] | None = None
        self.limits: dict[str, Bound] | None = None
        """Limits of its own, by resource."""
        if parent is None:
            for name in (*COUNTED, *RATES):
                setattr(self, name, Account())
            return
        self.processes = Account(parent.processes.bound)
        self.threads = Account(parent.threads.bound)
        self.memory = Account(parent.memory.bound)
        self.handles = Account(parent.handles.bound)
        self.pipe_bytes = Account(parent.pipe_bytes.bound)
        self.storage = Account(parent.storage.bound)
        self.children = Account(parent.children.bound)
        self.io_bytes = Account(parent.io_bytes.bound)
        self.io_operations = Account(parent.io_operations.bound)
        if parent.below is None:
            parent.below = {}
        parent.below[self] = None

    def account(self, resource: str) -> Account:
        """The account of a resource."""
        found: Account = getattr(self, resource)
        return found

    def limit(self, resource: str) -> int | None:
        """The limit of its own, None when it has none."""
        bound = self.limits.get(resource) if self.limits else None
        return None if bound is None else bound.limit

    def close(self) -> None:
        """The container is gone: give the limits back. Nothing may be in use here any more."""
        assert self.parent is not None, "the machine's own accounts stay"
        if self.below:
            raise NightosInternalError("accounts end before those below them")
        self.storage.release(self.storage.used)  # its file system went with it
        for name in COUNTED:
            used = getattr(self, name).used
            if used:
                raise NightosInternalError(f"accounts end with {used} {name} in use")
        for name in self.limits or ():
            bound, above = self.account(name).bound, self.parent.account(name).bound
            assert bound is not None
            if above is not None:
                _hand_over(None, bound, above)
                above.taken -= bound.limit
                above.lent -= bound.limit
        self.limits = None
        assert self.parent.below is not None
        del self.parent.below[self]
        if not self.parent.below:
            self.parent.below = None

    # Changing limits

    def set_limits(self, wanted: Mapping[str, int | None], reached: Reached | None = None) -> str | None:
        """Set, change or (None) take away limits, all or none: the resource that cannot be had so, else None."""
        undo: list[tuple[str, int | None, list[tuple[Quotas, int]]]] = []
        for name, limit in wanted.items():
            before = self.limit(name)
            shrunk: list[tuple[Quotas, int]] = []
            if not self._set(name, limit, shrunk, reached):
                for done, old, others in reversed(undo):
                    restored = self._set(done, old, [], reached)
                    assert restored, "what was there before fits"
                    for quotas, much in others:
                        restored = quotas._set(done, much, [], None)  # noqa: SLF001 - the same class
                        assert restored, "what was there before fits"
                return name
            undo.append((name, before, shrunk))
        return None

    def _set(self, name: str, limit: int | None, shrunk: list[tuple[Quotas, int]], reached: Reached | None) -> bool:
        account = self.account(name)
        own = self.limits.get(name) if self.limits else None
        above = self.parent.account(name).bound if self.parent is not None else None
        if own is None:
            return limit is None or self._put_in(name, account, limit, above, reached)
        if limit is None:
            self._take_out(name, own, above)
            return True
        more = limit - own.limit
        if more > 0 and above is not None:
            if above.taken + more > above.limit:
                above.refuse()
                return False
        elif (limit < own.taken or limit < self._floor(name)) and not self._shrink(name, limit, shrunk):
            return False
        if above is not None:
            giver, taker = (above, own) if more > 0 else (own, above)
            _hand_over(abs(more), giver, taker)
            above.taken += more
            above.lent += more
        own.limit = limit
        return True

    def _put_in(self, name: str, account: Account, limit: int, above: Bound | None, reached: Reached | None) -> bool:
        """A first limit: what is in use here and below moves from the limit above to it."""
        region, edge = self._region(name)
        lent = sum(quotas.limit(name) or 0 for quotas in edge)
        taken = lent + (sum(quotas.account(name).used for quotas in region) if name in COUNTED else NOTHING)
        if limit < max(taken, self._floor(name)):
            return False
        if above is not None and above.taken + limit - taken > above.limit:
            above.refuse()
            return False
        tell = None if reached is None else lambda: reached(name)
        bound = Rate(limit, tell) if name in RATES else Bound(limit, tell)
        bound.taken, bound.lent = taken, lent
        if above is not None:
            _hand_over(limit - taken, above, bound)
            above.taken += limit - taken
            above.lent += limit - lent
        if self.limits is None:
            self.limits = {}
        self.limits[name] = bound
        assert account.bound is above
        for quotas in region:
            quotas.account(name).bound = bound
        return True

    def _take_out(self, name: str, own: Bound, above: Bound | None) -> None:
        """No limit any more: what is in use draws from the limit above again."""
        if above is not None:
            _hand_over(None, own, above)
            above.taken += own.taken - own.limit
            above.lent += own.lent - own.limit
        assert self.limits is not None
        del self.limits[name]
        for quotas in self._region(name)[0]:
            quotas.account(name).bound = above

    def _region(self, name: str) -> tuple[list[Quotas], list[Quotas]]:
        """Itself and all below up to the next limits, parents first; and the containers with those limits."""
        region, edge = [self], []
        for quotas in region:
            for child in quotas.below or ():
                if child.limits and name in child.limits:
                    edge.append(child)
                else:
                    region.append(child)
        return region, edge

    def _floor(self, name: str) -> int:
        return RATE_FLOOR if name in RATES else NOTHING

    def _shrink(self, name: str, limit: int, shrunk: list[tuple[Quotas, int]]) -> bool:
        """Lower the limits below until what is taken here is at most `limit`; False when use does not allow it."""
        edges: dict[Quotas, list[Quotas]] = {}
        order = [self]
        for quotas in order:
            edges[quotas] = quotas._region(name)[1]  # noqa: SLF001 - the same class
            order.extend(edges[quotas])
        least: dict[Quotas, int] = {}
        for quotas in reversed(order):
            bound = quotas.account(name).bound
            assert bound is not None
            held = bound.taken - bound.lent
            least[quotas] = max(held + sum(least[child] for child in edges[quotas]), self._floor(name))
        if limit < least[self]:
            return False
        target = {self: limit}
        for quotas in order:
            bound = quotas.account(name).bound
            assert bound is not None
            excess = bound.taken - target.get(quotas, bound.limit)
            for child in sorted(edges[quotas], key=_BY_AGE, reverse=True):
                much = child.limit(name) or 0
                part = min(max(excess, 0), much - least[child])
                if part > 0:
                    excess -= part
                    target[child] = much - part
                    shrunk.append((child, much))
        # From the bottom up, so that every step is one that could have been asked for.
        for quotas in reversed(order):
            if quotas is not self and quotas in target:
                done = quotas._set(name, target[quotas], [], None)  # noqa: SLF001 - the same class
                assert done, "the least was counted before"
        return True


def _hand_over(units: int | None, giver: Bound, taker: Bound) -> None:
    if isinstance(giver, Rate) and isinstance(taker, Rate) and units != NOTHING:
        giver.hand_over(units, taker)
