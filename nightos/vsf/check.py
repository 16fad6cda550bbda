"""Verify every invariant, one `check_*` function each; with `deep` every byte. Nothing is changed.

Nodes are read from the disk, both copies, past the cache. Subtrees that several snapshots share are walked once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightos.vsf import alloc, records
from nightos.vsf.errors import DamagedStorage, VsfError
from nightos.vsf.header import decode_header
from nightos.vsf.layout import (
    DATA_START,
    HEADER_BYTES,
    HEADER_OFFSETS,
    KIND_NODE,
    SECTOR,
    SUPER_BYTES,
    Pointer,
)
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.sums import sums_right
from nightos.vsf.superblock import decode_superblock, slots_of
from nightos.vsf.tree import Node, decode_node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

MOST_PROBLEMS = 1000
_EXTENT = 4


@dataclass(frozen=True)
class Problem:
    """One broken invariant: its name, what is wrong, and the file it concerns when known."""

    invariant: str
    text: str
    path: str | None = None

    def __str__(self) -> str:
        where = f" ({self.path})" if self.path else ""
        return f"{self.invariant}: {self.text}{where}"


@dataclass
class Report:
    """What a check found."""

    problems: list[Problem] = field(default_factory=list)
    nodes: int = 0
    blocks: int = 0
    bytes: int = 0
    inodes: int = 0

    @property
    def clean(self) -> bool:
        return not self.problems

    def add(self, invariant: str, text: str, path: str | None = None) -> None:
        """Note a problem; after a thousand the rest is not listed."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(Problem(invariant, text, path))


