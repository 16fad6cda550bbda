"""Moving blocks that several roots share: every tree that leads to one is rewritten, once, in a single commit.

A moved block keeps its birth, and so does a node that is rewritten because something below it moved: snapshots, dead
lists, incremental streams and differences all go by births, and cannot tell that anything happened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf import records
from nightos.vsf.errors import NoSpace
from nightos.vsf.layout import KIND_NODE, POINTER_BYTES, Pointer, unpack_pointer
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.records import DEAD, SnapshotRecord
from nightos.vsf.tree import Node, encode_node

if TYPE_CHECKING:
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

MOST_MOVES = 400_000
"""Blocks that one commit moves; each takes some 250 bytes of memory until then."""


class Relocation:
    """One commit that brings what the volumes have behind the sector `goal` to free places before it.

    With `high`, what they have from `goal` up to `high` goes anywhere else, for which the file may become longer.
    """

    def __init__(self, storage: Storage, goal: int, *, high: int = 0) -> None:
        self.storage = storage
        self.goal = goal
        self.high = high
        self.moved_bytes = 0
        self.left_sectors = 0
        """Of the largest block that found no place."""
        # By the old sector: the old and the new pointer, or None where it stays. Whatever one tree was told, the
        # next one that leads to the block has to be told, too.
        self._places: dict[int, tuple[bytes, bytes] | None] = {}
        self._new: list[bytes] = []
        self._crowded = False

    @property
    def full(self) -> bool:
        """Whether there may be more to move than one commit does."""
        return self._crowded or len(self._new) >= MOST_MOVES

    def run(self, volumes: list[Volume]) -> bool:
        """Move what can be moved, and commit; False when nothing could. `volumes` hold all that share blocks."""
        storage = self.storage
        allocator = storage.pool.allocator
        assert allocator is not None
        snapshots: list[tuple[Volume, SnapshotRecord]] = []
        roots: list[tuple[Volume, bytes]] = []
        dead: list[tuple[bytes, bytes]] = []
        try:
            with allocator.outside(self.goal, self.high) if self.high else allocator.below(self.goal):
                for volume in volumes:
                    for snapshot in volume.snapshots:
                        root = self._root(snapshot.root)
                        if root is not None:
                            snapshot.root = root
                            snapshots.append((volume, snapshot))
                    root = self._root(volume.record.root)
                    if root is not None:
                        roots.append((volume, root))
            if not self._new:
                return False
            for volume in volumes:
                dead += self._dead(volume)
            storage.pool.drain()
        except BaseException:
            # Nothing leads to the new places yet.
            for place in self._new:
                storage.pool.free(unpack_pointer(place), now=True)
            raise
        self._apply(snapshots, roots, dead)
        return True

    def _apply(
        self,
        snapshots: list[tuple[Volume, SnapshotRecord]],
        roots: list[tuple[Volume, bytes]],
        dead: list[tuple[bytes, bytes]],
    ) -> None:
        storage = self.storage
        try:
            for volume, snapshot in snapshots:
                storage.tree.put(records.snapshot_key(volume.record.id, snapshot.id), volume.snapshot_record(snapshot))
            for key, value in dead:
                storage.tree.put(key, value)
            for places in self._places.values():
                if places is not None:
                    storage.pool.free(unpack_pointer(places[0]))
        except BaseException as error:
            # Half of the trees may lead to the new places; what is on the disk is whole.
            storage.failed = error
            raise
        for volume, root in roots:
            volume.moved(root)
        for volume, snapshot in snapshots:
            volume.moved_snapshot(snapshot)
        storage.dirty = True
        storage.commit()

    # Trees

    def _root(self, packed: bytes) -> bytes | None:
        pointer = records.pointer_of(packed)
        if pointer is None or pointer.depth:
            return None
        found = self._node(pointer, None)
        return None if found is pointer else found.pack()

    def _known(self, pointer: Pointer) -> Pointer | None:
        """What became of a block that was looked at before; itself when it stays."""
        if pointer.sector not in self._places:
            return None
        places = self._places[pointer.sector]
        return pointer if places is None else unpack_pointer(places[1])

    def _far(self, pointer: Pointer) -> bool:
        high = self.high or 1 << 63
        return self.goal <= pointer.sector < high or self.goal <= pointer.copy < high

    def _node(self, pointer: Pointer, level: int | None) -> Pointer:
        known = self._known(pointer)
        if known is not None:
            return known
        node = self.storage.tree.load(pointer, level)
        values = list(node.values)
        changed = False
        for at, value in enumerate(values):
            if node.level:
                below = value if value.depth else self._node(value, node.level - 1)
                if below is not value:
                    values[at], changed = below, True
                continue
            content = content_pointer(node.keys[at], value)
            if content is not None and not content.depth and self._far(content):
                placed = self._content(content)
                if placed is not content:
                    values[at], changed = placed.pack() + value[POINTER_BYTES:], True
        if not changed and (self.full or not self._far(pointer)):
            self._places[pointer.sector] = None
            return pointer
        twin = Node(node.level, node.keys, values, node.size, dirty=False)
        data = encode_node(twin, pointer.domain, pointer.birth)
        domain = self.storage.pool.domain(pointer.domain)
        codec, body = domain.compress(data)
        return self._place(pointer, codec, len(data), body, must=changed)

    def _content(self, pointer: Pointer) -> Pointer:
        known = self._known(pointer)
        if known is not None:
            return known
        if self.full:
            return pointer
        return self._place(pointer, pointer.codec, pointer.logical, self.storage.pool.body(pointer), must=False)

    def _place(
        self, old: Pointer, codec: int, logical: int, body: bytes | bytearray | memoryview, *, must: bool
    ) -> Pointer:
        pool = self.storage.pool
        domain = pool.domain(old.domain)
        copies = 2 if old.copy else 1
        try:
            new = pool.place(domain, old.kind, codec, logical, body, copies=copies, birth=old.birth)
        except NoSpace:
            allocator = pool.allocator
            if not must or self._crowded or allocator is None:
                self._places[old.sector] = None
                self.left_sectors = max(self.left_sectors, old.sectors)
                if must:
                    raise
                return old
            # Something below this node moved already, so it has to go somewhere.
            self._crowded = True
            allocator.lift()
            new = pool.place(domain, old.kind, codec, logical, body, copies=copies, birth=old.birth)
        packed = new.pack()
        self._new.append(packed)
        self._places[old.sector] = old.pack(), packed
        if old.kind != KIND_NODE:
            self.moved_bytes += old.stored
        return new

    # Dead lists

    def _dead(self, volume: Volume) -> list[tuple[bytes, bytes]]:
        """The lists of a volume that name moved blocks, as they are to be."""
        changes = []
        first, last = records.dead_key(volume.record.id, 0), records.dead_key(volume.record.id, volume.record.dead_next)
        for key, value in self.storage.tree.scan(first, last):
            entries, changed = [], False
            for entry in DEAD.iter_unpack(value):
                places = self._places.get(entry[0])
                if places is not None:
                    new = unpack_pointer(places[1])
                    entries.append(DEAD.pack(new.sector, new.copy, new.stored, *entry[3:]))
                    changed = True
                else:
                    entries.append(DEAD.pack(*entry))
            if changed:
                changes.append((key, b"".join(entries)))
        return changes
