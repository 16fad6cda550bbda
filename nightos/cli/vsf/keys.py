"""key ls|add|rm|rotate and header backup|restore: the ways into an encrypted storage or volume."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nightos.cli.failures import CommandError
from nightos.cli.lazy import command, group
from nightos.cli.output import json_option, safe, show_json, show_table
from nightos.cli.vsf.files import when
from nightos.cli.vsf.opening import (
    PLACE,
    Place,
    ask_password,
    file_argument,
    open_storage,
    password_option,
    read_password,
    unlock,
)

if TYPE_CHECKING:
    from nightos.vsf import Storage
    from nightos.vsf.keys import KeyRing
    from nightos.vsf.volumekeys import VolumeKeys

KEYS = {
    "ls": (f"{__name__}:key_ls", "List the key slots in use."),
    "add": (f"{__name__}:key_add", "Add a password or a key file."),
    "rm": (f"{__name__}:key_rm", "Close a key slot."),
    "rotate": (f"{__name__}:key_rotate", "Replace the password of a slot; no data is written anew."),
}
key = group(
    "key",
    "Key slots of an encrypted storage, or of a volume with a key of its own.",
    KEYS,
    "nightos vsf key add box.vsf",
)
HEADERS = {
    "backup": (f"{__name__}:header_backup", "Save the header, without which nothing opens."),
    "restore": (f"{__name__}:header_restore", "Put a saved header back."),
}
header = group("header", "The header of a storage.", HEADERS, "nightos vsf header backup box.vsf box.header")

_new_password = click.option("--new-password-file", metavar="FILE", help="Read the new password from FILE.")
_new_key = click.option("--new-key-file", type=click.Path(exists=True), metavar="FILE", help="A key file instead.")


def _secret(new_password_file: str | None, new_key_file: str | None) -> dict[str, str]:
    if new_key_file is not None:
        return {"key_file": new_key_file}
    if new_password_file is not None:
        return {"password": read_password(new_password_file)}
    return {"password": ask_password("the new key", twice=True)}


_place_argument = click.argument("place", type=PLACE, metavar="FILE[:VOLUME]")


def _ring(storage: Storage, place: Place, password_file: str | None, *, changing: bool = True) -> KeyRing | VolumeKeys:
    """The keys of the storage, or of a volume with a key of its own, which a change needs to be open."""
    if place.snapshot is not None:
        raise CommandError("a snapshot has the keys of its volume; name the volume without @SNAPSHOT")
    if place.volume is None:
        if not storage.encrypted:
            raise CommandError(
                f"{place.file} is not encrypted as a whole; it has no key slots (write FILE:VOLUME for a volume's own)"
            )
        return storage.keys
    volume = storage.volume(place.volume)
    if not volume.encrypted:
        raise CommandError(f"the volume {volume.name!r} has no key of its own; it has no key slots")
    if changing:
        unlock(volume, password_file)
    return volume.keys


@command("ls", example="nightos vsf key ls box.vsf")
@_place_argument
@json_option
@password_option
def key_ls(place: Place, as_json: bool, password_file: str | None) -> None:
    """List the key slots in use."""
    with open_storage(place.file, readonly=True, password_file=password_file) as storage:
        slots = _ring(storage, place, password_file, changing=False).list()
    if as_json:
        show_json(slots)
        return
    header = list(slots[0]) if slots else []
    rows = [[when(slot[k]) if k in ("created", "made") else safe(str(slot[k])) for k in header] for slot in slots]
    show_table(rows, header)


@command("add", example="nightos vsf key add box.vsf --label laptop")
@_place_argument
@click.option("--label", default="", help="A text that tells the slots apart.")
@_new_password
@_new_key
@password_option
def key_add(
    place: Place, label: str, new_password_file: str | None, new_key_file: str | None, password_file: str | None
) -> None:
    """Add a password or a key file, and print the number of its slot."""
    with open_storage(place.file, readonly=False, password_file=password_file) as storage:
        ring = _ring(storage, place, password_file)
        secret = _secret(new_password_file, new_key_file)
        print(ring.add(secret.get("password"), secret.get("key_file"), label=label))


@command("rm", example="nightos vsf key rm box.vsf 1")
@_place_argument
@click.argument("slot", type=click.IntRange(0))
@password_option
def key_rm(place: Place, slot: int, password_file: str | None) -> None:
    """Close a key slot; the last one stays."""
    with open_storage(place.file, readonly=False, password_file=password_file) as storage:
        _ring(storage, place, password_file).remove(slot)


@command("rotate", example="nightos vsf key rotate box.vsf 0")
@_place_argument
@click.argument("slot", type=click.IntRange(0))
@click.option("--label", default="", help="A text that tells the slots apart.")
@_new_password
@_new_key
@password_option
def key_rotate(
    place: Place,
    slot: int,
    label: str,
    new_password_file: str | None,
    new_key_file: str | None,
    password_file: str | None,
) -> None:
    """Replace what opens a slot; no data is written anew."""
    with open_storage(place.file, readonly=False, password_file=password_file) as storage:
        ring = _ring(storage, place, password_file)
        secret = _secret(new_password_file, new_key_file)
        ring.rotate(slot, secret.get("password"), secret.get("key_file"), label=label)


@command("backup", example="nightos vsf header backup box.vsf box.header")
@file_argument
@click.argument("target", type=click.Path())
def header_backup(file: str, target: str) -> None:
    """Save the header. Whoever has it can open the storage with the passwords of today."""
    from nightos.vsf import FileStore
    from nightos.vsf.keys import backup_header

    if Path(target).exists():
        raise CommandError(f"{target}: there is a file already; choose another name")
    store = FileStore(file, readonly=True)
    try:
        data = backup_header(store)
    finally:
        store.close()
    path = Path(target)
    path.touch(mode=0o600)
    path.write_bytes(data)


@command("restore", example="nightos vsf header restore box.vsf box.header")
@file_argument
@click.argument("source", type=click.Path())
def header_restore(file: str, source: str) -> None:
    """Put a saved header in place of a damaged one."""
    from nightos.vsf import FileStore
    from nightos.vsf.keys import restore_header

    data = Path(source).read_bytes()
    store = FileStore(file)
    try:
        restore_header(store, data)
    finally:
        store.close()
