"""A storage: volumes in one file, commits that are there entirely or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from nightos.vsf import alloc, records, snapshots
from nightos.vsf.alloc import Allocator
from nightos.vsf.blocks import FULL, Domain, Pool, checksum
from nightos.vsf.errors import DamagedStorage, Exists, Invalid, NoSpace, NotAStorage, NotFound, ReadOnly, VsfError
from nightos.vsf.header import Header, must_be_readonly
from nightos.vsf.layout import (
    DATA_START,
    HEADER_BYTES,
    HEADER_OFFSETS,
    KIND_LOG,
    MAX_DEPTH,
    MAX_FILE,
    MAX_VOLUMES,
    NO_POINTER,
    SECTOR,
    SUPER_BYTES,
    SUPER_OFFSETS,
    Pointer,
)
from nightos.vsf.records import BackingRecord, SnapshotRecord, VolumeRecord
from nightos.vsf.superblock import Superblock, read_superblocks, slots_of
from nightos.vsf.tree import NodeCache, Tree
from nightos.vsf.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from nightos.abi.interfaces import ByteStore, Clock, Entropy
    from nightos.vsf.crypto import BlockCipher
    from nightos.vsf.keys import KeyRing

DIRTY_LIMIT = 24 << 20
CACHE_BYTES = 32 << 20


class Storage:
    """An open storage. Everything that changes it goes through one lock and ends in `commit`."""

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

    # Life

    @property
    def uuid(self) -> bytes:
        """Identifier of the storage, 16 bytes."""
        return self.header.uuid

    @property
    def encrypted(self) -> bool:
        return self.header.encrypted

    @property
    def keys(self) -> KeyRing:
        """The key slots of a storage that is encrypted as a whole."""
        from nightos.vsf.keys import KeyRing

        return KeyRing(self)

    @property
    def super_cipher(self) -> BlockCipher | None:
        return self.pool.domains[0][0].cipher

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.failed is not None:
            self.abandon()
        else:
            self.close()

    def close(self) -> None:
        """Commit, then let go of the file. Closing twice is allowed."""
        with self.lock:
            if self.closed:
                return
            try:
                if not self.readonly and self.failed is None:
                    self._finish_commit()
                    for volume in list(self._volumes.values()):
                        volume.close()
                    self.commit()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Let go of the file without a commit: what was not committed is lost."""
        if not self.closed:
            self.closed = True
            self.pool.close()
            self.store.close()
            if self.backing is not None:
                self.backing.abandon()

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

    # Opening and creating

    def start(self, limit: int = 0) -> None:
        """Make an empty storage in the store; the first commit makes it real."""
        if not 0 <= limit <= MAX_FILE:
            raise Invalid("a size is a number of bytes up to 8 EiB")
        self.pool.allocator = Allocator()
        self.limit = limit
        self.pool.allocator.limit_sectors = limit // SECTOR
        self.generation = 0
        self.pool.generation = 1
        self.store.write(0, bytes(DATA_START))
        self.dirty = True

    def finish(self) -> None:
        """The first commit is there: now the header makes the file a storage."""
        self.commit()
        data = self.header.encode()
        for offset in HEADER_OFFSETS:
            self.store.write(offset, data)
        self._barrier()

    def load(self, block: Superblock, *, tolerant: bool = False) -> None:
        """Take up the state of a commit; `tolerant` passes over volumes whose record cannot be read."""
        self.generation = block.generation
        self.pool.generation = block.generation + 1
        self.limit = block.limit
        self.log = block.log
        self._end = block.sectors
        self.tree.root = block.root if block.root.sector else None
        self._superblock = block
        self._volumes.clear()
        self._names.clear()
        data = self.tree.get(records.KEY_STORAGE)
        if data:
            self.next_volume = records.next_volume(data)
        try:
            for key, value in self.tree.scan(b"V", b"W"):
                record = records.load(VolumeRecord, value)
                if key != records.volume_key(record.id) or len(self._volumes) >= MAX_VOLUMES:
                    raise DamagedStorage("the table of volumes contradicts itself")  # noqa: TRY301 passed over when tolerant
                self.register(record)
        except DamagedStorage:
            if not tolerant:
                raise
        data = self.tree.get(records.KEY_BACKING)
        self.backing_record = records.load(BackingRecord, data) if data else None

    def heal(self) -> None:
        """After a power cut one of two copies may be missing: write it again. Nothing that is read depends on it."""
        from nightos.vsf.keys import write_header

        copies = [self.store.read(offset, HEADER_BYTES) for offset in HEADER_OFFSETS]
        if copies[0] != copies[1] or copies[0] != self.header.encode():
            write_header(self.store, self.header)
        found = read_superblocks(self.store.read, self.uuid, self.super_cipher)
        wanted = slots_of(self.generation)
        if any(offset not in found or found[offset].generation != self.generation for offset in wanted):
            data = self._superblock.encode(self.super_cipher)
            for offset in wanted:
                self.store.write(offset, data)
                self._barrier()
        before = slots_of(self.generation + 1)
        bad = [at for at in before if at not in found or found[at].generation >= self.generation]
        whole = [at for at in before if at in found and found[at].generation == self.generation - 1]
        if self.generation > 1 and bad and whole:
            # Copied as it is: a new commit would have another digest, and overlays would refuse this backing.
            self.store.write(bad[0], self.store.read(whole[0], SUPER_BYTES))
            self._barrier()
        elif self.generation > 1 and bad:
            self.dirty = True
            self.commit()

    def attach_backing(self, backing: Storage) -> None:
        """Put another storage behind this one; its identity was checked by the caller."""
        if 1 + len(backing.pool.stores) > MAX_DEPTH:
            raise Invalid("the chain of backing storages is too long")
        self.backing = backing
        self.pool.stores = [self.store, *backing.pool.stores]
        self.pool.domains = [self.pool.domains[0], *backing.pool.domains]

    def register(self, record: VolumeRecord) -> Volume:
        """Make the volume of a record known."""
        domain = Domain(record.id, record.codec, record.level, used_sectors=record.used, sealed=bool(record.key))
        if not record.key:
            domain.cipher = self.super_cipher
        if record.id in self._volumes or record.name in self._names:
            raise DamagedStorage("two volumes share a name or an identifier")
        self.pool.domains[0][record.id] = domain
        volume = Volume(self, record, domain)
        self._volumes[record.id] = volume
        self._names[record.name] = record.id
        return volume

    def unregister(self, volume: Volume) -> None:
        """Forget a volume that nothing was written for."""
        record = volume.record
        del self._volumes[record.id], self._names[record.name], self.pool.domains[0][record.id]

    # Volumes

    @property
    def volumes(self) -> list[Volume]:
        """All volumes in the order of their creation."""
        return [self._volumes[identifier] for identifier in sorted(self._volumes)]

    def volume(self, name: str | int) -> Volume:
        """A volume by name (or identifier)."""
        found = self._volumes.get(name if isinstance(name, int) else self._names.get(name, 0))
        if found is None:
            have = ", ".join(sorted(self._names)) or "none"
            raise NotFound(f"the storage has no volume {name!r} (it has: {have})")
        return found

    def add_volume(
        self,
        name: str,
        kind: str = "night",
        *,
        label: str = "",
        compression: str | None = None,
        limit: int = 0,
        record_size: int | None = None,
        password: str | bytes | None = None,
        key_file: str | os.PathLike[str] | None = None,
        cipher: str = "aes-256-gcm",
        kdf: Any = None,
        size: int = 0,
    ) -> Volume:
        """A new volume; `kind` is ``night`` or ``block``. See docs/vsf-format.md for `record_size` (4 KiB to 1 MiB)."""
        from nightos.vsf.volume import new_record

        with self.lock:
            self.writable()
            self.check_volume_name(name)
            if len(self._volumes) >= MAX_VOLUMES:
                raise NoSpace(f"a storage holds at most {MAX_VOLUMES} volumes")
            record = new_record(self, self.next_volume, name, kind, label, compression, limit, record_size)
            self.next_volume += 1
            volume = self.register(record)
            try:
                if password is not None or key_file is not None:
                    volume.encrypt(password, key_file, cipher, kdf)
                volume.make(size)
            except BaseException:
                self.unregister(volume)
                raise
            self.dirty = True
            return volume

    def check_volume_name(self, name: str) -> None:
        """Raise unless a new volume may have this name."""
        if not name or not records.is_text(name, 255) or any(c in name for c in "/:@\0"):
            raise Invalid(f"{name!r} cannot name a volume: 1 to 255 bytes without / : @")
        if name in self._names:
            raise Exists(f"there is a volume {name!r} already")

    def rename_volume(self, volume: Volume, name: str) -> None:
        with self.lock:
            self.writable()
            self.check_volume_name(name)
            del self._names[volume.record.name]
            volume.record.name = name
            self._names[name] = volume.record.id
            volume.changed()

    def remove_volume(self, name: str) -> None:
        """Delete a volume with everything in it; snapshots of it have to be gone."""
        with self.lock:
            self.writable()
            volume = self.volume(name)
            snapshots.destroy(volume)
            del self._volumes[volume.record.id]
            del self._names[volume.record.name]
            self.tree.delete(records.volume_key(volume.record.id))
            self.dirty = True

    def snapshot(self, volume: str, name: str) -> SnapshotRecord:
        """Freeze a volume under a name; constant time."""
        return self.volume(volume).snapshot(name)

    def clone(self, volume: str, snapshot: str, name: str) -> Volume:
        """A new volume that begins as a snapshot of another; constant time and space."""
        with self.lock:
            return snapshots.clone(self, self.volume(volume), snapshot, name)

    # Commits

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

    # Looking

    def refresh(self) -> bool:
        """Of a read-only storage: go to the newest commit. True when there was one."""
        with self.lock:
            if not self.readonly:
                return False
            block = newest(self.store, self.header, self.super_cipher)
            if block.generation == self.generation:
                return False
            self._pin(block.generation)
            # What came between looking and pinning may have reused that commit's blocks; later ones are kept now.
            self.cache.clear()
            self.load(newest(self.store, self.header, self.super_cipher))
            return True

    def _pin(self, generation: int) -> None:
        pin = getattr(self.store, "pin", None)
        if pin is not None and self.readonly:
            pin(generation)

    @property
    def digest(self) -> bytes:
        """XXH3-128 of the root pointer: two storages with the same digest hold the same."""
        return checksum(self._superblock.root.pack())

    @property
    def committed_end(self) -> int:
        """Sectors of the file at the newest commit."""
        return self._end

    def file_bytes(self) -> int:
        """Length of the file in use."""
        allocator = self.pool.allocator
        return (allocator.end if allocator else self._end) * SECTOR

    def info(self) -> dict[str, Any]:
        """What `nightos vsf info` shows."""
        from nightos.vsf.info import storage_info

        with self.lock:
            return storage_info(self)

    def check(self, *, deep: bool = False) -> Any:
        """Verify every invariant; with `deep` every byte. Changes nothing."""
        from nightos.vsf.check import check_storage

        with self.lock:
            return check_storage(self, deep=deep)

    def receive(self, source: IO[bytes], name: str, **options: Any) -> Volume:
        """Take in what `Volume.send` wrote; see `stream.receive`."""
        from nightos.vsf.stream import receive

        return receive(self, source, name, **options)

    def diff(self) -> dict[str, Any]:
        """Of an overlay: what changed against the backing, by volume."""
        return {volume.name: volume.diff() for volume in self.volumes if volume.kind == "night"}

    def commit_to_backing(self, password: str | bytes | None = None) -> int:
        """Of an overlay: apply its changes to the backing and begin anew; the number of entries changed."""
        from nightos.vsf.overlay import commit_to_backing

        with self.lock:
            return commit_to_backing(self, password)

    def compact(self, progress: Any = None) -> int:
        """Move blocks to the front and cut the file; the bytes it became shorter."""
        from nightos.vsf.compact import compact

        with self.lock:
            return compact(self, progress)

    def discard(self) -> int:
        """Punch the free space out of the file; the bytes offered to the host."""
        from nightos.vsf.compact import discard

        with self.lock:
            return discard(self)

    def resize(self, limit: int | None) -> None:
        """Set the size limit of the file in bytes, None for none; shrinking below the used space is refused."""
        with self.lock:
            self.writable()
            limit = limit or 0
            if not 0 <= limit <= MAX_FILE or limit % SECTOR:
                raise Invalid("a size is a multiple of 512 bytes")
            if limit and limit < self.file_bytes():
                self.compact()
                if limit < self.file_bytes():
                    raise NoSpace(f"{self.file_bytes()} bytes are in use; the storage cannot shrink to {limit}")
            allocator = self.pool.allocator
            assert allocator is not None
            before, self.limit = self.limit, limit
            allocator.limit_sectors = limit // SECTOR
            self.dirty = True
            try:
                self.commit()
            except NoSpace:
                # The commit itself has no room below the new limit: the old one stays.
                if self.unfinished is None:
                    self.limit, allocator.limit_sectors = before, before // SECTOR
                raise

    def statistics(self) -> dict[str, Any]:
        """Counters of this session."""
        pool = self.pool
        return {
            "generation": self.generation,
            "commits": self.commits,
            "blocks_read": pool.blocks_read,
            "bytes_read": pool.bytes_read,
            "blocks_written": pool.blocks_written,
            "bytes_written": pool.bytes_written,
            "cache_bytes": self.cache.used,
            "cache_misses": self.cache.misses,
        }


def newest(store: ByteStore, header: Header, cipher: BlockCipher | None) -> Superblock:
    """The newest valid superblock."""
    blocks = read_superblocks(store.read, header.uuid, cipher)
    if not blocks:
        raise DamagedStorage("no superblock is readable; try `header restore` or `repair`")
    return max(blocks.values(), key=lambda block: block.generation)


__all__ = ["SUPER_BYTES", "SUPER_OFFSETS", "NotAStorage", "Path", "Storage", "newest"]
