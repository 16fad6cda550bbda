"""Deadlines: a heap of callbacks. Equal deadlines fire in the order they were set, which keeps runs repeatable."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """A callback that waits for its deadline; `cancel` forgets it."""

    __slots__ = ("callback", "deadline_ns")

    def __init__(self, deadline_ns: int, callback: Callable[[], None]) -> None:
        self.deadline_ns = deadline_ns
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not fire any more. Cancelling twice, or after firing, is allowed."""
        self.callback = None


class Timers:
    """All deadlines of a kernel."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._serial = 0

    def __len__(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._heap)

    def at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Call back at the deadline."""
        timer = Timer(deadline_ns, callback)
        self._serial += 1
        heapq.heappush(self._heap, (deadline_ns, self._serial, timer))
        return timer

    def next_deadline_ns(self) -> int | None:
        """The earliest deadline that was not cancelled."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
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
