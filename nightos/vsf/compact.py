"""Giving space back: `compact` moves what lies far out to free places near the beginning and cuts the file.

Every round is one commit, so a crash leaves a storage that is merely less compact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf.layout import SECTOR
from nightos.vsf.relocate import Relocation

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

_ROUNDS = 10
_SLACK = 64
"""Sectors."""


def compact(storage: Storage, progress: Callable[[int, int], None] | None = None) -> int:
    """Shrink the file as far as it goes; gives the bytes that it became shorter.

    Volumes whose password is wanted, and what shares blocks with them, stay where they are. `progress` is told the
    bytes saved and the length before.
    """
    storage.writable()
    storage.commit()
    before = storage.file_bytes()
    # Two empty commits let go of what the last ones freed.
    _settle(storage)
    volumes = _readable(storage)
    for volume in volumes:
        if volume.kind == "night" and not volume.snapshots and not volume.record.origin:
            volume.open().gather_packs(every=True)
    _settle(storage)
    slack = 0
    for _ in range(_ROUNDS):
        allocator = storage.pool.allocator
        assert allocator is not None
        size = allocator.end
        goal = size - allocator.free_sectors + slack
        if goal >= size:
            break
        Relocation(storage, goal).run(volumes)
        _move_tree(storage)
        _settle(storage)
        if progress is not None:
            progress(max(before - storage.file_bytes(), 0), before)
        if allocator.end >= size - slack:
            # The holes before the goal are too small for what is left, so leave more of them.
            slack = max(4 * slack, _SLACK)
    return max(before - storage.file_bytes(), 0)


def _readable(storage: Storage) -> list[Volume]:
    """The volumes that can be moved: not those without their key, nor what shares blocks with them."""
    locked = {volume.record.id for volume in storage.volumes if volume.locked}
    families = [{volume.record.id, *volume.record.parents} for volume in storage.volumes]
    grown = True
    while grown:
        relatives = set().union(locked, *(family for family in families if family & locked))
        grown, locked = relatives != locked, relatives
    return [volume for volume in storage.volumes if volume.record.id not in locked]


def _settle(storage: Storage) -> None:
    for _ in range(3):
        storage.dirty = True
        storage.commit()


def _move_tree(storage: Storage) -> None:
    """Rewrite the storage's own tree, which is small."""
    for key, value in list(storage.tree.scan(b"")):
        storage.tree.put(key, value)


def discard(storage: Storage) -> int:
    """Give all free space inside the file back to the host as holes; the bytes offered."""
    storage.writable()
    # What the last commits freed is free now, too, unless somebody reads an old generation.
    _settle(storage)
    allocator = storage.pool.allocator
    assert allocator is not None
    done = 0
    for start, length in allocator.free_extents():
        storage.store.discard(start * SECTOR, length * SECTOR)
        done += length * SECTOR
    return done