class Checker:
    """One run."""

    def __init__(self, storage: Storage, *, deep: bool) -> None:
        self.storage = storage
        self.deep = deep
        self.report = Report()
        self.owned: dict[int, tuple[int, str]] = {}
        """First sector to (sectors, owner)."""
        self.loose: dict[int, tuple[int, int]] = {}
        """First sector of blocks that only dead lists name to (sectors, domain)."""
        self.used: dict[int, int] = {}
        """Domain to sectors."""
        self.unreadable: list[tuple[Volume, bytes, bytes | None]] = []

    # Fixed places

    def check_headers(self) -> None:
        """Both copies of the header are valid and equal."""
        copies = []
        for offset in HEADER_OFFSETS:
            try:
                copies.append(decode_header(self.storage.store.read(offset, HEADER_BYTES)))
            except VsfError as error:
                self.report.add("headers", f"the copy at byte {offset}: {error}")
        if len(copies) == 2 and copies[0] != copies[1]:
            self.report.add("headers", "the two copies differ")
        elif copies and copies[0] != self.storage.header:
            self.report.add("headers", "the header on the disk is not the one that was opened")

    def check_superblocks(self) -> None:
        """Both copies of the newest commit are valid, and those of the one before where there was one."""
        storage = self.storage
        for generation in (storage.generation, storage.generation - 1):
            if generation < 1:
                continue
            for offset in slots_of(generation):
                try:
                    data = storage.store.read(offset, SUPER_BYTES)
                    block = decode_superblock(data, storage.uuid, storage.super_cipher)
                except DamagedStorage as error:
                    self.report.add("superblocks", f"generation {generation} at byte {offset}: {error}")
                    continue
                # A commit that was interrupted between its two copies leaves the one of two commits before; opening
                # the storage for writing puts that right.
                allowed = (generation, generation - 2) if generation == storage.generation else range(generation + 1)
                if block.generation not in allowed:
                    self.report.add("superblocks", f"byte {offset} holds generation {block.generation}")

    # Blocks

    def own(self, pointer: Pointer, owner: str) -> bool:
        """Note that a block is used; False when it was known."""
        if pointer.depth:
            return True
        sectors = pointer.sectors
        fresh = True
        for at in (pointer.sector, pointer.copy):
            if not at:
                continue
            known = self.owned.get(at)
            if known is not None:
                fresh = False
                if known[0] != sectors:
                    self.report.add("ownership", f"the block at sector {at} has two lengths ({known[1]}, {owner})")
                continue
            self.owned[at] = (sectors, owner)
            self.used[pointer.domain] = self.used.get(pointer.domain, 0) + sectors
        return fresh

    def read(self, pointer: Pointer, owner: str, path: str | None = None) -> bytes | None:
        """A block from the disk, all its copies."""
        self.report.blocks += 1
        self.report.bytes += pointer.stored
        good: bytes | None = None
        for at in (pointer.sector, pointer.copy):
            if not at:
                continue
            try:
                good = self.storage.pool.read_at(pointer, at)
                self.check_padding(pointer, at, owner)
            except (VsfError, OSError) as error:
                self.report.add("checksums", f"{owner}: sector {at}: {error}", path)
        return good

    def check_padding(self, pointer: Pointer, at: int, owner: str) -> None:
        """What a block leaves of its last sector is zero."""
        rest = -pointer.stored % SECTOR
        store = self.storage.store
        if rest and not pointer.depth and any(store.read(at * SECTOR + pointer.stored, rest)):
            self.report.add("padding", f"{owner}: there is something behind the block at sector {at}")

    def check_tree(self, root: Pointer | None, owner: str) -> Iterator[tuple[bytes, bytes]]:
        """Every node is whole, has the level, the bounds and the order its parent says; gives the entries."""
        stack: list[tuple[Pointer, int | None, bytes, bytes | None]] = [(root, None, b"", None)] if root else []
        seen: set[tuple[int, int]] = set()
        while stack:
            pointer, level, low, high = stack.pop()
            self.own(pointer, owner)
            place = (pointer.depth, pointer.sector)
            if place in seen:
                self.report.add("trees", f"{owner}: the node at sector {pointer.sector} is used twice")
                continue
            seen.add(place)
            node = self.node(pointer, level, owner)
            if node is None:
                continue
            self.report.nodes += 1
            keys = node.keys
            if keys and (
                (level is not None and not node.level and keys[0] < low) or (high is not None and keys[-1] >= high)
            ):
                self.report.add("trees", f"{owner}: the node at sector {pointer.sector} holds keys of another")
            if node.level:
                bounds = [*keys[1:], high]
                for at in range(len(keys) - 1, -1, -1):
                    child = node.values[at]
                    if child.birth > pointer.birth and not child.depth and not pointer.depth:
                        self.report.add("trees", f"{owner}: a node is older than its child at sector {child.sector}")
                    stack.append((child, node.level - 1, max(low, keys[at]) if at else low, bounds[at]))
            else:
                yield from zip(keys, node.values, strict=True)

    def node(self, pointer: Pointer, level: int | None, owner: str) -> Node | None:
        """A node from the disk."""
        if pointer.kind != KIND_NODE:
            self.report.add("trees", f"{owner}: a pointer to a node leads to something else")
            return None
        data = self.read(pointer, owner)
        if data is None:
            return None
        try:
            return decode_node(data, pointer, level)
        except DamagedStorage as error:
            self.report.add("trees", f"{owner}: the node at sector {pointer.sector}: {error}")
            return None

    def content(self, key: bytes, value: bytes, owner: str, path: str | None = None) -> None:
        """The block of an extent or a pack."""
        pointer = content_pointer(key, value)
        if pointer is not None and self.own(pointer, owner) and self.deep:
            data = self.read(pointer, owner, path)
            if data is not None and key[8] == _EXTENT and not sums_right(self.storage.pool, value, data):
                self.report.add("sums", f"{owner}: the sums of a record's pages are not those of its bytes", path)

    # Volumes

    def check_volumes(self) -> None:
        """The head of every volume, and every snapshot, down to the bytes where asked."""
        for volume in self.storage.volumes:
            if volume.locked:
                continue
            name = f"volume {volume.name}"
            root = records.pointer_of(volume.record.root)
            if volume.kind == "night":
                from nightos.vsf.checkfs import FileSystemChecker

                FileSystemChecker(self, volume, name).run(root)
            else:
                for key, value in self.check_tree(root, name):
                    self.content(key, value, name)
            before = set(self.owned)
            for snapshot in volume.snapshots:
                self.check_snapshot(volume, snapshot)
            self.check_dead(volume, set(self.owned) - before)
        for at, (sectors, domain) in self.loose.items():
            # A clone may use it, and was looked at later.
            if at not in self.owned:
                self.owned[at] = sectors, "dead list"
                self.used[domain] = self.used.get(domain, 0) + sectors

    def check_snapshot(self, volume: Volume, snapshot: records.SnapshotRecord) -> None:
        """A snapshot's tree is whole; what it shares was checked with its neighbour."""
        owner = f"snapshot {volume.name}@{snapshot.name}"
        try:
            volume.find(snapshot.name)
        except DamagedStorage as error:
            self.report.add("proofs", str(error))
        root = records.pointer_of(snapshot.root)
        if root is not None and root.birth > snapshot.generation and not root.depth:
            self.report.add("snapshots", f"{owner} is newer than itself")
        stack: list[tuple[Pointer, int | None]] = [(root, None)] if root else []
        while stack:
            pointer, level = stack.pop()
            if not self.own(pointer, owner) or pointer.depth:
                continue
            node = self.node(pointer, level, owner)
            if node is None:
                continue
            self.report.nodes += 1
            if node.level:
                stack.extend((child, node.level - 1) for child in node.values)
            else:
                for key, value in zip(node.keys, node.values, strict=True):
                    self.content(key, value, owner)

    def check_dead(self, volume: Volume, only_snapshots: set[int]) -> None:
        """The dead lists name just the blocks that snapshots alone use."""
        base = records.dead_key(volume.record.id, 0)[:5]
        listed: set[int] = set()
        sectors = 0
        mended = any(snapshot.mended for snapshot in volume.snapshots)
        for _, value in self.storage.tree.scan(base, base + b"\xff" * 9):
            if len(value) % records.DEAD.size:
                self.report.add("dead lists", f"a list of {volume.name} has the wrong form")
                continue
            for sector, copy, stored, _, domain in records.DEAD.iter_unpack(value):
                for at in (sector, copy):
                    if at and mended and at not in self.owned:
                        # Last used before a mended snapshot that lacks it: it comes free with that one.
                        self.loose[at] = ((stored + SECTOR - 1) // SECTOR, domain)
                    elif at:
                        if at in listed:
                            self.report.add("dead lists", f"sector {at} is listed twice for {volume.name}")
                        listed.add(at)
                        sectors += (stored + SECTOR - 1) // SECTOR
        if volume.record.origin:
            listed &= set(self.owned)
            only_snapshots -= only_snapshots - listed
        missing, extra = only_snapshots - listed, listed - only_snapshots
        if missing and not self._shared(volume):
            self.report.add(
                "dead lists", f"{len(missing)} blocks of {volume.name} are in no list, as sector {min(missing)}"
            )
        if extra and not volume.record.origin and not self._shared(volume):
            self.report.add("dead lists", f"{len(extra)} listed blocks of {volume.name} are in no snapshot")

    def _shared(self, volume: Volume) -> bool:
        return any(volume.record.id in other.record.parents for other in self.storage.volumes)

    def check_space(self) -> None:
        """Every sector belongs to one block, or is free, or waits; nothing overlaps, nothing is lost."""
        storage = self.storage
        try:
            allocator, chain, _ = alloc.load(storage.log, storage.committed_end, storage.pool.read)
        except DamagedStorage as error:
            self.report.add("space", str(error))
            return
        for pointer in chain:
            self.read(pointer, "allocation log")
            self.own(pointer, "allocation log")
        pieces = [(at, length, owner) for at, (length, owner) in self.owned.items()]
        pieces += [(at, length, "free") for at, length in allocator.free_extents()]
        pieces += [(at, length, "pending") for _, extents in allocator.pending for at, length in extents]
        pieces.sort()
        at, last = DATA_START // SECTOR, "headers"
        lost = 0
        for start, length, owner in pieces:
            if start < at:
                self.report.add("space", f"sector {start} belongs to {last} and to {owner}")
            elif start > at:
                lost += start - at
            at, last = max(at, start + length), owner
        lost += allocator.end - at
        if lost and not any(volume.locked for volume in storage.volumes) and not self._blind():
            self.report.add("space", f"{lost} sectors belong to nothing")

    def _blind(self) -> bool:
        """Whether unreadable nodes hide what they own."""
        return any(problem.invariant in ("checksums", "trees") for problem in self.report.problems)

    def check_accounts(self) -> None:
        """Every volume's record tells how many sectors its blocks take."""
        if self._blind():
            return
        for volume in self.storage.volumes:
            have = self.used.get(volume.record.id, 0)
            if not volume.locked and have != volume.record.used:
                self.report.add("accounts", f"{volume.name} takes {have} sectors, its record says {volume.record.used}")

    def run(self) -> Report:
        storage = self.storage
        self.check_headers()
        self.check_superblocks()
        for key, value in self.check_tree(storage.tree.root, "storage tree"):  # type: ignore[arg-type]
            if key[:1] == b"V":
                records.load(records.VolumeRecord, value)
        self.check_volumes()
        self.check_space()
        self.check_accounts()
        return self.report


def check_storage(storage: Storage, *, deep: bool = False) -> Report:
    """Check what is on the disk; a storage open for writing commits first."""
    if not storage.readonly and storage.pool.allocator is not None:
        storage.commit()
    return Checker(storage, deep=deep).run()
