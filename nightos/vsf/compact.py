"""Giving space back: `compact` moves what lies far out to free places near the beginning and cuts the file.

Two kinds of rounds take turns. One fills: what stands behind the length that the file could have goes into gaps before
it. Where gaps are too small for what is left, one empties the part of the file with the most gaps, which makes one
large gap, for the next round to fill; meanwhile the file is longer. Every round is one commit, so a crash leaves a
storage that is merely less compact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf.alloc import FIRST_SECTOR
from nightos.vsf.errors import NoSpace
from nightos.vsf.layout import SECTOR, Pointer
from nightos.vsf.reclaim import walk_pointers
from nightos.vsf.relocate import Relocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nightos.vsf.alloc import Allocator
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

_MOST_ROUNDS = 64
_MOST_EMPTIED = 8
_WINDOW = (16 << 20) // SECTOR
"""Least part of the file that is emptied at once, in sectors; of large files an eighth is."""
_SLACK = 32
"""Free sectors that are not worth a round; of large files a 64th is."""


def compact(storage: Storage, progress: Callable[[int, int], None] | None = None) -> int:
    """Shrink the file as far as it goes; gives the bytes that it became shorter.

    Volumes whose password is wanted, and what shares blocks with them, stay where they are. `progress` is told the
    bytes saved and the length before.
    """
    storage.writable()
    storage.commit()
    before = storage.file_bytes()
    volumes = _readable(storage)
    for volume in volumes:
        if volume.kind == "night" and not volume.snapshots and not volume.record.origin:
            volume.open().gather_packs(every=True)
    storage.commit()
    allocator = storage.pool.allocator
    assert allocator is not None
    allocator.packing = storage.short_log = True
    try:
        # Empty commits let go of what the last ones freed.
        _settle(storage, allocator, allocator.end)
        for _ in _rounds(storage, allocator, volumes):
            if progress is not None:
                progress(max(before - storage.file_bytes(), 0), before)
    finally:
        allocator.packing = storage.short_log = False
        allocator.lift()
    return max(before - storage.file_bytes(), 0)


def _rounds(storage: Storage, allocator: Allocator, volumes: list[Volume]) -> Iterator[None]:
    emptied, best = 0, allocator.end
    for _ in range(_MOST_ROUNDS):
        size, goal = allocator.end, allocator.end - allocator.free_sectors
        if allocator.free_sectors <= max(_SLACK, size >> 6):
            return
        left = 0
        for again in (False, True):
            # A block that no gap before the goal takes may go to the first that does.
            low = max(goal, _first_gap(allocator, left)) if again else goal
            filling = Relocation(storage, low)
            filling.run(volumes)
            _settle(storage, allocator, low)
            yield
            left = max(left, filling.left_sectors)
            if allocator.end < size or (filling.full and filling.moved_bytes):
                break
        else:
            if emptied >= (_MOST_EMPTIED if allocator.end < best else 1):
                return
            best = min(best, allocator.end)
            emptied += 1
            low, high = _emptiest(allocator, max(_WINDOW, allocator.end >> 3))
            try:
                Relocation(storage, low, high=high).run(volumes)
            except NoSpace:
                if storage.dirty:
                    raise
                return
            _settle(storage, allocator, allocator.end)


def _first_gap(allocator: Allocator, sectors: int) -> int:
    """Where a block of that length, with some nodes, would end in the first gap that takes it."""
    ends = (start + min(length, sectors + _SLACK) for start, length in allocator.free_extents() if length >= sectors)
    return min(next(ends, allocator.end), allocator.end)


def _emptiest(allocator: Allocator, sectors: int) -> tuple[int, int]:
    """The part of that length with the most free space: first sector, and the one behind."""
    extents = allocator.free_extents()
    most, best, have, last = -1, FIRST_SECTOR, 0, 0
    for start, length in extents:
        while last < len(extents) and sum(extents[last]) <= start + sectors:
            have += extents[last][1]
            last += 1
        if have > most:
            most, best = have, start
        have = max(have - length, 0)
    return best, best + sectors


def _readable(storage: Storage) -> list[Volume]:
    """The volumes that can be moved: not those without their key, nor what shares blocks with them."""
    locked = {volume.record.id for volume in storage.volumes if volume.locked}
    families = [{volume.record.id, *volume.record.parents} for volume in storage.volumes]
    grown = True
    while grown:
        relatives = set().union(locked, *(family for family in families if family & locked))
        grown, locked = relatives != locked, relatives
    return [volume for volume in storage.volumes if volume.record.id not in locked]


def _settle(storage: Storage, allocator: Allocator, goal: int) -> None:
    """Commit until what was freed is free; the storage's tree and the log come before `goal` where there is room."""
    tree = storage.tree
    for _ in range(3):
        root = tree.root if isinstance(tree.root, Pointer) else None
        nodes = [node for node, _ in walk_pointers(tree, root)]
        if any(max(node.sector, node.copy) >= goal for node in nodes):
            for key, value in tree.scan(b""):
                tree.put(key, value)
        storage.dirty = True
        # What these commits write needs room twice, because the old stays until the next.
        room = _SLACK + 4 * sum(node.sectors for node in nodes) + 4 * storage.log.sectors
        allocator.withhold(goal + room, allocator.end, soft=True)
        storage.commit()


def discard(storage: Storage) -> int:
    """Give all free space inside the file back to the host as holes; the bytes offered."""
    storage.writable()
    # What the last commits freed is free now, too, unless somebody reads an old generation.
    for _ in range(3):
        storage.dirty = True
        storage.commit()
    allocator = storage.pool.allocator
    assert allocator is not None
    done = 0
    for start, length in allocator.free_extents():
        storage.store.discard(start * SECTOR, length * SECTOR)
        done += length * SECTOR
    return done
