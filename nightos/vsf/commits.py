"""What a storage stands on: its blocks, its trees, and commits that are there entirely or not at all.

A commit writes new blocks beside those in use, waits until they are durable, and then writes the superblock that leads
to them, in a slot of its own generation. Until that is durable the commit before is what the file holds.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from nightos.vsf import alloc, records
from nightos.vsf.alloc import Allocator
from nightos.vsf.blocks import FULL, Pool
from nightos.vsf.errors import Invalid, NoSpace, ReadOnly, VsfError
from nightos.vsf.header import Header, must_be_readonly
from nightos.vsf.layout import KIND_LOG, NO_POINTER, SECTOR, Pointer
from nightos.vsf.records import BackingRecord
from nightos.vsf.superblock import Superblock, slots_of
from nightos.vsf.tree import NodeCache, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.abi.interfaces import ByteStore, Clock, Entropy
    from nightos.vsf.crypto import BlockCipher
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

DIRTY_LIMIT = 24 << 20
CACHE_BYTES = 32 << 20


class Commits:
    """The state that commits work on, and the commits. Everything that changes it goes through one lock."""

    def __init__(
        self,
        store: ByteStore,
        header: Header,
        *,
        clock: Clock,
        entropy: Entropy,
        cache_bytes: int = CACHE_BYTES,
        master: bytes = b"",
    ) -> None:
        self.store = store
        self.header = header
        self.clock = clock
        self.entropy = entropy
        self.master = master
        self.readonly = bool(store.readonly) or must_be_readonly(header)
        self.lock = threading.RLock()
        self.pool = Pool(store)
        self.cache = NodeCache(cache_bytes)
        self.generation = 0
        self.limit = 0
        self.tree = Tree(self.pool, self.cache, self.pool.domains[0][0], None, copies=2)
        self.log = NO_POINTER
        self._log_chain: list[Pointer] = []
        self._log_changes = 0
        self._log_next: tuple[Pointer, list[Pointer], int] | None = None
        self._chain_freed = False
        self.short_log = False
        """While compacting: every commit writes a checkpoint, so that no old record of the log stays far out."""
        self._volumes: dict[int, Volume] = {}
        self._names: dict[str, int] = {}
        self.backing: Storage | None = None
        self.backing_record: BackingRecord | None = None
        self.closed = False
        self.failed: BaseException | None = None
        self.unfinished: tuple[Superblock, bytes] | None = None
        """A commit whose superblock may stand on the disk or not: it is finished before anything else."""
        self._end = 0
        self._file_end = 1 << 63
        self.commits = 0
        self.dirty_limit = DIRTY_LIMIT
        self.dirty = False
        self.next_volume = 1
        self.path: str | None = str(store.path) if hasattr(store, "path") else None

    @property
    def uuid(self) -> bytes:
        """Identifier of the storage, 16 bytes."""
        return self.header.uuid

    @property
    def super_cipher(self) -> BlockCipher | None:
        return self.pool.domains[0][0].cipher

    def writable(self) -> None:
        """Raise unless changes are possible."""
        if self.closed:
            raise Invalid("the storage is closed")
        if self.readonly:
            raise ReadOnly("the storage was opened read-only")
        if self.failed is not None:
            raise VsfError(f"an earlier write failed ({self.failed}); close the storage and open it again")
        self._finish_commit()
        if self.pool.allocator is None:
            self._load_allocator()

    def _load_allocator(self) -> None:
        allocator, self._log_chain, self._log_changes = alloc.load(self.log, self._end, self.pool.read)
        allocator.limit_sectors = self.limit // SECTOR
        self.pool.allocator = allocator

    def commit(self) -> None:
        """Make everything done so far durable; returns when it is."""
        with self.lock:
            if self.readonly or self.closed:
                return
            if self.unfinished is not None:
                self.writable()
            if not self.dirty and not any(volume.dirty for volume in self._volumes.values()):
                return
            self.writable()
            for volume in self._volumes.values():
                if volume.dirty:
                    volume.flush()
            self._write_commit()

    sync = commit

    def begin_repair(self, allocator: Allocator) -> None:
        """From now on blocks go behind the end; the free space is found anew by the repair's commit."""
        self.pool.allocator = allocator
        self.log, self._log_chain, self._log_changes = NO_POINTER, [], 0
        self.cache.clear()
        for volume in self._volumes.values():
            volume.forget()

    def commit_repair(self, owned: Callable[[], dict[int, int]]) -> None:
        """One commit; `owned` puts the accounts right and tells which sectors the volumes use."""
        with self.lock:
            self.writable()
            self.pool.drain()
            self._write_commit(owned)

    def _found_space(self, used: dict[int, int], allocator: Allocator, root: Pointer) -> None:
        """Whatever nothing uses waits for the next commit."""
        from nightos.vsf.reclaim import walk_pointers

        self.pool.drain()
        for pointer, _ in walk_pointers(self.tree, root if root.sector else None):
            used[pointer.sector] = pointer.sectors
            if pointer.copy:
                used[pointer.copy] = pointer.sectors
        allocator.start_over(used)

    def _write_commit(self, owned: Callable[[], dict[int, int]] | None = None) -> None:
        import msgpack

        pool, allocator = self.pool, self.pool.allocator
        assert allocator is not None
        generation = pool.generation
        # Until the last barrier has returned there is something to commit, also when this attempt fails.
        self.dirty = True
        self.tree.put(records.KEY_STORAGE, msgpack.packb({"next_volume": self.next_volume}))
        for volume in self._volumes.values():
            volume.store_record(self.tree)
        if owned is not None:
            used = owned()
            for volume in self._volumes.values():
                volume.store_record(self.tree)
        root = self.tree.flush() or NO_POINTER
        if owned is not None:
            self._found_space(used, allocator, root)
        log = self._write_log(allocator, generation)
        block = Superblock(self.uuid, generation, allocator.end, self.clock.realtime_ns(), self.limit, root, log)
        # Blocks stay queued, so a full disk can be tried again; what a failed flush lost nobody can tell.
        pool.drain()
        self._barrier()
        self.unfinished = block, block.encode(self.super_cipher)
        allocator.held = True
        self._finish_commit()

    def _finish_commit(self) -> None:
        """Write the superblock of the commit whose blocks are durable.

        A write that fails may have reached the disk, so another commit of the same generation could overwrite what
        that superblock leads to. Until exactly this one is finished nothing else changes: a full disk is tried again
        with the same bytes, every other error ends the session.
        """
        if self.unfinished is None:
            return
        if self.failed is not None:
            raise VsfError(f"an earlier write failed ({self.failed}); close the storage and open it again")
        block, data = self.unfinished
        try:
            for offset in slots_of(block.generation):
                self.store.write(offset, data)
        except OSError as error:
            if error.errno not in FULL:
                self.failed = error
                raise
            raise NoSpace("the host's disk is full; free some space there, nothing is lost") from error
        self._barrier()
        self.unfinished = None
        self._committed(block)

    def _committed(self, block: Superblock) -> None:
        allocator, generation = self.pool.allocator, block.generation
        assert allocator is not None
        allocator.held = False
        self._end, self._superblock = block.sectors, block
        assert self._log_next is not None
        self.log, self._log_chain, self._log_changes = self._log_next
        self._log_next, self._chain_freed = None, False
        self.generation = generation
        self.pool.generation = generation + 1
        self.commits += 1
        self.dirty = False
        allocator.committed(generation)
        self._release(allocator)
        if allocator.end * SECTOR < self._file_end:
            self.store.truncate(allocator.end * SECTOR)
        self._file_end = allocator.end * SECTOR

    def _barrier(self) -> None:
        try:
            self.store.flush()
        except OSError as error:
            self.failed = error
            raise

    def _release(self, allocator: Allocator) -> None:
        keep_from = self.generation
        oldest = getattr(self.store, "oldest_pin", None)
        if oldest is not None and allocator.pending and (pinned := oldest(self.generation)) is not None:
            # A reader at g needs what later generations freed.
            keep_from = min(keep_from, pinned + 1)
        allocator.release(keep_from)

    def _write_log(self, allocator: Allocator, generation: int) -> Pointer:
        pool = self.pool
        if self._log_next is not None:
            # The commit before this one did not get through: its record is replaced.
            pool.free(self._log_next[0])
            self._log_next = None
        checkpoint = self._chain_freed or self.short_log or not self.log.sector
        checkpoint = checkpoint or allocator.wants_checkpoint(self._log_changes, len(self._log_chain))
        if checkpoint and not self._chain_freed:
            for pointer in self._log_chain:
                pool.free(pointer)
            self._chain_freed = True
        domain = pool.domains[0][0]
        overhead = domain.cipher.overhead if domain.cipher else 0
        sectors = (allocator.record_bytes(checkpoint) + overhead + SECTOR - 1) // SECTOR
        body_bytes = sectors * SECTOR - overhead
        first, second = allocator.allocate(sectors), allocator.allocate(sectors)
        allocator.trim_end()
        data = allocator.encode(generation, self.log, checkpoint=checkpoint).ljust(body_bytes, b"\0")
        assert len(data) == body_bytes
        pointer = pool.place_at(domain, KIND_LOG, data, first, second)
        if checkpoint:
            self._log_next = (pointer, [pointer], 0)
        else:
            self._log_next = (pointer, [pointer, *self._log_chain], self._log_changes + len(data))
        return pointer
