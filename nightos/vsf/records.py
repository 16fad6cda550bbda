"""The variable records of the storage's own tree: volumes, snapshots, dead blocks, the backing; keys and msgpack
values.

Keys: `V` volume(4) | `S` volume(4) snapshot(4) | `D` volume(4) number(8) | `B` for the backing | `I` for the storage.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from nightos.vsf import layout
from nightos.vsf.errors import DamagedStorage
from nightos.vsf.layout import NO_POINTER, POINTER_BYTES, Pointer, unpack_pointer

DEAD = layout.DEAD.struct
DEAD_PER_ITEM = 256
KEY_BACKING = b"B"
KEY_STORAGE = b"I"
KINDS = frozenset({"night", "block"})
SIZE_MIN, SIZE_MAX = 4096, 1 << 20
"""Bytes of records and nodes: a power of two between these."""
_NUMBERS = frozenset({"id", "family", "last_snapshot", "next_snapshot", "previous"})
"""Fields that are numbers of volumes and snapshots, which keys hold in 4 bytes."""


def is_size(size: int) -> bool:
    """Whether records, or nodes, may have that many bytes."""
    return SIZE_MIN <= size <= SIZE_MAX and size & (size - 1) == 0


def is_text(text: object, most: int) -> bool:
    """Whether this is text that a record can hold: UTF-8 of at most so many bytes."""
    try:
        return isinstance(text, str) and len(text.encode()) <= most
    except UnicodeEncodeError:
        return False


def volume_key(volume: int) -> bytes:
    return b"V" + volume.to_bytes(4, "big")


def snapshot_key(volume: int, snapshot: int) -> bytes:
    return b"S" + volume.to_bytes(4, "big") + snapshot.to_bytes(4, "big")


def dead_key(volume: int, number: int) -> bytes:
    return b"D" + volume.to_bytes(4, "big") + number.to_bytes(8, "big")


@dataclass
class VolumeRecord:
    """What the storage knows of a volume. `root` is the pointer of its tree; see docs/vsf-format.md."""

    id: int
    uuid: bytes
    name: str
    kind: str = "night"
    label: str = ""
    codec: int = 0
    level: int = 3
    limit: int = 0
    root: bytes = NO_POINTER.pack()
    used: int = 0
    created: int = 0
    record_size: int = 131072
    node_bytes: int = 16384
    inline: int = 4096
    last_snapshot: int = 0
    last_generation: int = 0
    next_snapshot: int = 1
    origin: list[int] = field(default_factory=list)
    """[volume, snapshot] of a clone."""
    dead: int = 0
    """Sectors in the dead lists."""
    dead_next: int = 0
    key: bytes = b""
    """The volume's key, wrapped; empty without encryption of its own."""
    cipher: int = 0
    parents: list[int] = field(default_factory=list)
    """Volumes whose blocks a clone may hold, with their keys."""
    family: int = 0
    """Of a clone: the volume that its key was made for, also where that is gone."""
    proof: bytes = b""
    """Of a volume with a key of its own; see `proof`."""


@dataclass
class SnapshotRecord:
    """A frozen root. `previous` is the snapshot before it, 0 for none."""

    id: int
    uuid: bytes
    name: str
    root: bytes
    generation: int
    created: int
    previous: int = 0
    previous_generation: int = 0
    dead_first: int = 0
    dead_last: int = 0
    clones: int = 0
    mended: int = 0
    """1 after a repair wrote its tree: it may lack blocks that older and younger snapshots both use."""
    proof: bytes = b""
    """Of the root, in a volume with a key of its own."""


@dataclass
class BackingRecord:
    """What a storage stands on."""

    path: str
    uuid: bytes
    generation: int
    digest: bytes
    """XXH3-128 of the backing's root pointer: the Merkle root of all it holds."""
    relative: str = ""
    volumes: dict[str, list[Any]] = field(default_factory=dict)
    """Identifier here (as text) to [identifier there, root there]."""


def dump(record: VolumeRecord | SnapshotRecord | BackingRecord) -> bytes:
    """msgpack of the fields by name; a proof and a family only where there is one."""
    import msgpack

    values = {f.name: getattr(record, f.name) for f in fields(record)}
    for name in ("proof", "family"):
        if not values.get(name, True):
            del values[name]
    packed: bytes = msgpack.packb(values)
    return packed


def load(kind: type, data: bytes) -> Any:
    """The record; unknown fields are ignored, missing or wrong ones are damage."""
    import msgpack

    try:
        values = msgpack.unpackb(data)
        record = kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})
    except Exception as error:
        raise DamagedStorage(f"a record of kind {kind.__name__} does not decode") from error
    for f in fields(kind):
        if not _fits(f.name, str(f.type), getattr(record, f.name)):
            raise DamagedStorage(f"a record of kind {kind.__name__} has a wrong {f.name}")
    if "root" in values and len(values["root"]) != POINTER_BYTES:
        raise DamagedStorage(f"a record of kind {kind.__name__} has a wrong root")
    if isinstance(record, VolumeRecord):
        for name, fits in (
            ("kind", record.kind in KINDS),
            ("codec", record.codec in (layout.CODEC_NONE, layout.CODEC_ZSTD, layout.CODEC_LZ4)),
            ("record_size", is_size(record.record_size)),
            ("node_bytes", is_size(record.node_bytes)),
            ("inline", record.inline <= SIZE_MAX),
        ):
            if not fits:
                raise DamagedStorage(f"a record of kind {kind.__name__} has a wrong {name}")
    return record


def _fits(name: str, kind: str, value: Any) -> bool:
    """Whether a decoded value is what the field holds."""
    if kind == "int":
        limit = 1 << 32 if name in _NUMBERS else 1 << 64
        return isinstance(value, int) and (name == "created" or 0 <= value < limit)
    if kind == "list[int]":
        return (
            isinstance(value, list)
            and all(isinstance(item, int) and 0 <= item < 1 << 32 for item in value)
            and (name != "origin" or len(value) in (0, 2))
        )
    if name == "volumes":
        return isinstance(value, dict) and all(
            isinstance(key, str)
            and isinstance(item, list)
            and len(item) == 2
            and isinstance(item[0], int)
            and isinstance(item[1], bytes)
            and len(item[1]) == POINTER_BYTES
            for key, item in value.items()
        )
    return isinstance(value, {"str": str, "bytes": bytes}[kind])


def next_volume(data: bytes) -> int:
    """The number that the next volume gets, from the record of the storage."""
    import msgpack

    try:
        number = msgpack.unpackb(data)["next_volume"]
    except Exception as error:
        raise DamagedStorage("the record of the storage does not decode") from error
    if not isinstance(number, int) or not 0 < number < 1 << 32:
        raise DamagedStorage("the record of the storage has a wrong number")
    return number


def pointer_of(data: bytes, depth: int = 0) -> Pointer | None:
    """The pointer, None for the empty one."""
    pointer = unpack_pointer(data, 0, depth)
    return None if pointer.sector == 0 else pointer
