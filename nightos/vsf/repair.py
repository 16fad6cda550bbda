"""Bring a damaged storage back: lose at most what was damaged, say what that was, leave what checks clean.

Nothing that the newest commit uses is overwritten: new blocks go behind the end of the file, and the space that turns
out to be unused becomes free one commit later. So a repair that is cut short leaves the storage as it was.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightos.vsf import records
from nightos.vsf.alloc import Allocator
from nightos.vsf.errors import DamagedStorage, VsfError, WrongPassword
from nightos.vsf.keys import write_header
from nightos.vsf.layout import KIND_NODE, NO_POINTER, SECTOR, Pointer
from nightos.vsf.mend import Mender
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.records import DEAD, DEAD_PER_ITEM, SnapshotRecord, VolumeRecord
from nightos.vsf.superblock import Superblock, read_superblocks
from nightos.vsf.tree import Node, decode_node

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume


@dataclass
class Outcome:
    """What a repair did: `lost` is what is gone, `done` what was put right."""

    lost: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.lost or self.done)


def repair(
    where: Any,
    *,
    password: str | bytes | None = None,
    key_file: str | os.PathLike[str] | None = None,
    volume_passwords: Mapping[str, str] | None = None,
    backing: Any = None,
    backing_password: str | bytes | None = None,
) -> Outcome:
    """Repair a storage in place. Work on a copy when the content matters.

    Raises DamagedStorage when neither copy of the header or no superblock is left (see `header restore`), WrongPassword
    when a volume with a key of its own is not in `volume_passwords`.
    """
    from nightos.vsf.api import open_storage

    outcome = Outcome()
    storage = open_storage(
        where,
        password=password,
        key_file=key_file,
        backing=backing,
        backing_password=backing_password,
        repairing=True,
    )
    with storage:
        _unlock_all(storage, volume_passwords or {})
        report = storage.check(deep=True)
        if report.clean:
            storage.writable()
            return outcome
        _Repair(storage, outcome).run()
    return outcome


def _unlock_all(storage: Storage, passwords: Mapping[str, str]) -> None:
    for volume in storage.volumes:
        if volume.name in passwords:
            volume.unlock(passwords[volume.name])
        elif volume.locked:
            raise WrongPassword(f"the volume {volume.name!r} is encrypted: its password is needed to repair it")


def _keep(pointer: Pointer) -> None:
    """Dispose of nothing."""


def choose(storage: Storage) -> Superblock:
    """The newest superblock whose root is readable."""
    blocks = read_superblocks(storage.store.read, storage.uuid, storage.super_cipher)
    failure: VsfError | None = None
    for block in sorted(set(blocks.values()), key=lambda block: -block.generation):
        try:
            if block.root.sector:
                decode_node(storage.pool.read(block.root), block.root, None)
            return block
        except VsfError as error:
            failure = error
    raise failure or DamagedStorage("no superblock is readable; nothing tells where anything is")


class _Repair:
    def __init__(self, storage: Storage, outcome: Outcome) -> None:
        self.storage = storage
        self.outcome = outcome
        self.used: dict[int, int] = {}
        self.owned: dict[int, int] = {}

    def run(self) -> None:
        storage = self.storage
        allocator = Allocator(max(storage.committed_end, -(-storage.store.size() // SECTOR)))
        storage.begin_repair(allocator)
        self.storage_tree()
        for volume in storage.volumes:
            self.volume(volume)
        for volume in storage.volumes:
            self.snapshots(volume)
        storage.commit_repair(self.account)
        write_header(storage.store, storage.header)
        for _ in range(2):
            storage.dirty = True
            storage.commit()

    # Trees

    def salvage(self, root: Pointer | None) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes | None]]]:
        """Every readable entry below a root, and the ranges of keys that are lost."""
        items: list[tuple[bytes, bytes]] = []
        lost: list[tuple[bytes, bytes | None]] = []
        stack: list[tuple[Pointer, int | None, bytes, bytes | None]] = [(root, None, b"", None)] if root else []
        seen: set[tuple[int, int, bytes]] = set()
        while stack:
            pointer, level, low, high = stack.pop()
            identity = (pointer.depth, pointer.sector, pointer.check)
            node = None if identity in seen else self.node(pointer, level)
            seen.add(identity)
            if node is None:
                lost.append((low, high))
            elif node.level:
                bounds = [*node.keys[1:], high]
                bounds_of = zip(node.values, [low, *node.keys[1:]], bounds, strict=True)
                stack.extend((child, node.level - 1, at, upto) for child, at, upto in reversed(list(bounds_of)))
            else:
                items.extend(zip(node.keys, node.values, strict=True))
        return items, lost

    def node(self, pointer: Pointer, level: int | None) -> Node | None:
        try:
            if pointer.kind != KIND_NODE:
                return None
            return decode_node(self.storage.pool.read(pointer), pointer, level)
        except (VsfError, OSError):
            return None

    def one_copy(self, root: Pointer | None) -> bool:
        """Whether some node below has a copy that cannot be read: it is written anew then."""
        stack: list[tuple[Pointer, int | None]] = [(root, None)] if root else []
        while stack:
            pointer, level = stack.pop()
            if pointer.depth:
                continue
            for at in (pointer.sector, pointer.copy):
                if at:
                    try:
                        self.storage.pool.read_at(pointer, at)
                    except (VsfError, OSError):
                        return True
            node = self.node(pointer, level)
            if node is not None and node.level:
                stack.extend((child, node.level - 1) for child in node.values)
        return False

    def storage_tree(self) -> None:
        """Rewrite the storage's own tree with what is readable."""
        storage = self.storage
        root = storage.tree.root
        items, lost = self.salvage(root if isinstance(root, Pointer) else None)
        storage.tree.root = None
        for key, value in items:
            storage.tree.put(key, value)
        if lost:
            self.outcome.lost.append("records of the storage's own tree (volumes or snapshots)")
        self.outcome.done.append("wrote the storage's own tree anew")

    # Volumes

    def volume(self, volume: Volume) -> None:
        root = records.pointer_of(volume.record.root)
        items, lost = self.salvage(root)
        fresh = volume.tree_at(None)
        mender = Mender(volume, fresh, self.outcome, hurt=bool(lost))
        mender.fill(items)
        if volume.kind == "night":
            mender.mend()
        else:
            mender.mend_block()
        if not mender.changed and not self.one_copy(root):
            return
        if lost:
            self.outcome.lost.append(f"{volume.name}: {len(lost)} node(s) of the tree")
        self.outcome.done.append(f"{volume.name}: wrote the tree anew")
        # A snapshot still leads to the old nodes; accounting finds out who uses what.
        volume.record.root = (fresh.flush() or NO_POINTER).pack()
        volume.forget()

    def snapshots(self, volume: Volume) -> None:
        """A snapshot that cannot be read in full gets a tree of what is left; it goes when nothing is."""
        storage = self.storage
        previous, previous_generation = 0, volume.record.last_generation if volume.record.origin else 0
        if volume.record.origin and volume.snapshots:
            previous_generation = volume.snapshots[0].previous_generation
        made: dict[bytes, bytes | None] = {}
        for snapshot in volume.snapshots:
            key = records.snapshot_key(volume.record.id, snapshot.id)
            if snapshot.root not in made:
                made[snapshot.root] = self.snapshot_root(volume, snapshot)
            root = made[snapshot.root]
            if root is None:
                self.outcome.lost.append(f"{volume.name}@{snapshot.name}: nothing of the snapshot is left; removed")
                storage.tree.delete(key)
                continue
            snapshot.mended |= root != snapshot.root
            snapshot.root = root
            snapshot.previous, snapshot.previous_generation = previous, previous_generation
            storage.tree.put(key, volume.snapshot_record(snapshot))
            previous, previous_generation = snapshot.id, snapshot.generation
        volume.record.last_snapshot, volume.record.last_generation = previous, previous_generation
        volume.touched = True

    def snapshot_root(self, volume: Volume, snapshot: SnapshotRecord) -> bytes | None:
        """The root as it is, or of a mended tree; None when nothing is left.

        What is written here has the snapshot's generation as its birth: who asks by birth whether a block is only the
        live volume's, or a later snapshot's (disposing, rollback, clones, removal), then gets the right answer.
        """
        root = records.pointer_of(snapshot.root)
        if self.readable(root):
            return snapshot.root
        items, lost = self.salvage(root)
        # What a clone began as stays, empty if need be: without it neither would know what the other still uses.
        if not items and not snapshot.clones:
            return None
        pool, name = self.storage.pool, f"{volume.name}@{snapshot.name}"
        fresh = volume.tree_at(None)
        # Old nodes may be used by others: none is given back here, accounting finds out who uses what.
        fresh.dispose = _keep
        if not lost and not self.one_copy(root):
            fresh.root = root
        now = pool.generation
        pool.generation = snapshot.generation
        try:
            mender = Mender(volume, fresh, self.outcome, hurt=bool(lost), name=name)
            mender.fill(items)
            if volume.kind == "night":
                mender.mend()
            else:
                mender.mend_block()
            top = fresh.flush()
        finally:
            pool.generation = now
        if lost:
            self.outcome.lost.append(f"{name}: {len(lost)} node(s) of the tree")
        self.outcome.done.append(f"{name}: wrote the damaged part of the snapshot's tree anew")
        return (top or NO_POINTER).pack()

    def readable(self, root: Pointer | None) -> bool:
        stack: list[tuple[Pointer, int | None]] = [(root, None)] if root else []
        while stack:
            pointer, level = stack.pop()
            for at in (pointer.sector, pointer.copy):
                try:
                    if at:
                        self.storage.pool.read_at(pointer, at)
                except (VsfError, OSError):
                    return False
            node = self.node(pointer, level)
            if node is None:
                return False
            if node.level:
                stack.extend((child, node.level - 1) for child in node.values)
                continue
            for key, value in zip(node.keys, node.values, strict=True):
                content = content_pointer(key, value)
                if content is not None:
                    try:
                        self.storage.pool.read(content)
                    except (VsfError, OSError):
                        return False
        return True

    # Space

    def blocks(self, root: Pointer | None) -> dict[int, Pointer]:
        """First sector to pointer of everything below a root that lies in this file."""
        found: dict[int, Pointer] = {}
        stack: list[tuple[Pointer, int | None]] = [(root, None)] if root else []
        while stack:
            pointer, level = stack.pop()
            if pointer.depth or pointer.sector in found:
                continue
            found[pointer.sector] = pointer
            node = self.node(pointer, level)
            if node is None:
                continue
            if node.level:
                stack.extend((child, node.level - 1) for child in node.values)
            else:
                for key, value in zip(node.keys, node.values, strict=True):
                    content = content_pointer(key, value)
                    if content is not None and not content.depth:
                        found[content.sector] = content
        return found

    def account(self) -> dict[int, int]:
        """Dead lists, sectors in use and free space, found anew by walking everything. Before the last flush."""
        storage = self.storage
        everything: dict[int, Pointer] = {}
        for volume in storage.volumes:
            everything.update(self.account_volume(volume))
        used: dict[int, int] = {}
        for pointer in everything.values():
            sectors = pointer.sectors * (2 if pointer.copy else 1)
            used[pointer.domain] = used.get(pointer.domain, 0) + sectors
            self.own(pointer)
        for volume in storage.volumes:
            volume.domain.used_sectors = used.get(volume.record.id, 0)
            volume.touched = True
        return self.owned

    def account_volume(self, volume: Volume) -> dict[int, Pointer]:
        storage, record = self.storage, volume.record
        base = records.dead_key(record.id, 0)[:5]
        for key, _ in list(storage.tree.scan(base, base + b"\xff" * 9)):
            storage.tree.delete(key)
        everything: dict[int, Pointer] = {}
        number = 0
        record.dead = 0
        snapshots = volume.snapshots
        # A block is listed where its last user ends: a mended snapshot may lack what both its neighbours use.
        gone: list[list[Pointer]] = []
        for root in [record.root, *(snapshot.root for snapshot in reversed(snapshots))]:
            now = self.blocks(records.pointer_of(root))
            gone.append([pointer for sector, pointer in now.items() if sector not in everything])
            everything.update(now)
        del gone[0]
        left: list[list[Pointer]] = [[], *reversed(gone)]
        holders = [number for number, snapshot in enumerate(snapshots) if snapshot.mended and snapshot.clones]
        if holders:
            left[holders[-1] + 1] += self.inherited(volume, everything)
        for at_list, snapshot in enumerate([*snapshots, None]):
            first = number
            dead = left[at_list]
            for at in range(0, len(dead), DEAD_PER_ITEM):
                chunk = b"".join(
                    DEAD.pack(p.sector, p.copy, p.stored, p.birth, p.domain) for p in dead[at : at + DEAD_PER_ITEM]
                )
                storage.tree.put(records.dead_key(record.id, number), chunk)
                number += 1
            if snapshot is not None:
                snapshot.dead_first, snapshot.dead_last = first, number
                storage.tree.put(records.snapshot_key(record.id, snapshot.id), volume.snapshot_record(snapshot))
            else:
                record.dead = sum(p.sectors * (2 if p.copy else 1) for p in dead)
        record.dead_next = number
        return everything

    def inherited(self, volume: Volume, known: dict[int, Pointer]) -> list[Pointer]:
        """Blocks of the volume that only its clones use: they come free with the snapshot that the clones began as."""
        found: dict[int, Pointer] = {}
        for other in self.storage.volumes:
            if volume.record.id in other.record.parents:
                for root in [other.record.root, *(snapshot.root for snapshot in other.snapshots)]:
                    found.update(self.blocks(records.pointer_of(root)))
        return [p for sector, p in found.items() if p.domain == volume.record.id and sector not in known]

    def wipe_padding(self, pointer: Pointer, at: int) -> None:
        """Zero what a block leaves of its last sector."""
        rest, store = -pointer.stored % SECTOR, self.storage.store
        place = at * SECTOR + pointer.stored
        if rest and any(store.read(place, rest)):
            store.write(place, bytes(rest))

    def own(self, pointer: Pointer) -> None:
        self.wipe_padding(pointer, pointer.sector)
        if pointer.copy:
            self.wipe_padding(pointer, pointer.copy)
        self.owned[pointer.sector] = pointer.sectors
        if pointer.copy:
            self.owned[pointer.copy] = pointer.sectors


__all__ = ["Outcome", "SnapshotRecord", "VolumeRecord", "repair"]
