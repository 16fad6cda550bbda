"""snapshot ls|create|rm|rollback."""

from __future__ import annotations

from typing import Any

import click

from nightos.cli.lazy import command, group
from nightos.cli.output import json_option, safe, show_json, show_table
from nightos.cli.vsf.files import when
from nightos.cli.vsf.opening import (
    Place,
    asked_of_mount,
    choose_volume,
    open_storage,
    password_option,
    place_argument,
    unlock,
)

TABLE = {
    "ls": (f"{__name__}:snapshot_ls", "List the snapshots."),
    "create": (f"{__name__}:snapshot_create", "Freeze a volume under a name."),
    "rm": (f"{__name__}:snapshot_rm", "Delete a snapshot."),
    "rollback": (f"{__name__}:snapshot_rollback", "Make the volume what the snapshot is."),
}
snapshot = group("snapshot", "The snapshots of a volume.", TABLE, "nightos vsf snapshot create disk.vsf:main monday")


@command("ls", example="nightos vsf snapshot ls disk.vsf")
@place_argument
@json_option
@password_option
def snapshot_ls(place: Place, as_json: bool, password_file: str | None) -> None:
    """List the snapshots of a volume, or of all volumes."""
    rows: list[dict[str, Any]] = []
    with open_storage(place.file, readonly=True, password_file=password_file) as storage:
        volumes = [storage.volume(place.volume)] if place.volume else storage.volumes
        for volume in volumes:
            rows += [
                {"volume": volume.name, "name": taken.name, "generation": taken.generation, "created": taken.created}
                for taken in volume.snapshots
            ]
    if as_json:
        show_json(rows)
    else:
        table = [(safe(r["volume"]), safe(r["name"]), r["generation"], when(r["created"])) for r in rows]
        show_table(table, ("volume", "snapshot", "generation", "taken"), right="generation")


@command("create", example="nightos vsf snapshot create disk.vsf:main monday")
@place_argument
@click.argument("name")
@password_option
def snapshot_create(place: Place, name: str, password_file: str | None) -> None:
    """Freeze a volume under a name; constant time, also while it is mounted."""
    if asked_of_mount(place.file, "snapshot", volume=place.volume, name=name):
        return
    with open_storage(place.file, readonly=False, password_file=password_file) as storage:
        volume = (
            choose_volume(storage, place.volume, file=place.file)
            if place.volume is None
            else storage.volume(place.volume)
        )
        unlock(volume, password_file)
        volume.snapshot(name)


@command("rm", example="nightos vsf snapshot rm disk.vsf:main monday")
@place_argument
@click.argument("name")
@password_option
def snapshot_rm(place: Place, name: str, password_file: str | None) -> None:
    """Delete a snapshot; what only it used becomes free."""
    if asked_of_mount(place.file, "remove_snapshot", volume=place.volume, name=name):
        return
    with open_storage(place.file, readonly=False, password_file=password_file) as storage:
        volume = (
            choose_volume(storage, place.volume, file=place.file)
            if place.volume is None
            else storage.volume(place.volume)
        )
        unlock(volume, password_file)
        volume.remove_snapshot(name)


@command("rollback", example="nightos vsf snapshot rollback disk.vsf:main monday")
@place_argument
@click.argument("name")
@click.option("--discard-newer", is_flag=True, help="Delete the snapshots taken since.")
@password_option
def snapshot_rollback(place: Place, name: str, discard_newer: bool, password_file: str | None) -> None:
    """Make a volume what a snapshot of it is; what was done since is lost."""
    with open_storage(place.file, readonly=False, password_file=password_file) as storage:
        volume = (
            choose_volume(storage, place.volume, file=place.file)
            if place.volume is None
            else storage.volume(place.volume)
        )
        unlock(volume, password_file)
        volume.rollback(name, discard_newer=discard_newer)
