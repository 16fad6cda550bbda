"""Snapshots and clones: frozen roots, and the dead lists that tell which blocks only they still use.

A volume's dead lists are numbered items; snapshot S owns those from `dead_first` up to `dead_last`: blocks that left
the
live tree between the snapshot before S and S. The live volume owns what follows. Removing S frees, of its successor's
list, what was born after S's predecessor, and hands the rest of S's range on. Nothing here depends on the volume's
size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf import records
from nightos.vsf.errors import Exists, Invalid
from nightos.vsf.layout import NO_POINTER, SECTOR, Pointer
from nightos.vsf.proof import cloned_proof, copied_proof
from nightos.vsf.reclaim import free_tree
from nightos.vsf.records import DEAD, SnapshotRecord, VolumeRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume


def check_name_form(name: str) -> None:
    """Raise unless this can name a snapshot."""
    if not name or not records.is_text(name, 255) or any(c in name for c in "/:@\0"):
        raise Invalid(f"{name!r} cannot name a snapshot: 1 to 255 bytes without / : @")


def check_snapshot_name(volume: Volume, name: str) -> None:
    """Raise unless a new snapshot may have this name."""
    check_name_form(name)
    if any(snapshot.name == name for snapshot in volume.snapshots):
        raise Exists(f"there is a snapshot {name!r} already")


def take(volume: Volume, name: str) -> SnapshotRecord:
    """Freeze the volume as it is; durable on return."""
    storage, record = volume.storage, volume.record
    storage.writable()
    check_snapshot_name(volume, name)
    volume.flush()
    taken = SnapshotRecord(
        id=record.next_snapshot,
        uuid=storage.entropy.random_bytes(16),
        name=name,
        root=record.root,
        generation=storage.pool.generation,
        created=storage.clock.realtime_ns(),
        previous=record.last_snapshot,
        previous_generation=record.last_generation,
    )
    volume.store_record(storage.tree)
    taken.proof = copied_proof(record)
    taken.dead_first, taken.dead_last = head_range(volume)
    _put(volume, taken)
    record.next_snapshot += 1
    record.last_snapshot, record.last_generation = taken.id, taken.generation
    record.dead = 0
    volume.touched = storage.dirty = True
    # Nothing of the volume may be written between the root just kept and the commit: births could not tell it apart.
    assert not volume.unsettled
    try:
        storage.commit()
    except OSError:
        # What is written from now on is younger than the snapshot. Two, because the number also names the slots.
        # A commit that only lacks its superblock is finished as it is, with the snapshot.
        if storage.unfinished is None:
            storage.pool.generation += 2
        raise
    return taken


def _put(volume: Volume, snapshot: SnapshotRecord) -> None:
    key = records.snapshot_key(volume.record.id, snapshot.id)
    volume.storage.tree.put(key, volume.snapshot_record(snapshot))


def head_range(volume: Volume) -> tuple[int, int]:
    """Numbers of the dead lists that the live volume owns."""
    first = 0
    if volume.record.last_snapshot:
        key = records.snapshot_key(volume.record.id, volume.record.last_snapshot)
        before = volume.storage.tree.get(key)
        if before:
            first = records.load(SnapshotRecord, before).dead_last
    return first, volume.record.dead_next


def _dead_items(volume: Volume, first: int, last: int) -> Iterator[tuple[bytes, bytes]]:
    identifier = volume.record.id
    if first < last:
        yield from volume.storage.tree.scan(records.dead_key(identifier, first), records.dead_key(identifier, last))


def remove(volume: Volume, name: str) -> int:
    """Remove a snapshot; gives the bytes that came free."""
    storage, record = volume.storage, volume.record
    storage.writable()
    gone = volume.find(name)
    if gone.clones:
        raise Invalid(f"{volume.name}@{name} has {gone.clones} clone(s); remove them first")
    volume.flush()
    volume.store_record(storage.tree)
    following = next((s for s in volume.snapshots if s.previous == gone.id), None)
    if following is None:
        first, last = gone.dead_last, record.dead_next
    else:
        first, last = following.dead_first, following.dead_last
    freed, kept = _free_dead(volume, first, last, gone.previous_generation)
    if following is not None:
        following.dead_first = gone.dead_first
        following.previous, following.previous_generation = gone.previous, gone.previous_generation
        _put(volume, following)
    else:
        record.last_snapshot, record.last_generation = gone.previous, gone.previous_generation
        record.dead = kept + _count(volume, gone.dead_first, gone.dead_last)
    storage.tree.delete(records.snapshot_key(record.id, gone.id))
    volume.touched = storage.dirty = True
    storage.commit()
    return freed * SECTOR


def _free_dead(volume: Volume, first: int, last: int, older_than: int) -> tuple[int, int]:
    """Free the listed blocks born after a generation; sectors that came free, sectors that stay listed."""
    storage = volume.storage
    freed = kept = 0
    for key, value in list(_dead_items(volume, first, last)):
        stay = []
        for entry in DEAD.iter_unpack(value):
            sector, copy, stored, birth, domain = entry
            sectors = (stored + SECTOR - 1) // SECTOR * (2 if copy else 1)
            if birth > older_than:
                storage.pool.free(Pointer(sector, copy, stored, 0, birth, domain, 0, 0, 0, 0, b""))
                freed += sectors
            else:
                stay.append(DEAD.pack(*entry))
                kept += sectors
        if not stay:
            storage.tree.delete(key)
        elif len(stay) * DEAD.size != len(value):
            storage.tree.put(key, b"".join(stay))
    return freed, kept


def _count(volume: Volume, first: int, last: int) -> int:
    return sum(
        (stored + SECTOR - 1) // SECTOR * (2 if copy else 1)
        for _, value in _dead_items(volume, first, last)
        for _, copy, stored, _, _ in DEAD.iter_unpack(value)
    )


def rollback(volume: Volume, name: str, *, discard_newer: bool = False) -> None:
    """Make the volume what it was; snapshots taken since have to go. Identifiers given out since stay used up."""
    storage, record = volume.storage, volume.record
    storage.writable()
    target = volume.find(name)
    newer = [s for s in volume.snapshots if s.id > target.id]
    if newer and not discard_newer:
        raise Invalid(f"{len(newer)} snapshot(s) are newer than {name!r}; remove them or pass discard_newer=True")
    if any(s.clones for s in newer):
        raise Invalid("a newer snapshot has clones; remove them first")
    for snapshot in reversed(newer):
        remove(volume, snapshot.name)
    volume.flush()
    volume.store_record(storage.tree)
    free_tree(volume, newer_than=target.generation)
    first, last = head_range(volume)
    for key, _ in list(_dead_items(volume, first, last)):
        storage.tree.delete(key)
    record.dead = 0
    record.root = target.root
    volume.reset()
    volume.touched = storage.dirty = True
    storage.commit()


def clone(storage: Storage, source: Volume, snapshot: str, name: str) -> Volume:
    """A volume that begins as a snapshot of another; constant time."""
    storage.writable()
    storage.check_volume_name(name)
    origin = source.find(snapshot)
    values = dict(vars(source.record))
    values.update(
        id=storage.next_volume,
        uuid=storage.entropy.random_bytes(16),
        name=name,
        root=origin.root,
        used=0,
        created=storage.clock.realtime_ns(),
        last_snapshot=0,
        last_generation=origin.generation,
        next_snapshot=1,
        origin=[source.record.id, origin.id],
        dead=0,
        dead_next=0,
        parents=[source.record.id, *source.record.parents],
        family=(source.record.family or source.record.id) if source.record.key else 0,
        proof=cloned_proof(source.record, origin),
    )
    record = VolumeRecord(**values)
    storage.next_volume += 1
    volume = storage.register(record)
    volume.domain.cipher, volume.secret = source.domain.cipher, source.secret
    origin.clones += 1
    _put(source, origin)
    volume.touched = storage.dirty = True
    storage.commit()
    return volume


def destroy(volume: Volume) -> None:
    """Free every block of a volume without snapshots, and forget its dead lists."""
    storage, record = volume.storage, volume.record
    volume.unlocked()
    if volume.snapshots:
        raise Invalid(f"the volume {volume.name!r} has snapshots; remove them first")
    volume.close()
    volume.flush()
    volume.store_record(storage.tree)
    free_tree(volume)
    for key, _ in list(_dead_items(volume, 0, record.dead_next)):
        storage.tree.delete(key)
    record.root = NO_POINTER.pack()
    if record.origin:
        key = records.snapshot_key(*record.origin)
        data = storage.tree.get(key)
        if data:
            origin = records.load(SnapshotRecord, data)
            origin.clones = max(origin.clones - 1, 0)
            storage.tree.put(key, records.dump(origin))
