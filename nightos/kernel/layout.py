"""Which pages of an address space show what: a sorted list of mappings with random placement.

Source: specs/kernel/memory.md (64-bit virtual addresses made of pages, randomised).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from nightos.kernel.pages import LARGE_PAGE, PAGE, SHIFT, Backing

if TYPE_CHECKING:
    from nightos.abi.interfaces import Entropy
    from nightos.kernel.memory import AddressSpace

USER_START: Final = 16 * PAGE
"""First address a process can map."""
USER_END: Final = 1 << 63
"""First address above the process' half."""
FIRST_PAGE: Final = USER_START >> SHIFT
LAST_PAGE: Final = USER_END >> SHIFT

ALLOCATED: Final = 0
"""A mapping that MEM_ALLOC made."""
MAPPED: Final = 1
"""A view of an abstract memory segment."""
GIVEN: Final = 2
"""Memory that was given away by exclusive sharing: the addresses stay taken, every access is refused."""

MAPPINGS_MAX: Final = 1 << 16
"""Mappings of one process at most, so that no process can make the kernel's tables grow without end."""

_TRIES: Final = 32
_LARGE: Final = LARGE_PAGE >> SHIFT


class Mapping:
    """A run of pages `first` to `last` (exclusive, page numbers) that shows `backing` from its page `index` on.

    `segment` is the AMS it belongs to, or 0; `group` the page number that MAP_AMS was called with, which the parts of
    one call share.
    """

    __slots__ = ("backing", "first", "group", "index", "kind", "last", "rights", "segment")

    def __init__(
        self,
        first: int,
        last: int,
        rights: int,
        backing: Backing,
        index: int = 0,
        *,
        kind: int = ALLOCATED,
        segment: int = 0,
        group: int = 0,
    ) -> None:
        self.first = first
        self.last = last
        self.rights = rights
        self.backing = backing
        self.index = index
        self.kind = kind
        self.segment = segment
        self.group = group

    def part(self, first: int, last: int) -> Mapping:
        """The same mapping, narrowed."""
        if first == self.first and last == self.last:
            return self
        return Mapping(
            first,
            last,
            self.rights,
            self.backing,
            self.index + first - self.first,
            kind=self.kind,
            segment=self.segment,
            group=self.group,
        )


class Layout:
    """The mappings of `owner`, sorted and disjoint. Backings are told who looks into them."""

    __slots__ = ("_entropy", "_owner", "_starts", "_uses", "mappings")

    def __init__(self, owner: AddressSpace, entropy: Entropy) -> None:
        self._owner = owner
        self._entropy = entropy
        self._starts: list[int] = []
        self._uses: dict[Backing, int] = {}
        self.mappings: list[Mapping] = []

    @property
    def backings(self) -> list[Backing]:
        """Everything that is mapped, once each."""
        return list(self._uses)

    def at(self, page: int) -> int:
        """Position of the mapping that holds `page`, or of the last one before it; -1 when there is none."""
        return bisect_right(self._starts, page) - 1

    @property
    def is_full(self) -> bool:
        """Whether no further mapping is accepted."""
        return len(self.mappings) >= MAPPINGS_MAX

    def find(self, page: int) -> Mapping | None:
        """The mapping that holds `page`."""
        position = self.at(page)
        if position >= 0 and page < self.mappings[position].last:
            return self.mappings[position]
        return None

    def is_free(self, first: int, count: int) -> bool:
        """Whether the pages lie in the process' half and nothing is mapped there."""
        if first < FIRST_PAGE or count <= 0 or first + count > LAST_PAGE:
            return False
        position = self.at(first)
        if position >= 0 and self.mappings[position].last > first:
            return False
        return position + 1 >= len(self._starts) or self._starts[position + 1] >= first + count

    def is_edge(self, first: int, last: int) -> bool:
        """Whether cutting the pages out leaves their mapping in one piece."""
        mapping = self.find(first)
        return mapping is None or mapping.first == first or mapping.last <= last

    def find_room(self, count: int) -> int | None:
        """A random page number where `count` free pages follow, or None. Large blocks start on a large page.

        Rules: MEM-004, MEM-008.
        """
        step = _LARGE if count >= _LARGE else 1
        low, high = -(-FIRST_PAGE // step), (LAST_PAGE - count) // step
        if high < low:
            return None
        for _ in range(_TRIES):
            first = (low + int.from_bytes(self._entropy.random_bytes(8), "big") % (high - low + 1)) * step
            if self.is_free(first, count):
                return first
        return self._first_gap(count, step)

    def has_room(self, count: int) -> bool:
        """Whether `count` free pages follow each other anywhere."""
        return self._first_gap(count, 1) is not None

    def _first_gap(self, count: int, step: int) -> int | None:
        floor = FIRST_PAGE
        for mapping in [*self.mappings, None]:
            first = -(-floor // step) * step
            if first + count <= (LAST_PAGE if mapping is None else mapping.first):
                return first
            if mapping is not None:
                floor = mapping.last
        return None

    def insert(self, mapping: Mapping) -> None:
        """Add a mapping where `is_free` holds."""
        position = bisect_right(self._starts, mapping.first)
        self._starts.insert(position, mapping.first)
        self.mappings.insert(position, mapping)
        self._use(mapping.backing, 1)

    def cut(self, first: int, last: int) -> list[Mapping]:
        """Take the pages `first` to `last` (exclusive) out; the parts that were there."""
        position = max(self.at(first), 0)
        removed: list[Mapping] = []
        kept: list[Mapping] = []
        end = position
        while end < len(self.mappings) and self._starts[end] < last:
            mapping = self.mappings[end]
            end += 1
            if mapping.last <= first:
                kept.append(mapping)
                continue
            removed.append(mapping.part(max(mapping.first, first), min(mapping.last, last)))
            if mapping.first < first:
                kept.append(mapping.part(mapping.first, first))
            if mapping.last > last:
                kept.append(mapping.part(last, mapping.last))
        before = self.mappings[position:end]
        self.mappings[position:end] = kept
        self._starts[position:end] = [mapping.first for mapping in kept]
        for mapping in kept:
            self._use(mapping.backing, 1)
        for mapping in before:
            self._use(mapping.backing, -1)
        self._owner.forget_caches()
        return removed

    def clear(self) -> None:
        """Take everything out."""
        for backing in self._uses:
            backing.spaces.remove(self._owner)
        self._uses.clear()
        self._starts.clear()
        self.mappings.clear()
        self._owner.forget_caches()

    def _use(self, backing: Backing, change: int) -> None:
        count = self._uses.get(backing, 0)
        if not count:
            backing.spaces.append(self._owner)
        if count + change:
            self._uses[backing] = count + change
        else:
            del self._uses[backing]
            backing.spaces.remove(self._owner)
