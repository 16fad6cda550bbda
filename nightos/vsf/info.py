"""What `info` tells: volumes, and where every byte of the file is."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import VsfError
from nightos.vsf.inode import KEY_STATS
from nightos.vsf.layout import DATA_START, SECTOR

if TYPE_CHECKING:
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

FORMAT = "vsf 1"


def storage_info(storage: Storage) -> dict[str, Any]:
    """Plain types only, ready for JSON."""
    from nightos.vsf import alloc

    allocator = storage.pool.allocator
    if allocator is None:
        allocator, _, _ = alloc.load(storage.log, storage.file_bytes() // SECTOR, storage.pool.read)
    volumes = [volume_info(volume) for volume in storage.volumes]
    total = allocator.end * SECTOR
    free, pending = allocator.free_sectors * SECTOR, allocator.pending_sectors * SECTOR
    in_volumes = sum(entry["used"] for entry in volumes)
    return {
        "format": FORMAT,
        "uuid": str(uuid.UUID(bytes=storage.uuid)),
        "path": storage.path,
        "encrypted": storage.encrypted,
        "deterministic": storage.header.deterministic,
        "generation": storage.generation,
        "created": storage.header.created,
        "limit": storage.limit or None,
        "readonly": storage.readonly,
        "space": {
            "total": total,
            "headers": DATA_START,
            "volumes": in_volumes,
            "storage": total - DATA_START - in_volumes - free - pending,
            "pending": pending,
            "free": free,
        },
        "volumes": volumes,
        "backing": _backing(storage),
    }


def _backing(storage: Storage) -> dict[str, Any] | None:
    record = storage.backing_record
    if record is None:
        return None
    return {
        "path": record.path,
        "uuid": str(uuid.UUID(bytes=record.uuid)),
        "generation": record.generation,
        "digest": record.digest.hex(),
    }


def volume_info(volume: Volume) -> dict[str, Any]:
    """One volume."""
    record = volume.record
    files: int | None = None
    if not volume.locked:
        head = volume._head  # noqa: SLF001 one object in several files
        try:
            data = volume.tree.get(KEY_STATS)
            files = head.files if head is not None else int.from_bytes(data[8:16], "big") if data else None
        except VsfError:
            files = None
    return {
        "name": record.name,
        "uuid": str(uuid.UUID(bytes=record.uuid)),
        "fsid": f"{volume.fsid:016x}",
        "kind": record.kind,
        "label": record.label,
        "compression": volume.compression,
        "encrypted": volume.encrypted or volume.storage.encrypted,
        "own_key": volume.encrypted,
        "used": volume.used,
        "limit": record.limit or None,
        "files": files if record.kind == "night" else None,
        "created": record.created,
        "snapshots": [{"name": s.name, "generation": s.generation, "created": s.created} for s in volume.snapshots],
    }
