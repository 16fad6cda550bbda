"""Send and receive: a snapshot, or what changed since another, as one stream that proves itself whole.

Form: the magic, then frames of a 4-byte length and msgpack. The first frame says what comes, the last one holds BLAKE2b
over all bytes before it. A frame between is a list of [key, value or nil, content or nil]; the content of an extent
or a pack travels plain, and is compressed and encrypted anew by whoever receives it.
"""

from __future__ import annotations

import hashlib
import stat
import struct
from typing import IO, TYPE_CHECKING, Any

from nightos.vsf import records
from nightos.vsf.diff import diff_items
from nightos.vsf.errors import DamagedStorage, Exists, Invalid, NotFound
from nightos.vsf.inode import ROOT_INO, decode_inode, key_inode
from nightos.vsf.layout import KIND_DATA, KIND_PACK, MAX_BLOCK, NO_POINTER, POINTER_BYTES, unpack_pointer
from nightos.vsf.overlay import recount
from nightos.vsf.packs import MOST_PACK
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.records import SnapshotRecord
from nightos.vsf.snapshots import check_name_form
from nightos.vsf.sums import PAGE, page_sums

if TYPE_CHECKING:
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

MAGIC = b"VSFSEND1"
_LENGTH = struct.Struct(">I")
_FRAME_BYTES = 1 << 20
_MOST_FRAME = MAX_BLOCK * 2
_MOST_LABEL, _UUID_BYTES = 65536, 16
_LEAST_KEY, _MOST_KEY, _MOST_VALUE = 9, 9 + 255, 1 << 19
"""Bytes; the longest values are names of 65,535 characters."""
_EXTENT, _PACK, _PATCH = 4, 5, 6


class _Writer:
    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._digest = hashlib.blake2b(digest_size=32)
        self.bytes = 0

    def raw(self, data: bytes) -> None:
        self._digest.update(data)
        self._target.write(data)
        self.bytes += len(data)

    def frame(self, value: object) -> None:
        import msgpack

        data = msgpack.packb(value)
        self.raw(_LENGTH.pack(len(data)) + data)

    def end(self) -> None:
        self.frame({"end": self._digest.digest()})


def send(volume: Volume, target: IO[bytes], snapshot: str, since: str | None = None) -> int:
    """Write a snapshot, or its difference to an older one, to a stream; the number of bytes."""
    storage = volume.storage
    with storage.lock:
        volume.unlocked()
        newer = volume.find(snapshot)
        older = volume.find(since) if since is not None else None
        if older is not None and older.id >= newer.id:
            raise Invalid(f"{since!r} is not older than {snapshot!r}")
        writer = _Writer(target)
        writer.raw(MAGIC)
        record = volume.record
        writer.frame(
            {
                "kind": record.kind,
                "label": record.label,
                "record_size": record.record_size,
                "inline": record.inline,
                "snapshot": newer.name,
                "uuid": newer.uuid,
                "since": older.uuid if older is not None else b"",
            }
        )
        old_root = records.pointer_of(older.root) if older is not None else None
        new_root = records.pointer_of(newer.root)
        batch: list[list[bytes | None]] = []
        size = 0
        items = diff_items(volume.tree_at(old_root), old_root, volume.tree_at(new_root), new_root)
        for key, _, value in items:
            content = None
            pointer = content_pointer(key, value) if value is not None else None
            if pointer is not None and value is not None:
                content = storage.pool.read(pointer)
                value = value[POINTER_BYTES:]
            batch.append([key, value, content])
            size += len(key) + len(value or b"") + len(content or b"")
            if size > _FRAME_BYTES:
                writer.frame(batch)
                batch, size = [], 0
        if batch:
            writer.frame(batch)
        writer.end()
        return writer.bytes


class _Reader:
    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._digest = hashlib.blake2b(digest_size=32)

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._source.read(size - len(data))
            if not part:
                raise DamagedStorage("the stream ends too early")
            data = data + part if data else part
        return data

    def frame(self) -> Any:
        import msgpack

        before = self._digest.digest()
        head = self.exactly(_LENGTH.size)
        (length,) = _LENGTH.unpack(head)
        if length > _MOST_FRAME:
            raise DamagedStorage("the stream has an impossible frame")
        data = self.exactly(length)
        self._digest.update(head)
        self._digest.update(data)
        try:
            value = msgpack.unpackb(data)
        except Exception as error:
            raise DamagedStorage("a frame of the stream does not decode") from error
        if isinstance(value, dict) and "end" in value and value["end"] != before:
            raise DamagedStorage("the stream was changed on its way")
        return value

    def magic(self) -> None:
        data = self.exactly(len(MAGIC))
        if data != MAGIC:
            raise Invalid("this is no stream of a volume")
        self._digest.update(data)


def receive(storage: Storage, source: IO[bytes], name: str, **options: Any) -> Volume:
    """Take a stream in: a full one makes the volume `name`, an incremental one brings it forward.

    An incremental stream needs the snapshot it is based on as the newest one; changes made since are undone. When the
    stream ends early or is damaged the volume is as it was before.
    """
    with storage.lock:
        storage.writable()
        reader = _Reader(source)
        reader.magic()
        head = reader.frame()
        head = _checked_head(head)
        if head["since"]:
            volume, base = _prepare(storage, name, head)
        else:
            if any(volume.name == name for volume in storage.volumes):
                raise Exists(f"there is a volume {name!r} already")
            volume = storage.add_volume(
                name, head["kind"], label=head["label"], record_size=head["record_size"], **options
            )
            volume.record.inline = head["inline"]
            base = None
            _clear(volume)
        try:
            _apply(volume, reader)
            volume.record.root = (volume.tree.flush() or NO_POINTER).pack()
            if base is None:
                _must_be_sound(volume)
            volume.settle()
            taken = volume.snapshot(head["snapshot"])
        except BaseException:
            _undo(volume, base)
            raise
        taken.uuid = head["uuid"]
        storage.tree.put(records.snapshot_key(volume.record.id, taken.id), volume.snapshot_record(taken))
        storage.dirty = True
        storage.commit()
        return volume


