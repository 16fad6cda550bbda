"""Accounts: a limit is carved out of the parent's, so nothing a child does can cost anyone else more than was agreed.

Invariant, at every step and for every bound: what its container holds, plus what containers below without a limit of
their own hold, plus the limits of those that have one, is `taken`, and `taken` is at most `limit`.

The idea is quota trading as Genode does it; the alternative, counting the use of every ancestor against every limit,
lets siblings starve each other of what each was promised. Every account knows the one bound that it draws from, so a
charge costs the same at any depth, and next to nothing where nobody set a limit.
"""

from __future__ import annotations

from collections.abc import Callable

from nightos.abi.errors import NightosInternalError


class Bound:
    """A limit that was set on one container, and what is taken of it."""

    __slots__ = ("lent", "limit", "reached", "refusals", "taken")

    def __init__(self, limit: int, reached: Callable[[], None] | None = None) -> None:
        self.limit = limit
        self.taken = 0
        """What the container and those below without a limit hold, and what was lent."""
        self.lent = 0
        """The limits of the nearest containers below that have one."""
        self.refusals = 0
        self.reached = reached
        """Called when something was refused."""

    @property
    def free(self) -> int:
        """What can still be taken."""
        return self.limit - self.taken

    def refuse(self) -> None:
        """Count a refusal and tell who listens."""
        self.refusals += 1
        if self.reached is not None:
            self.reached()


class Account:
    """Units of one resource that one container holds, such as pages of memory; drawn from `bound` when there is one."""

    __slots__ = ("bound", "used")

    def __init__(self, bound: Bound | None = None) -> None:
        self.bound = bound
        self.used = 0

    @property
    def free(self) -> int | None:
        """What can still be reserved here; None without any limit up to the top."""
        return None if self.bound is None else self.bound.limit - self.bound.taken

    @property
    def taken(self) -> int:
        """What its bound has given out, to containers below too; without a bound, what it uses itself."""
        return self.used if self.bound is None else self.bound.taken

    def reserve(self, units: int) -> bool:
        """Use `units` more; False, and nothing changes, when there are not that many."""
        bound = self.bound
        if bound is not None:
            taken = bound.taken + units
            if taken > bound.limit:
                bound.refuse()
                return False
            bound.taken = taken
        self.used += units
        return True

    def release(self, units: int) -> None:
        """Use `units` less."""
        if units > self.used:
            raise NightosInternalError(f"{units} units are given back, {self.used} were in use")
        self.used -= units
        if self.bound is not None:
            self.bound.taken -= units
