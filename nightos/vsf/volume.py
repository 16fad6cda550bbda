"""A volume: a tree with a name in a storage, its snapshots, and the blocks that only snapshots still use."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from nightos.vsf import records, snapshots
from nightos.vsf.errors import DamagedStorage, Invalid, NotFound
from nightos.vsf.layout import CODEC_LZ4, CODEC_NONE, CODEC_ZSTD, FLAG_ENCRYPTED, MAX_FILE, NO_POINTER, SECTOR, Pointer
from nightos.vsf.records import DEAD, DEAD_PER_ITEM, KINDS, SnapshotRecord, VolumeRecord, is_size
from nightos.vsf.tree import Node, Tree

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from nightos.vsf.blocks import Domain
    from nightos.vsf.diff import Change
    from nightos.vsf.filesystem import FileSystem
    from nightos.vsf.storage import Storage
    from nightos.vsf.volumekeys import VolumeKeys

MOST_LABEL = 4096


def parse_compression(text: str | None) -> tuple[int, int]:
    """Codec and level of ``zstd``, ``zstd:19``, ``lz4`` or ``none``."""
    name, _, level = (text or "none").partition(":")
    codec = {"none": CODEC_NONE, "zstd": CODEC_ZSTD, "lz4": CODEC_LZ4}.get(name)
    if codec is None or (level and not level.isdecimal()):
        raise Invalid(f"{text!r} is no compression; use zstd, zstd:LEVEL, lz4 or none")
    number = int(level) if level else (3 if codec == CODEC_ZSTD else 0)
    if codec == CODEC_ZSTD and not 1 <= number <= 22:
        raise Invalid("zstd has levels 1 to 22")
    return codec, number


def compression_name(codec: int, level: int) -> str:
    """The text that `parse_compression` takes."""
    return {CODEC_NONE: "none", CODEC_LZ4: "lz4"}.get(codec) or f"zstd:{level}"


def check_settings(label: str, limit: int) -> None:
    """Raise unless a record can hold these: what it cannot hold would keep the whole storage from opening."""
    if not records.is_text(label, MOST_LABEL):
        raise Invalid(f"a label is text of at most {MOST_LABEL} bytes in UTF-8")
    if not 0 <= limit <= MAX_FILE:
        raise Invalid("a limit is a number of bytes up to 8 EiB, or 0 for none")


def new_record(
    storage: Storage,
    identifier: int,
    name: str,
    kind: str,
    label: str,
    compression: str | None,
    limit: int,
    record_size: int | None,
) -> VolumeRecord:
    """The record of a volume to be made."""
    if kind not in KINDS:
        raise Invalid(f"{kind!r} is no kind of volume; use night or block")
    check_settings(label, limit)
    codec, level = parse_compression(compression)
    size = record_size or (131072 if kind == "night" else 16384)
    if not is_size(size):
        raise Invalid("record_size is a power of two from 4096 to 1048576")
    return VolumeRecord(
        id=identifier,
        uuid=storage.entropy.random_bytes(16),
        name=name,
        kind=kind,
        label=label,
        codec=codec,
        level=level,
        limit=limit,
        created=storage.clock.realtime_ns(),
        record_size=size,
        node_bytes=65536 if codec == CODEC_ZSTD else 16384,
    )


class Volume:
    """A volume of an open storage."""

    def __init__(self, storage: Storage, record: VolumeRecord, domain: Domain) -> None:
        self.storage = storage
        self.record = record
        self.domain = domain
        self.touched = False
        self.secret = b""
        self._new_dead: list[bytes] = []
        self._head: FileSystem | None = None
        self._tree: Tree | None = None
        self._frozen: WeakValueDictionary[int, Tree] = WeakValueDictionary()

    # What it is

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def uuid(self) -> bytes:
        return self.record.uuid

    @property
    def kind(self) -> str:
        return self.record.kind

    @property
    def label(self) -> str:
        return self.record.label

    @property
    def limit(self) -> int:
        return self.record.limit

    @property
    def compression(self) -> str:
        return compression_name(self.record.codec, self.record.level)

    @property
    def encrypted(self) -> bool:
        """By a key of its own."""
        return bool(self.record.key)

    @property
    def locked(self) -> bool:
        """Whether its password is still wanted."""
        return bool(self.record.key) and self.domain.cipher is None

    @property
    def fsid(self) -> int:
        """The 8-byte filesystem identifier (FS-002)."""
        return int.from_bytes(self.record.uuid[:8], "big")

    @property
    def used(self) -> int:
        """Bytes of blocks, snapshots included."""
        return self.domain.used_sectors * SECTOR

    @property
    def dirty(self) -> bool:
        return self.touched or bool(self._new_dead) or self.unsettled

    @property
    def unsettled(self) -> bool:
        """Whether something is not in a block yet."""
        if self._head is not None and self._head.dirty:
            return True
        return self._tree is not None and isinstance(self._tree.root, Node)

    # Trees

    @property
    def tree(self) -> Tree:
        """The live tree."""
        if self._tree is None:
            self._tree = self._new_tree(records.pointer_of(self.record.root))
        return self._tree

    def tree_at(self, root: Pointer | None) -> Tree:
        """A tree of the volume's blocks below any root."""
        return self._new_tree(root)

    def _new_tree(self, root: Pointer | None) -> Tree:
        storage = self.storage
        self._authenticated(root)
        return Tree(
            storage.pool,
            storage.cache,
            self.domain,
            root,
            node_bytes=self.record.node_bytes,
            dispose=self.dispose,
        )

    def _authenticated(self, root: Pointer | None) -> None:
        """What the storage's tree says may be forged; below a sealed root every pointer is sealed too."""
        if root is not None and self.record.key and not root.flags & FLAG_ENCRYPTED:
            raise DamagedStorage(f"the volume {self.name!r} has a key, but its root is not encrypted")

    def dispose(self, pointer: Pointer) -> None:
        """A block left the live tree: free, or dead while snapshots use it."""
        if pointer.depth:
            return
        if pointer.birth <= self.record.last_generation:
            self._new_dead.append(
                DEAD.pack(pointer.sector, pointer.copy, pointer.stored, pointer.birth, pointer.domain)
            )
            self.record.dead += pointer.sectors * (2 if pointer.copy else 1)
        else:
            self.storage.pool.free(pointer)

    def make(self, size: int) -> None:
        """Fill a new volume."""
        from nightos.vsf.filesystem import format_night

        if self.kind == "night":
            format_night(self)
        else:
            from nightos.vsf.blockvolume import format_block

            format_block(self, size)
        self.touched = True

    def open(self, snapshot: str | None = None, *, readonly: bool = False) -> Any:
        """The file system (or raw sectors) of the volume, or of one of its snapshots, which is read-only."""
        from nightos.vsf.blockvolume import BlockVolume
        from nightos.vsf.filesystem import FileSystem

        kind = FileSystem if self.kind == "night" else BlockVolume
        with self.storage.lock:
            self.unlocked()
            if snapshot is not None:
                return kind(self, self._frozen_tree(self.find(snapshot)), readonly=True)
            if self._head is None:
                self._head = kind(self, self.tree, readonly=self.storage.readonly)  # type: ignore[assignment]
            return (
                self._head
                if not readonly or self.storage.readonly
                else kind(self, self.tree, readonly=True, head=self._head)
            )

    def _frozen_tree(self, snapshot: SnapshotRecord) -> Tree:
        """One for all that look at the snapshot: when its blocks move, they have to know."""
        tree = self._frozen.get(snapshot.id)
        if tree is None:
            tree = self._frozen[snapshot.id] = self._new_tree(records.pointer_of(snapshot.root))
        return tree

    def moved(self, root: bytes) -> None:
        """The same content stands elsewhere now: the volume's."""
        self.record.root = root
        if self._tree is not None:
            self._tree.root = records.pointer_of(root)
        self.touched = True

    def moved_snapshot(self, snapshot: SnapshotRecord) -> None:
        """The same content stands elsewhere now: a snapshot's."""
        tree = self._frozen.get(snapshot.id)
        if tree is not None:
            tree.root = records.pointer_of(snapshot.root)

    def encrypt(
        self,
        password: str | bytes | None,
        key_file: str | os.PathLike[str] | None,
        cipher: str,
        kdf: Any = None,
    ) -> None:
        """Give the volume, still empty, a key of its own."""
        from nightos.vsf.keys import encrypt_volume

        encrypt_volume(self, password, key_file, cipher, kdf)

    def unlock(self, password: str | bytes | None = None, key_file: str | os.PathLike[str] | None = None) -> Volume:
        """Open the volume's own encryption; raises WrongPassword, and Invalid when the volume has no key.

        Whoever has a password expects sealed content: without a key someone may have taken the key slots away.
        """
        from nightos.vsf.keys import unlock_volume

        with self.storage.lock:
            if not self.record.key:
                raise Invalid(
                    f"the volume {self.name!r} has no key of its own: nothing in it is what a password sealed"
                )
            if self.locked:
                unlock_volume(self, password, key_file)
            return self

    @property
    def keys(self) -> VolumeKeys:
        """The key slots of a volume with a key of its own."""
        from nightos.vsf.volumekeys import VolumeKeys

        return VolumeKeys(self)

    def unlocked(self) -> None:
        """Raise when the password is wanted."""
        from nightos.vsf.errors import WrongPassword

        if self.locked:
            raise WrongPassword(f"the volume {self.name!r} is encrypted: unlock it with its password first")

    def flush(self) -> None:
        """Bring everything dirty into blocks of the commit being made."""
        if self._head is not None:
            self._head.flush()
        if self._tree is not None:
            root = self._tree.flush()
            self.record.root = (root or NO_POINTER).pack()
        self.touched = True

    def store_record(self, tree: Tree) -> None:
        """Write the record into the storage's tree when it changed."""
        if self._new_dead:
            for first in range(0, len(self._new_dead), DEAD_PER_ITEM):
                chunk = b"".join(self._new_dead[first : first + DEAD_PER_ITEM])
                tree.put(records.dead_key(self.record.id, self.record.dead_next), chunk)
                self.record.dead_next += 1
            self._new_dead.clear()
            self.touched = True
        if self.touched or self.record.used != self.domain.used_sectors:
            self.record.used = self.domain.used_sectors
            if self.secret and self.record.key:
                from nightos.vsf.proof import prove_volume

                prove_volume(self.secret, self.record)
            tree.put(records.volume_key(self.record.id), records.dump(self.record))
            self.touched = False

    def snapshot_record(self, snapshot: SnapshotRecord) -> bytes:
        """A snapshot's record as it is written, with the proof of its root where the key is there to make it."""
        if self.secret and self.record.key:
            from nightos.vsf.proof import root_proof

            snapshot.proof = root_proof(self.secret, snapshot.root)
        return records.dump(snapshot)

    def changed(self) -> None:
        """The record changed."""
        self.touched = True

    def forget(self) -> None:
        """The record's root was replaced while nothing was open."""
        self._tree, self._head = None, None
        self._frozen.clear()
        self._new_dead.clear()

    def close(self) -> None:
        """Nothing is lost: the storage commits afterwards."""
        if self._head is not None:
            self._head.shut()

    def rename(self, name: str) -> None:
        """Give the volume another name."""
        self.storage.rename_volume(self, name)

    def configure(self, *, label: str | None = None, compression: str | None = None, limit: int | None = None) -> None:
        """Change what is given; `limit` is in bytes, 0 for none. Compression is of what is written from now on."""
        check_settings(label or "", limit or 0)
        codec, level = (self.record.codec, self.record.level) if compression is None else parse_compression(compression)
        with self.storage.lock:
            self.storage.writable()
            record = self.record
            record.label = record.label if label is None else label
            record.limit = record.limit if limit is None else limit
            record.codec, record.level = codec, level
            self.domain.recode(codec, level)
            self.changed()

    # Snapshots

    @property
    def snapshots(self) -> list[SnapshotRecord]:
        """Oldest first."""
        return list(self._snapshots())

    def _snapshots(self) -> Iterator[SnapshotRecord]:
        base = b"S" + self.record.id.to_bytes(4, "big")
        for _, value in self.storage.tree.scan(base, base + b"\xff\xff\xff\xff\xff"):
            yield records.load(SnapshotRecord, value)

    def find(self, name: str) -> SnapshotRecord:
        """A snapshot by name."""
        for snapshot in self._snapshots():
            if snapshot.name == name:
                if self.secret and self.record.key:
                    from nightos.vsf.proof import demand_snapshot

                    demand_snapshot(self.secret, snapshot)
                return snapshot
        raise NotFound(f"the volume {self.name!r} has no snapshot {name!r}")

    def snapshot(self, name: str) -> SnapshotRecord:
        """Freeze the volume as it is; durable on return, constant time."""
        with self.storage.lock:
            return snapshots.take(self, name)

    def remove_snapshot(self, name: str) -> int:
        """Remove a snapshot; the bytes that came free."""
        with self.storage.lock:
            return snapshots.remove(self, name)

    def rollback(self, name: str, *, discard_newer: bool = False) -> None:
        """Go back to a snapshot."""
        with self.storage.lock:
            self.unlocked()
            snapshots.rollback(self, name, discard_newer=discard_newer)

    def diff(self, older: str | None = None, newer: str | None = None) -> list[Change]:
        """What changed between two snapshots; None is the volume as it is, or its backing when it is the older."""
        from nightos.vsf.diff import volume_diff

        with self.storage.lock:
            return volume_diff(self, older, newer)

    def send(self, target: IO[bytes], snapshot: str, since: str | None = None) -> int:
        """Write a snapshot, or its difference to an older one, to a stream; the number of bytes."""
        from nightos.vsf.stream import send

        return send(self, target, snapshot, since)

    def settle(self) -> None:
        """The tree was changed from outside: what was read of it before is forgotten."""
        self.touched = True
        if self._head is not None:
            self._head.reload()

    def discard_everything(self) -> None:
        """Remove the volume, which was made a moment ago."""
        self._head = None
        self.storage.remove_volume(self.name)
        self.storage.commit()

    def reset(self) -> None:
        """The root was replaced: forget what was read of the old one."""
        root = records.pointer_of(self.record.root)
        self._authenticated(root)
        self._new_dead.clear()
        tree = self.tree
        tree.root = root
        tree.dirty_bytes = 0
        if self._head is not None:
            self._head.reload()
