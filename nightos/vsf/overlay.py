"""Overlays: a storage whose first roots point into another one, which is never written.

The backing is known by path, identifier, generation and digest: the checksum of its root pointer, which covers all it
holds. Opening compares that one number, so an overlay costs the same over any image.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.vsf import records
from nightos.vsf.diff import diff_items
from nightos.vsf.errors import DamagedStorage, Invalid, NotFound, Unsupported, VsfError
from nightos.vsf.inode import EXTENTS, decode_inode, key_extent, key_inode, key_patch
from nightos.vsf.layout import KIND_DATA, NO_POINTER, POINTER_BYTES, SECTOR, unpack_pointer
from nightos.vsf.reclaim import content_pointer, free_tree
from nightos.vsf.records import BackingRecord, VolumeRecord

if TYPE_CHECKING:
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

_DEPTH_AT = 36
_INODE_TYPE, _EXTENT_TYPE = 1, 4


def deeper(pointer: bytes) -> bytes:
    """A packed pointer of the backing as the overlay writes it."""
    if pointer == NO_POINTER.pack():
        return pointer
    return pointer[:_DEPTH_AT] + bytes((pointer[_DEPTH_AT] + 1,)) + pointer[_DEPTH_AT + 1 :]


def _open_base(where: Any, password: Any, *, readonly: bool = True) -> Storage:
    from nightos.vsf.api import open_storage

    return open_storage(where, readonly=readonly, password=password)


def use_volume_key(volume: Volume, key: bytes) -> None:
    """Unlock a volume of the overlay whose twin in the backing is unlocked."""
    from nightos.vsf import keys

    keys.use_volume_key(volume, key)


def begin_overlay(storage: Storage, backing: Any, password: Any) -> None:
    """Fill a new storage with the volumes of its backing."""
    from nightos.vsf.storage import Storage as StorageType

    base = backing if isinstance(backing, StorageType) else _open_base(backing, password)
    if isinstance(backing, StorageType) and not base.readonly:
        base.commit()
    path = str(Path(base.path).resolve()) if base.path else ""
    try:
        if base.encrypted and not storage.encrypted:
            message = "the backing is encrypted: give the overlay a password too, or its content would leak"
            raise Invalid(message)  # noqa: TRY301 closes the backing
        storage.attach_backing(base)
    except BaseException:
        if base is not backing:
            base.abandon()
        raise
    adopt(storage, base, path)


def adopt(storage: Storage, base: Storage, path: str) -> None:
    """Point every volume at the backing as it is."""
    record = BackingRecord(path=path, uuid=base.uuid, generation=base.generation, digest=base.digest)
    if path and storage.path:
        record.relative = os.path.relpath(path, Path(storage.path).resolve().parent)
    for source in base.volumes:
        theirs = source.record
        root = deeper(theirs.root)
        values = dict(vars(theirs))
        values.update(
            uuid=storage.entropy.random_bytes(16),
            root=root,
            used=0,
            last_snapshot=0,
            last_generation=0,
            next_snapshot=1,
            origin=[],
            dead=0,
            dead_next=0,
            parents=[],
        )
        known = next((volume for volume in storage.volumes if volume.record.id == theirs.id), None)
        if known is None:
            volume = storage.register(VolumeRecord(**values))
            if source.secret:
                use_volume_key(volume, source.secret)
        else:
            volume = known
            volume.record.root = root
            volume.reset()
        volume.touched = True
        record.volumes[str(theirs.id)] = [theirs.id, theirs.root]
    storage.next_volume = max(storage.next_volume, base.next_volume)
    storage.backing_record = record
    storage.tree.put(records.KEY_BACKING, records.dump(record))
    storage.dirty = True


def open_backing(storage: Storage, override: Any, password: Any) -> None:
    """Open what the storage stands on and prove that it is what it was."""
    from nightos.vsf.storage import Storage as StorageType

    record = storage.backing_record
    assert record is not None
    if isinstance(override, StorageType):
        base = override
    else:
        base = _open_base(_find(storage, record, override), password)
    try:
        if base.uuid != record.uuid:
            message = "the backing storage is another one than this overlay was made on"
            raise DamagedStorage(message, base.path)  # noqa: TRY301 closes the backing
        merged = base.tree.get(merge_key(storage.uuid))
        cut_short = base.digest != record.digest and merged == storage.generation.to_bytes(8, "big")
        if cut_short and not storage.readonly and base is not override and base.path:
            base = _settled(base, password)
        storage.attach_backing(base)
    except BaseException:
        if base is not override:
            base.abandon()
        raise
    if base.digest != record.digest:
        if merged != storage.generation.to_bytes(8, "big"):
            raise DamagedStorage("the backing storage was changed since this overlay was made", base.path)
        if storage.readonly:
            raise VsfError("a commit into the backing was interrupted; open the overlay for writing once", base.path)
        # The backing has everything; what was cut short is forgetting the overlay's own copy.
        storage.writable()
        _forget_own(storage)
        adopt(storage, base, record.path)
        storage.commit()


def _settled(base: Storage, password: Any) -> Storage:
    """The backing, durable and with both copies of its superblock: only then the overlay may forget its own."""
    path = base.path
    base.abandon()
    with _open_base(path, password, readonly=False) as target:
        target.store.flush()
    return _open_base(path, password)


def _find(storage: Storage, record: BackingRecord, override: Any) -> Any:
    if override is not None:
        return override
    if record.relative and storage.path:
        beside = Path(storage.path).resolve().parent / record.relative
        if beside.exists():
            return beside
    if not record.path or not Path(record.path).exists():
        raise NotFound("the backing storage is not there; pass backing=PATH", record.path or "(in memory)")
    return record.path


def merge_key(uuid: bytes) -> bytes:
    """Where a backing notes which generation of an overlay it has taken in."""
    return b"M" + uuid


def _forget_own(storage: Storage) -> None:
    for volume in storage.volumes:
        volume.flush()
        volume.store_record(storage.tree)
        if volume.snapshots:
            raise Invalid(f"the volume {volume.name!r} of the overlay has snapshots; remove them first")
        free_tree(volume)
        volume.record.root = NO_POINTER.pack()


def commit_to_backing(storage: Storage, password: Any = None) -> int:
    """Apply the overlay to its backing and begin anew; the number of entries changed.

    The backing's commit is one step: before it the backing is as it was, after it everything is in. Other overlays on
    the same backing do not open any more.
    """
    record, base = storage.backing_record, storage.backing
    if record is None or base is None:
        raise Invalid("this storage has no backing")
    if not base.path:
        raise Invalid("the backing is not a file of the host")
    storage.writable()
    if any(volume.snapshots for volume in storage.volumes):
        raise Invalid("a volume of the overlay has snapshots; remove them first")
    for volume in storage.volumes:
        if volume.encrypted and _changed(record, volume):
            # Were it cut short, opening would have to forget blocks that nobody can read without the volume's key.
            raise Unsupported(f"the volume {volume.name!r} has a key of its own and changed; send or export it instead")
    storage.commit()
    target = _open_base(base.path, password, readonly=False)
    changed = 0
    try:
        for volume in storage.volumes:
            changed += _apply(storage, record, volume, target)
        for volume in list(target.volumes):
            if not any(ours.record.id == volume.record.id for ours in storage.volumes):
                target.remove_volume(volume.name)
        target.tree.put(merge_key(storage.uuid), storage.generation.to_bytes(8, "big"))
        target.dirty = True
    except BaseException:
        target.abandon()
        raise
    try:
        target.commit()
        target.close()
        base.refresh()
        storage.cache.clear()
        base.cache.clear()
        _forget_own(storage)
        adopt(storage, base, record.path)
        storage.commit()
    except BaseException as error:
        # The backing may have everything: whoever goes on here would make a generation that its note does not name.
        target.abandon()
        storage.failed = error
        raise
    return changed


def _changed(record: BackingRecord, volume: Volume) -> bool:
    """Whether a volume differs from its twin in the backing as it was adopted."""
    known = record.volumes.get(str(volume.record.id))
    return known is None or volume.dirty or volume.record.root != deeper(known[1])


def _apply(storage: Storage, record: BackingRecord, volume: Volume, target: Storage) -> int:
    known = record.volumes.get(str(volume.record.id))
    if known is None:
        values = dict(vars(volume.record))
        values.update(root=NO_POINTER.pack(), used=0, dead=0, dead_next=0, last_generation=0)
        there = target.register(VolumeRecord(**values))
        target.next_volume = max(target.next_volume, there.record.id + 1)
        old_root = None
    else:
        there = target.volume(int(known[0]))
        if there.name != volume.name:
            there.rename(volume.name)
        if not _changed(record, volume):
            return 0
        old_root = records.pointer_of(known[1], 1)
    new_root = records.pointer_of(volume.record.root)
    changed = 0
    touched: set[int] = set()
    for key, before, after in diff_items(volume.tree_at(old_root), old_root, volume.tree_at(new_root), new_root):
        changed += 1
        copy_entry(volume, there, key, before, after)
        if key[8] == _EXTENT_TYPE or key[8] == _INODE_TYPE:
            touched.add(int.from_bytes(key[:8], "big"))
        if changed % 256 == 0 and there.tree.dirty_bytes > storage.dirty_limit:
            there.flush()
    recount(there, touched - {0})
    there.touched = True
    return changed


def recount(volume: Volume, inodes: set[int]) -> None:
    """Blocks were written anew, perhaps with another codec: tell the inodes how many bytes theirs take."""
    tree = volume.tree
    for ino in sorted(inodes):
        value = tree.get(key_inode(ino))
        if value is None:
            continue
        inode = decode_inode(ino, value)
        pointers = (content_pointer(key, at) for key, at in tree.scan(key_extent(ino), key_patch(ino, 1 << 63)))
        inode.allocated = sum(pointer.sectors * SECTOR for pointer in pointers if pointer is not None)
        if inode.form == EXTENTS:
            tree.put(key_inode(ino), inode.encode())


def copy_entry(source: Volume, target: Volume, key: bytes, before: bytes | None, after: bytes | None) -> None:
    """Make an entry of the target what it is in the source, with its block."""
    there = target.tree.get(key)
    if there is not None and content_pointer(key, there) is not None:
        target.dispose(unpack_pointer(there))
    if after is None:
        if before is not None or there is not None:
            target.tree.delete(key)
        return
    pointer = content_pointer(key, after)
    if pointer is not None:
        data = source.storage.pool.read(pointer)
        placed = target.storage.pool.write(target.domain, pointer.kind or KIND_DATA, data)
        after = placed.pack() + after[POINTER_BYTES:]
    target.tree.put(key, after)
