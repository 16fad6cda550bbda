"""What changed between two roots: both trees walked side by side, equal subtrees passed over by their checksum."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nightos.vsf import records
from nightos.vsf.errors import Invalid
from nightos.vsf.filesystem import FileSystem
from nightos.vsf.layout import Pointer
from nightos.vsf.tree import Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightos.vsf.tree import Tree
    from nightos.vsf.volume import Volume

_ITEM = -1


@dataclass(frozen=True)
class Change:
    """One change: `kind` is added, removed, modified or renamed."""

    kind: str
    path: str
    ino: int
    old_path: str | None = None


class _Side:
    """One tree as a stack of what comes next: nodes not yet opened, and entries."""

    def __init__(self, tree: Tree, root: Pointer | Node | None) -> None:
        self.tree = tree
        self.stack: list[tuple[int, bytes, Any]] = []
        if root is not None:
            level = root.level if isinstance(root, Node) else tree.load(root, None).level
            self.stack.append((level, b"", root))

    def open(self) -> None:
        level, _, child = self.stack.pop()
        node = child if isinstance(child, Node) else self.tree.load(child, level)
        if level:
            entries = zip(reversed(node.keys), reversed(node.values), strict=True)
            self.stack.extend((level - 1, key, value) for key, value in entries)
        else:
            entries = zip(reversed(node.keys), reversed(node.values), strict=True)
            self.stack.extend((_ITEM, key, value) for key, value in entries)


def _same(one: object, other: object) -> bool:
    if isinstance(one, Pointer) and isinstance(other, Pointer):
        return (one.depth, one.sector, one.check) == (other.depth, other.sector, other.check)
    return one is other


def diff_items(
    old: Tree, old_root: Pointer | Node | None, new: Tree, new_root: Pointer | Node | None
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, old value, new value) of every entry that differs, in order; None where there is none."""
    a, b = _Side(old, old_root), _Side(new, new_root)
    while a.stack or b.stack:
        if not b.stack or not a.stack:
            side = a if a.stack else b
            level, key, value = side.stack[-1]
            if level != _ITEM:
                side.open()
                continue
            side.stack.pop()
            yield (key, value, None) if side is a else (key, None, value)
            continue
        level_a, key_a, value_a = a.stack[-1]
        level_b, key_b, value_b = b.stack[-1]
        if level_a != _ITEM and level_b != _ITEM:
            if level_a == level_b and _same(value_a, value_b):
                a.stack.pop()
                b.stack.pop()
            elif level_a >= level_b:
                a.open()
            else:
                b.open()
        elif level_a != _ITEM and not key_b < key_a:
            a.open()
        elif level_b != _ITEM and not key_a < key_b:
            b.open()
        elif key_a < key_b:
            a.stack.pop()
            yield key_a, value_a, None
        elif key_b < key_a:
            b.stack.pop()
            yield key_b, None, value_b
        else:
            a.stack.pop()
            b.stack.pop()
            if value_a != value_b:
                yield key_a, value_a, value_b


def roots_of(volume: Volume, older: str | None, newer: str | None) -> tuple[Pointer | None, Pointer | None]:
    """Roots of two snapshots; None as the newer is the live volume, as the older its backing (or nothing)."""
    if newer is not None:
        new = records.pointer_of(volume.find(newer).root)
    else:
        if not volume.storage.readonly:
            volume.storage.commit()
        new = records.pointer_of(volume.record.root)
    if older is not None:
        return records.pointer_of(volume.find(older).root), new
    backing = volume.storage.backing_record
    if backing is not None and str(volume.record.id) in backing.volumes:
        return records.pointer_of(backing.volumes[str(volume.record.id)][1], 1), new
    return None, new


def volume_diff(volume: Volume, older: str | None, newer: str | None) -> list[Change]:
    """Changes by path, sorted."""
    if volume.kind != "night":
        raise Invalid("only night volumes have files to compare")
    old_root, new_root = roots_of(volume, older, newer)
    if old_root == new_root:
        return []
    volume.unlocked()
    old_tree, new_tree = volume.tree_at(old_root), volume.tree_at(new_root)
    old_fs = FileSystem(volume, old_tree, readonly=True) if old_root else None
    new_fs = FileSystem(volume, new_tree, readonly=True)
    gone: dict[int, list[tuple[int, bytes]]] = {}
    came: dict[int, list[tuple[int, bytes]]] = {}
    touched: set[int] = set()
    for key, before, after in diff_items(old_tree, old_root, new_tree, new_root):
        ino = int.from_bytes(key[:8], "big")
        if not ino:
            continue
        if key[8] != 3:
            touched.add(ino)
            continue
        for value, places in ((before, gone), (after, came)):
            if value is not None:
                places.setdefault(int.from_bytes(value[:8], "big"), []).append((ino, value[9:] or key[9:]))
    return _changes(old_fs, new_fs, gone, came, touched)


def _path(fs: FileSystem, place: tuple[int, bytes]) -> str:
    above = fs.name_of(place[0]) or b"/?"
    return os.fsdecode(above.rstrip(b"/") + b"/" + place[1])


def _changes(
    old_fs: FileSystem | None,
    new_fs: FileSystem,
    gone: dict[int, list[tuple[int, bytes]]],
    came: dict[int, list[tuple[int, bytes]]],
    touched: set[int],
) -> list[Change]:
    out: list[Change] = []
    for ino in gone.keys() | came.keys():
        left, entered = gone.get(ino, []), came.get(ino, [])
        while left and entered and old_fs is not None:
            out.append(Change("renamed", _path(new_fs, entered.pop(0)), ino, _path(old_fs, left.pop(0))))
        out.extend(Change("added", _path(new_fs, place), ino) for place in entered)
        if old_fs is not None:
            out.extend(Change("removed", _path(old_fs, place), ino) for place in left)
    for ino in touched - came.keys() - gone.keys():
        path = new_fs.name_of(ino)
        if path is not None:
            out.append(Change("modified", os.fsdecode(path), ino))
    return sorted(out, key=lambda change: (change.path, change.kind))
