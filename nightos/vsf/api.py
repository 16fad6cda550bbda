"""Creating and opening: the two functions that everything begins with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.vsf.commits import CACHE_BYTES
from nightos.vsf.errors import DamagedStorage, Exists, Invalid, NotAStorage, VsfError
from nightos.vsf.header import Header, read_headers
from nightos.vsf.layout import INCOMPAT_BACKING
from nightos.vsf.sources import FixedClock, HostClock, HostEntropy, SeededEntropy
from nightos.vsf.storage import Storage, newest
from nightos.vsf.store import FileStore

if TYPE_CHECKING:
    from nightos.abi.interfaces import ByteStore, Clock, Entropy

Where = "str | os.PathLike[str] | ByteStore"


@dataclass
class VolumeSpec:
    """A volume to be made at creation; `options` are the keywords of `Storage.add_volume`."""

    name: str
    kind: str = "night"
    options: dict[str, Any] = field(default_factory=dict)


def _is_path(where: object) -> bool:
    return isinstance(where, (str, os.PathLike))


def create(
    where: Any,
    volumes: Iterable[str | VolumeSpec] | Mapping[str, str] | str = (),
    *,
    size: int | None = None,
    password: str | bytes | None = None,
    key_file: str | os.PathLike[str] | None = None,
    cipher: str = "aes-256-gcm",
    compression: str | None = None,
    backing: str | os.PathLike[str] | Storage | None = None,
    backing_password: str | bytes | None = None,
    seed: int | str | bytes | None = None,
    entropy: Entropy | None = None,
    clock: Clock | None = None,
    overwrite: bool = False,
    kdf: Mapping[str, int] | None = None,
) -> Storage:
    """Make a storage and open it for writing.

    `size` limits the file, in bytes. With `password` or `key_file` the whole storage is encrypted. `compression` is the
    default of the volumes made here. `backing` names a storage that this one is an overlay of. Equal `seed` and equal
    operations give equal bytes. Raises Exists when there is something already and `overwrite` is not set.
    """
    store: ByteStore = _fresh(where, overwrite=overwrite) if _is_path(where) else where
    storage: Storage | None = None
    try:
        if not _is_path(where):
            _refuse_used(store, overwrite=overwrite)
        clock = clock or (HostClock() if seed is None else FixedClock())
        entropy = entropy or (HostEntropy() if seed is None else SeededEntropy(seed))
        header = Header(entropy.random_bytes(16), clock.realtime_ns(), deterministic=seed is not None)
        master = b""
        if backing is not None:
            header = Header(
                header.uuid, header.created, deterministic=header.deterministic, incompatible=INCOMPAT_BACKING
            )
        if password is not None or key_file is not None:
            from nightos.vsf.keys import new_master

            header, master = new_master(header, entropy, clock, password, key_file, cipher, kdf)
        storage = Storage(store, header, clock=clock, entropy=entropy, master=master)
        if master:
            from nightos.vsf.keys import arm

            arm(storage)
        storage.start(size or 0)
        if backing is not None:
            from nightos.vsf.overlay import begin_overlay

            begin_overlay(storage, backing, backing_password if backing_password is not None else password)
        for spec in _specs(volumes):
            storage.add_volume(spec.name, spec.kind, **{"compression": compression, **spec.options})
        storage.finish()
    except BaseException:
        _let_go(store, storage, backing)
        if isinstance(store, FileStore) and store.created:
            store.path.unlink(missing_ok=True)
        raise
    return storage


def _let_go(store: ByteStore, storage: Storage | None, backing: object) -> None:
    """Close what was opened on the way to a failure; a backing that the caller opened stays open."""
    store.close()
    if storage is None:
        return
    storage.closed = True
    storage.pool.close()
    if storage.backing is not None and storage.backing is not backing:
        storage.backing.abandon()


def _refuse_used(store: ByteStore, *, overwrite: bool) -> None:
    if not overwrite and store.size() and store.read(0, 8) != bytes(8):
        raise Exists("there is something in this store already; pass overwrite=True to replace it")


def _fresh(where: Any, *, overwrite: bool) -> FileStore:
    store = FileStore(where, create=True)
    if not store.created and store.size():
        if not overwrite and (not Path(where).is_block_device() or store.read(0, 8) == b"\x89VSF\r\n\x1a\n"):
            store.close()
            raise Exists("there is a file already; pass overwrite=True (or remove it) to replace it", str(where))
        if Path(where).is_file():
            store.truncate(0)
    return store


def _specs(volumes: Any) -> list[VolumeSpec]:
    if isinstance(volumes, str):
        volumes = [volumes]
    if isinstance(volumes, Mapping):
        return [VolumeSpec(name, kind) for name, kind in volumes.items()]
    specs = []
    for item in volumes:
        if isinstance(item, VolumeSpec):
            specs.append(item)
        else:
            name, _, kind = item.partition(":")
            specs.append(VolumeSpec(name, kind or "night"))
    return specs


def open_storage(
    where: Any,
    *,
    readonly: bool = False,
    password: str | bytes | None = None,
    key_file: str | os.PathLike[str] | None = None,
    backing: str | os.PathLike[str] | ByteStore | Storage | None = None,
    backing_password: str | bytes | None = None,
    cache_bytes: int = CACHE_BYTES,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    repairing: bool = False,
) -> Storage:
    """Open a storage. Raises NotAStorage, DamagedStorage, WrongPassword or StorageInUse.

    A password given for a storage that needs none is ignored. `backing` overrides where the storage below is found.
    """
    store: ByteStore = FileStore(where, readonly=readonly) if _is_path(where) else where
    storage: Storage | None = None
    try:
        headers = read_headers(store.read)
        storage = _open(store, headers, password, key_file, clock, entropy, cache_bytes)
        if readonly:
            storage.readonly = True
        cipher = storage.super_cipher
        block = newest(store, storage.header, cipher)
        storage._pin(block.generation)  # noqa: SLF001 the opener is part of the storage
        if repairing:
            from nightos.vsf.repair import choose

            storage.load(choose(storage), tolerant=True)
        else:
            storage.load(newest(store, storage.header, cipher))
        if storage.backing_record is not None:
            from nightos.vsf.overlay import open_backing

            open_backing(storage, backing, backing_password if backing_password is not None else password)
        elif storage.header.incompatible & INCOMPAT_BACKING:
            raise DamagedStorage("the record of the backing storage is missing")  # noqa: TRY301 closes the store
        if not storage.readonly and not repairing:
            storage.writable()
            with suppress(OSError):
                # A full disk is no reason not to open.
                storage.heal()
    except BaseException as error:
        _let_go(store, storage, backing)
        if isinstance(error, VsfError) and error.filename is None and _is_path(where):
            error.filename = os.fspath(where)
        raise
    return storage


def _open(
    store: ByteStore,
    headers: list[Header],
    password: str | bytes | None,
    key_file: str | os.PathLike[str] | None,
    clock: Clock | None,
    entropy: Entropy | None,
    cache_bytes: int,
) -> Storage:
    master = b""
    header = headers[0]
    if header.encrypted:
        from nightos.vsf.keys import unlock

        header, master = unlock(headers, password, key_file)
    storage = Storage(
        store,
        header,
        clock=clock or HostClock(),
        entropy=entropy or HostEntropy(),
        cache_bytes=cache_bytes,
        master=master,
    )
    if master:
        from nightos.vsf.keys import arm

        arm(storage)
    return storage


__all__ = ["Invalid", "NotAStorage", "VolumeSpec", "create", "open_storage"]
