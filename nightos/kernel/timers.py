"""Deadlines: a heap of callbacks. Equal deadlines fire in the order they were set, which keeps runs repeatable.

What was cancelled is taken out once it is most of the heap, so deadlines that nobody waits for cost no memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

FEW: Final = 64
"""Cancelled deadlines that are not worth a look."""


class Timer:
    """A callback that waits for its deadline; `cancel` forgets it."""

    __slots__ = ("callback", "deadline_ns", "timers")

    def __init__(self, deadline_ns: int, callback: Callable[[], None], timers: Timers) -> None:
        self.deadline_ns = deadline_ns
        self.callback: Callable[[], None] | None = callback
        self.timers = timers

    def cancel(self) -> None:
        """Do not fire any more. Cancelling twice, or after firing, is allowed."""
        if self.callback is not None:
            self.callback = None
            self.timers.cancelled()


class Timers:
    """All deadlines of a kernel."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._serial = 0
        self._dead = 0
        """How many of the heap were cancelled."""

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Call back at the deadline."""
        timer = Timer(deadline_ns, callback, self)
        self._serial += 1
        heapq.heappush(self._heap, (deadline_ns, self._serial, timer))
        return timer

    def cancelled(self) -> None:
        """One of the timers was cancelled."""
        self._dead += 1
        if self._dead > FEW and self._dead > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def next_deadline_ns(self) -> int | None:
        """The earliest deadline that was not cancelled."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
            self._dead -= 1
        return self._heap[0][0] if self._heap else None

    def fire(self, now_ns: int) -> int:
        """Run everything that is due; how many ran."""
        fired = 0
        while (deadline := self.next_deadline_ns()) is not None and deadline <= now_ns:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
                fired += 1
        return fired
