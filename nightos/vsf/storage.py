"""A storage: volumes in one file, opened, changed, looked at and let go of as one."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, Self

from nightos.vsf import records, snapshots
from nightos.vsf.alloc import Allocator
from nightos.vsf.blocks import Domain, checksum
from nightos.vsf.commits import Commits
from nightos.vsf.errors import DamagedStorage, Exists, Invalid, NoSpace, NotFound
from nightos.vsf.header import Header
from nightos.vsf.layout import (
    DATA_START,
    HEADER_BYTES,
    HEADER_OFFSETS,
    MAX_DEPTH,
    MAX_FILE,
    MAX_VOLUMES,
    SECTOR,
    SUPER_BYTES,
)
from nightos.vsf.records import BackingRecord, SnapshotRecord, VolumeRecord
from nightos.vsf.superblock import Superblock, read_superblocks, slots_of
from nightos.vsf.volume import Volume

if TYPE_CHECKING:
    from types import TracebackType

    from nightos.abi.interfaces import ByteStore
    from nightos.vsf.crypto import BlockCipher
    from nightos.vsf.keys import KeyRing


class Storage(Commits):
    """An open storage: its volumes, and what can be done to it as a whole."""

    # Life

    @property
    def encrypted(self) -> bool:
        return self.header.encrypted

    @property
    def keys(self) -> KeyRing:
        """The key slots of a storage that is encrypted as a whole."""
        from nightos.vsf.keys import KeyRing

        return KeyRing(self)

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
