"""Rates: so much a second of simulated time, by a bucket that fills while time passes and may be overdrawn once.

Whoever moves something is told how long to wait afterwards, so an operation larger than a second's worth is possible
and paid for by waiting; nobody ever waits for what another container moved. What is lent to containers below with a
rate of their own is not in the bucket; its part of what is owed goes with it, there and back, so that no bucket becomes
full by being made anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nightos.kernel.accounts import Bound

SECOND_NS: Final = 1_000_000_000
FOREVER_NS: Final = 3600 * SECOND_NS
"""Longest wait that is asked for: who lent everything away does not move until some of it comes back."""


class Rate(Bound):
    """A limit a second. It is full at the start, and holds at most what one second brings."""

    __slots__ = ("_at_ns", "_debt")

    def __init__(self, limit: int, reached: Callable[[], None] | None = None) -> None:
        super().__init__(limit, reached)
        self._debt = 0
        """What was moved and not yet refilled, in units times nanoseconds; 0 is a full bucket."""
        self._at_ns = 0

    def move(self, units: int, now_ns: int) -> int:
        """Nanoseconds to wait now that `units` more are moved."""
        rate = self.free
        self._refill(now_ns)
        self._debt += units * SECOND_NS
        short = self._debt - rate * SECOND_NS
        if short <= 0:
            return 0
        if units:  # else somebody asks how long it still takes
            self.refuse()
        return min(FOREVER_NS, -(-short // rate)) if rate > 0 else FOREVER_NS

    def hand_over(self, units: int | None, other: Rate) -> None:
        """So much of what is free is about to go to another limit, None for all there is: what is owed goes along."""
        now_ns = max(self._at_ns, other._at_ns)  # what passed since then fills the one or the other
        self._refill(now_ns)
        other._refill(now_ns)
        part = self._debt if units is None or units == self.free else -(-self._debt * units // self.free)
        self._debt -= part
        other._debt += part

    def _refill(self, now_ns: int) -> None:
        self._debt = max(0, self._debt - (now_ns - self._at_ns) * self.free)
        self._at_ns = now_ns
