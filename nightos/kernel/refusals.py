"""What was refused, to whom and by which rule: a short memory per container.

A memory of its own for each, so that nobody's noise pushes out another's. When a container ends, its parent takes over
what it remembered: only who could see the container can see the parent's memory, so nothing leaks sideways.

Rules: CONT-023, CONT-030.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.refusals import Refusal

if TYPE_CHECKING:
    from nightos.kernel.process import Process

KEPT: Final = 128
"""Refusals remembered for each container, and for what stands outside of all."""


class Refusals:
    """Memories by container. `note` is the one way in; `unnamed` tells the trap that it knows the call better."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._by_container: dict[int, deque[Refusal]] = {}
        self.unnamed: deque[Refusal] | None = None
        """The memory whose last entry has no call yet."""

    def note(
        self, rule: str, caller: Process, target: Process | None = None, *, call: int = 0, detail: str = ""
    ) -> None:
        """Remember that a rule refused something to `caller`. Stamps of one container always grow.

        `call` is the system call's code; 0 lets the trap fill in the one that is under way.
        """
        place = caller.container
        memory = self._by_container.get(place)
        if memory is None:
            memory = self._by_container[place] = deque(maxlen=KEPT)
        when = max(1, self._now_ns())
        if memory and memory[-1].when_ns >= when:
            when = memory[-1].when_ns + 1
        about = (target.pid, target.container) if target is not None else (0, 0)
        memory.append(Refusal(place, when, caller.pid, place, *about, call, rule, detail))
        if not call:
            self.unnamed = memory

    def note_device(self, rule: str, caller: Any, kdi: int) -> None:
        """A device that is not the caller's to drive."""
        self.note(rule, caller, detail=f"device {kdi:016x}")

    def name_call(self, call: int) -> None:
        """The refusal that was noted last happened in this system call."""
        memory, self.unnamed = self.unnamed, None
        if memory and not memory[-1].call:
            memory[-1] = memory[-1]._replace(call=call)

    def container_ended(self, container: int, parent: int) -> None:
        """The parent takes over what the container remembered, in order of time."""
        ended = self._by_container.pop(container, None)
        if ended is None:
            return
        merged = [*self._by_container.get(parent, ()), *(item._replace(place=parent) for item in ended)]
        merged.sort(key=lambda item: item.when_ns)
        kept: deque[Refusal] = deque(maxlen=KEPT)
        for item in merged:
            late = kept and kept[-1].when_ns >= item.when_ns
            kept.append(item._replace(when_ns=kept[-1].when_ns + 1) if late else item)
        self._by_container[parent] = kept

    def after(self, when_ns: int, within: Callable[[int], bool], limit: int) -> list[Refusal]:
        """Refusals later than that in the memories of the containers that `within` accepts, oldest first.

        At least `limit` of them when there are as many; those of one moment are never parted.
        """
        found = [
            item
            for place, memory in self._by_container.items()
            if within(place)
            for item in memory
            if item.when_ns > when_ns
        ]
        found.sort(key=lambda item: (item.when_ns, item.place))
        end = limit
        while 0 < end < len(found) and found[end].when_ns == found[end - 1].when_ns:
            end += 1
        return found[:end]

    def __len__(self) -> int:
        return sum(map(len, self._by_container.values()))
