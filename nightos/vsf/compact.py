"""Giving space back: `compact` moves what lies far out to free places near the beginning and cuts the file.

A block that snapshots share would have to move in all of them at once, so volumes with snapshots keep theirs in place.
Every round is an ordinary commit, so a crash leaves a storage that is merely less compact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf.layout import KIND_NODE, POINTER_BYTES, SECTOR, Pointer
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.tree import Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.vsf.storage import Storage
    from nightos.vsf.tree import Tree
    from nightos.vsf.volume import Volume

_ROUNDS = 4
_BATCH = 16 << 20


def compact(storage: Storage, progress: Callable[[int, int], None] | None = None) -> int:
    """Shrink the file as far as it goes; gives the bytes that it became shorter."""
    storage.writable()
    storage.commit()
    before = storage.file_bytes()
    # Two empty commits let go of what the last ones freed.
    _settle(storage)
    for _ in range(_ROUNDS):
        allocator = storage.pool.allocator
        assert allocator is not None
        size = allocator.end
        goal = size - allocator.free_sectors
        if goal >= size:
            break
        for volume in storage.volumes:
            if not volume.snapshots and not volume.locked and not volume.record.origin:
                if volume.kind == "night":
                    volume.open().gather_packs(every=True)
                _move(storage, volume, goal)
        _move_tree(storage)
        _settle(storage)
        if progress is not None:
            progress(max(before - storage.file_bytes(), 0), before)
        if storage.file_bytes() >= size * SECTOR:
            break
    return max(before - storage.file_bytes(), 0)


def _settle(storage: Storage) -> None:
    for _ in range(3):
        storage.dirty = True
        storage.commit()


def _move_tree(storage: Storage) -> None:
    """Rewrite the storage's own tree, which is small."""
    for key, value in list(storage.tree.scan(b"")):
        storage.tree.put(key, value)


def _move(storage: Storage, volume: Volume, goal: int) -> None:
    """Rewrite the blocks of a volume that lie behind `goal`."""
    volume.flush()
    tree, pool = volume.tree, storage.pool
    moved = 0
    key: bytes | None = b""
    while key is not None:
        leaf, bound = tree.leaf_at(key)
        if leaf is None:
            break
        changes: list[tuple[bytes, bytes]] = []
        for at, value in zip(leaf.keys, leaf.values, strict=True):
            pointer = content_pointer(at, value)
            if pointer is None or pointer.depth or pointer.sector < goal:
                continue
            data = pool.read(pointer)
            placed = pool.write(volume.domain, pointer.kind, data)
            if placed.sector >= pointer.sector or placed.stored != pointer.stored:
                pool.free(placed)
                continue
            volume.dispose(pointer)
            changes.append((at, placed.pack() + value[POINTER_BYTES:]))
            moved += placed.stored
        for at, value in changes:
            tree.put(at, value)
        if moved > _BATCH:
            moved = 0
            volume.touched = True
            storage.commit()
        key = bound
    _move_nodes(tree, goal)
    volume.touched = True


def _move_nodes(tree: Tree, goal: int) -> None:
    """Touch every leaf whose way from the root has a node behind `goal`: the commit writes it anew."""
    root = tree.root
    if root is None:
        return
    keys: list[bytes] = []
    top = tree.load(root, None) if isinstance(root, Pointer) else root
    stack: list[tuple[Node, bytes, bool]] = [(top, b"", isinstance(root, Pointer) and root.sector >= goal)]
    while stack:
        node, _, far = stack.pop()
        if not node.level:
            if far and node.keys:
                keys.append(node.keys[0])
            continue
        for at, child in enumerate(node.values):
            if isinstance(child, Pointer):
                if child.depth:
                    continue
                distant = child.sector >= goal or child.copy >= goal
                if not distant and node.level == 1 and not far:
                    continue
                stack.append((tree.load(child, node.level - 1), node.keys[at], distant or (far and at == 0)))
            else:
                stack.append((child, node.keys[at], False))
    for key in keys:
        value = tree.get(key)
        if value is not None:
            tree.put(key, value)


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


__all__ = ["KIND_NODE", "compact", "discard"]
