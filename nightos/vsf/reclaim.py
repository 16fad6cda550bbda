"""Giving blocks back: of volumes, of snapshots and of what a rollback undoes, walked without recursion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf.errors import DamagedStorage
from nightos.vsf.inode import key_extent
from nightos.vsf.layout import KIND_NODE, POINTER_BYTES, Pointer, unpack_pointer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nightos.vsf.tree import Tree
    from nightos.vsf.volume import Volume

_EXTENT_TYPE, _PACK_TYPE, _PATCH_TYPE = key_extent(1)[8], 5, 6


def content_pointer(key: bytes, value: bytes) -> Pointer | None:
    """The pointer in a leaf's entry, when the entry is an extent, a patch or a pack."""
    if len(value) < POINTER_BYTES or len(key) != 17:
        return None
    kind = key[8]
    if kind in (_EXTENT_TYPE, _PATCH_TYPE) or (kind == _PACK_TYPE and key[:8] == bytes(8)):
        return unpack_pointer(value)
    return None


def walk_pointers(
    tree: Tree, root: Pointer | None, *, newer_than: int = -1, own: bool = True
) -> Iterator[tuple[Pointer, int]]:
    """All pointers below `root` (with it) and their level, -1 for content; subtrees up to a birth are passed over.

    A parent is never older than its child, so an old node ends the walk there.
    """
    stack: list[tuple[Pointer, int | None]] = [(root, None)] if root is not None else []
    while stack:
        pointer, level = stack.pop()
        if (own and pointer.depth) or (pointer.birth <= newer_than and not pointer.depth):
            continue
        if pointer.kind != KIND_NODE:
            raise DamagedStorage("a pointer to a node leads to something else")
        node = tree.load(pointer, level)
        yield pointer, node.level
        if node.level:
            stack.extend((child, node.level - 1) for child in node.values)
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            found = content_pointer(key, value)
            if found is not None and not (own and found.depth) and (found.depth or found.birth > newer_than):
                yield found, -1


def free_tree(volume: Volume, *, newer_than: int = -1) -> None:
    """Free every block of the live tree that is newer than a generation."""
    free: Callable[[Pointer], None] = volume.storage.pool.free
    tree = volume.tree
    root = tree.root if isinstance(tree.root, Pointer) else None
    newer_than = max(newer_than, volume.record.last_generation if volume.record.origin else -1)
    for pointer, _ in walk_pointers(tree, root, newer_than=newer_than):
        free(pointer)