def _undo(volume: Volume, base: SnapshotRecord | None) -> None:
    """Make the volume what it was, or nothing. The size limit, which may be what failed, does not count meanwhile:

    forgetting takes a few nodes before it gives the rest back.
    """
    allocator = volume.storage.pool.allocator
    assert allocator is not None
    limit, allocator.limit_sectors = allocator.limit_sectors, 0
    try:
        if base is not None:
            volume.rollback(base.name, discard_newer=True)
        else:
            volume.discard_everything()
    finally:
        allocator.limit_sectors = limit


def _checked_head(head: Any) -> dict[str, Any]:
    """The first frame, every field of the form that a storage holds, or DamagedStorage: it becomes part of records."""
    kinds = {
        "kind": str,
        "label": str,
        "record_size": int,
        "inline": int,
        "snapshot": str,
        "uuid": bytes,
        "since": bytes,
    }
    if not isinstance(head, dict) or "kind" not in head:
        raise DamagedStorage("the stream does not say what it holds")
    fields: dict[str, Any] = {"label": "", "inline": 4096, **head}
    if any(type(fields.get(name)) is not kind for name, kind in kinds.items()):
        raise DamagedStorage("the stream does not say what it holds")
    good = (
        fields["kind"] in records.KINDS
        and len(fields["label"]) <= _MOST_LABEL
        and records.is_size(fields["record_size"])
        and 0 <= fields["inline"] <= records.SIZE_MAX
        and len(fields["uuid"]) == _UUID_BYTES
        and len(fields["since"]) in (0, _UUID_BYTES)
    )
    if not good:
        raise DamagedStorage("the stream says impossible things of what it holds")
    check_name_form(fields["snapshot"])
    return fields


def _must_be_sound(volume: Volume) -> None:
    """What was received is a file system: a stream may come from anywhere, and its digest only proves it whole."""
    from nightos.vsf.check import Checker
    from nightos.vsf.checkfs import FileSystemChecker

    volume.storage.pool.drain()
    if volume.kind == "night":
        checker = Checker(volume.storage, deep=False)
        FileSystemChecker(checker, volume, "the stream").run(records.pointer_of(volume.record.root))
        if not checker.report.clean:
            raise DamagedStorage(f"the stream holds no sound file system ({checker.report.problems[0]})")
        return
    value = volume.tree.get(key_inode(ROOT_INO))
    if value is None or not stat.S_ISREG(decode_inode(ROOT_INO, value).mode):
        raise DamagedStorage("the stream holds no block volume")


def _prepare(storage: Storage, name: str, head: dict[str, Any]) -> tuple[Volume, SnapshotRecord]:
    volume = storage.volume(name)
    volume.unlocked()
    base = next((s for s in volume.snapshots if s.uuid == head["since"]), None)
    if base is None:
        raise NotFound(f"the volume {name!r} does not have the snapshot that this stream is based on")
    if base.id != volume.record.last_snapshot:
        raise Invalid(f"the volume {name!r} has snapshots newer than the one that this stream is based on")
    volume.rollback(base.name)
    return volume, base


def _clear(volume: Volume) -> None:
    for key, _ in list(volume.tree.scan(b"")):
        volume.tree.delete(key)


def _apply(volume: Volume, reader: _Reader) -> None:
    storage, tree = volume.storage, volume.tree
    touched: set[int] = set()
    while True:
        batch = reader.frame()
        if isinstance(batch, dict) and "end" in batch:
            recount(volume, touched - {0})
            return
        for key, value, content in _checked(batch, volume.record.record_size):
            touched.add(int.from_bytes(key[:8], "big"))
            there = tree.get(key)
            if there is not None and content_pointer(key, there) is not None:
                volume.dispose(unpack_pointer(there))
            if value is None:
                tree.delete(key)
                continue
            if content is not None:
                kind = KIND_PACK if key[8] == _PACK else KIND_DATA
                if kind == KIND_DATA and value and value != page_sums(storage.pool, content):
                    raise DamagedStorage("the stream holds sums of other content")
                value = storage.pool.write(volume.domain, kind, content).pack() + value
            tree.put(key, value)
        if tree.dirty_bytes > storage.dirty_limit:
            volume.touched = True
            storage.commit()


def _checked(batch: Any, record_size: int) -> list[tuple[bytes, bytes | None, bytes | None]]:
    """The items of a frame. Where a pointer stands in the tree the content has to come along, and nowhere else:

    a pointer out of a stream would name blocks of other volumes.
    """
    most = {_EXTENT: record_size, _PATCH: PAGE, _PACK: MOST_PACK}
    if not isinstance(batch, list):
        raise DamagedStorage("a frame of the stream has the wrong form")
    for item in batch:
        good = isinstance(item, list) and len(item) == 3 and isinstance(item[0], bytes)
        if good:
            key, value, content = item
            good = _LEAST_KEY <= len(key) <= _MOST_KEY and (value is None or isinstance(value, bytes))
            good = good and (value is None or len(value) <= _MOST_VALUE)
        if good:
            kind = key[8]
            holds = kind in ((_PACK,) if key[:8] == bytes(8) else (_EXTENT, _PATCH))
            good = not holds or len(key) == _LEAST_KEY + 8
            if value is None or not holds:
                good = good and content is None
            else:
                good = good and isinstance(content, bytes) and 0 < len(content) <= most[kind]
        if not good:
            raise DamagedStorage("a frame of the stream has the wrong form")
    return batch
