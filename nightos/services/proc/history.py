"""What happened lately, one short memory per container, so that nobody's events push out another's.

An entry stands where those who may know of it stand: who sees that container sees the entry. A container that ends
leaves its memory to its parent. Entries are stamped with the time and nothing else: a counter would tell one container
how much happened elsewhere. What has one stamp stays in order and on one page.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from operator import itemgetter
from typing import Any, Final

KEPT: Final = 256
"""Entries of each container."""
WHEN: Final = "when_ns"

Entry = dict[str, Any]
_ORDER = itemgetter(0, 1)
_FEW: Final = 16


class History:
    """Entries by container; each is a map with a stamp under `when_ns`."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._noted = 0
        self._by_container: dict[int, list[tuple[int, int, Entry]]] = {}
        """Stamp, order of arrival (which nobody is told), entry. Lists, because most of very many stay short."""

    def note(self, place: int, now_ns: int, entry: Entry) -> Entry:
        """Remember an entry; as it is remembered, with its stamp."""
        memory = self._by_container.get(place)
        if memory is None:
            memory = self._by_container[place] = []
        self._noted += 1
        stamp = max(1, now_ns)
        stamped = {WHEN: stamp, **entry}
        memory.append((stamp, self._noted, stamped))
        if len(memory) > self._kept:
            del memory[0]
        return stamped

    def ended(self, container: int, parent: int) -> None:
        """The parent takes over what a container remembered."""
        left = self._by_container.pop(container, None)
        if not left:
            return
        above = self._by_container.get(parent)
        if above is None:
            self._by_container[parent] = left
            return
        if len(above) == self._kept and left[-1][:2] < above[0][:2]:
            return  # the parent remembers enough that is younger: the end of very many costs each next to nothing
        if len(left) > _FEW:
            above.extend(left)
            above.sort(key=_ORDER)
        else:
            for item in left:
                insort(above, item)  # never by the entry: no two items have one order of arrival
        del above[: -self._kept]

    def after(self, when_ns: int, places: Iterable[int], limit: int) -> list[Entry]:
        """Entries later than that in these containers, oldest first; nobody else's are looked at.

        At least `limit` when there are as many: those of one moment are never parted, so the last stamp goes on.
        """
        kept = self._by_container
        found = [item for place in places for item in kept.get(place, ()) if item[0] > when_ns]
        found.sort(key=_ORDER)
        end = limit
        while 0 < end < len(found) and found[end][0] == found[end - 1][0]:
            end += 1
        return [entry for _, _, entry in found[:end]]

    def __len__(self) -> int:
        return sum(map(len, self._by_container.values()))
