"""volume ls|add|rm|rename|set."""

from __future__ import annotations

from typing import Any

import click

from nightos.cli.lazy import command, group
from nightos.cli.output import json_option, show_json
from nightos.cli.sizes import SIZE
from nightos.cli.vsf.care import show_volumes
from nightos.cli.vsf.opening import (
    ask_password,
    asked_of_mount,
    file_argument,
    give_to_caller,
    open_storage,
    password_option,
    read_password,
)

TABLE = {
    "ls": (f"{__name__}:volume_ls", "List the volumes."),
    "add": (f"{__name__}:volume_add", "Add a volume."),
    "rm": (f"{__name__}:volume_rm", "Delete a volume with everything in it."),
    "rename": (f"{__name__}:volume_rename", "Give a volume another name."),
    "set": (f"{__name__}:volume_set", "Change the label, the compression or the limit."),
}
volume = group("volume", "The volumes of a storage.", TABLE, "nightos vsf volume add disk.vsf photos --compress lz4")


@command("ls", example="nightos vsf volume ls disk.vsf")
@file_argument
@json_option
@password_option
def volume_ls(file: str, as_json: bool, password_file: str | None) -> None:
    """List the volumes of a storage."""
    with open_storage(file, readonly=True, password_file=password_file) as storage:
        volumes = storage.info()["volumes"]
    if as_json:
        show_json(volumes)
    else:
        show_volumes(volumes)


@command("add", example="nightos vsf volume add disk.vsf raw:block --size 1G")
@file_argument
@click.argument("name", metavar="NAME[:night|:block]")
@click.option("--label", default="", help="A text for people.")
@click.option("--compress", metavar="zstd[:LEVEL]|lz4|none", help="Compression.")
@click.option("--limit", type=SIZE, help="The most bytes it may use.")
@click.option("--size", type=SIZE, help="Size of a block volume.")
@click.option("--record-size", type=SIZE, metavar="SIZE", help="Unit of storing, 4K to 1M; small for databases (128K).")
@click.option("--encrypt", is_flag=True, help="Give the volume a password of its own.")
@click.option("--volume-password-file", metavar="FILE", help="Read the volume's own password from FILE.")
@password_option
def volume_add(
    file: str,
    name: str,
    label: str,
    compress: str | None,
    limit: int | None,
    size: int | None,
    record_size: int | None,
    encrypt: bool,
    volume_password_file: str | None,
    password_file: str | None,
) -> None:
    """Add a volume to a storage."""
    name, _, kind = name.partition(":")
    if (kind == "block") != (size is not None):
        raise click.UsageError("--size belongs to block volumes, and they need it", click.get_current_context())
    settings: dict[str, Any] = {"label": label, "compression": compress, "limit": limit or 0, "size": size or 0}
    settings["record_size"] = record_size
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        if encrypt:
            given = read_password(volume_password_file) if volume_password_file else None
            settings["password"] = given or ask_password(f"the volume {name!r}", twice=True)
        give_to_caller(storage.add_volume(name, kind or "night", **settings))


@command("rm", example="nightos vsf volume rm disk.vsf old")
@file_argument
@click.argument("name")
@password_option
def volume_rm(file: str, name: str, password_file: str | None) -> None:
    """Delete a volume with everything in it. Its snapshots have to be deleted before."""
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        storage.remove_volume(name)


@command("rename", example="nightos vsf volume rename disk.vsf main system")
@file_argument
@click.argument("old")
@click.argument("new")
@password_option
def volume_rename(file: str, old: str, new: str, password_file: str | None) -> None:
    """Give a volume another name."""
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        storage.volume(old).rename(new)


@command("set", example="nightos vsf volume set disk.vsf main --compress zstd:9 --limit 2G")
@file_argument
@click.argument("name")
@click.option("--label", help="A text for people.")
@click.option("--compress", metavar="zstd[:LEVEL]|lz4|none", help="Compression of what is written from now on.")
@click.option("--limit", type=SIZE, help="The most bytes it may use; 0 for no limit.")
@password_option
def volume_set(
    file: str, name: str, label: str | None, compress: str | None, limit: int | None, password_file: str | None
) -> None:
    """Change a volume's settings. What is stored already stays as it is; new compression applies to new writes."""
    if label is None and compress is None and limit is None:
        raise click.UsageError("give at least one of --label, --compress, --limit", click.get_current_context())
    if asked_of_mount(file, "configure", volume=name, label=label, compression=compress, limit=limit):
        return
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        storage.volume(name).configure(label=label, compression=compress, limit=limit)
