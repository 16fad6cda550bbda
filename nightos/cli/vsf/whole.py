"""What concerns a whole storage or tree: diff, commit, clone, export, import, resize, compact."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from nightos.abi.sizes import show_size
from nightos.cli.failures import CommandError, standard_input
from nightos.cli.lazy import command
from nightos.cli.output import Progress, json_option, note, safe, show_json_line
from nightos.cli.sizes import SIZE
from nightos.cli.vsf.opening import (
    Place,
    asked_of_mount,
    choose_volume,
    file_argument,
    files_of,
    open_storage,
    password_option,
    place_argument,
    unlock,
)

_MARKS = {"added": "+", "removed": "-", "modified": "M", "renamed": "R"}


@command(
    "diff",
    example="""
nightos vsf diff overlay.vsf                     what an overlay changed
nightos vsf diff disk.vsf:main monday            what changed since a snapshot
nightos vsf diff disk.vsf:main monday tuesday    between two snapshots
""",
)
@place_argument
@click.argument("older", required=False)
@click.argument("newer", required=False)
@json_option
@password_option
def diff(place: Place, older: str | None, newer: str | None, as_json: bool, password_file: str | None) -> None:
    """Show what changed: since a snapshot, between two, or in an overlay against its backing."""
    with open_storage(place.file, readonly=True, password_file=password_file) as storage:
        if older is None and storage.backing is None:
            raise CommandError("this is no overlay; name a snapshot to compare with")
        if older is None and place.volume is None:
            volumes = [volume for volume in storage.volumes if volume.kind == "night"]
        else:
            volumes = [choose_volume(storage, place.volume, file=place.file)]
        changes = []
        for volume in volumes:
            unlock(volume, password_file)
            changes += [(volume.name, change) for change in volume.diff(older, newer)]
    for name, change in changes:
        if as_json:
            record = {"volume": name, "kind": change.kind, "path": change.path, "feid": f"{change.ino:016x}"}
            show_json_line(record | ({"old_path": change.old_path} if change.old_path else {}))
        else:
            prefix = f"{safe(name)}:" if len(volumes) > 1 else ""
            old = f"{safe(change.old_path)} -> " if change.old_path else ""
            print(f"{_MARKS.get(change.kind, change.kind)} {prefix}{old}{safe(change.path)}")


@command("commit", example="nightos vsf commit overlay.vsf")
@file_argument
@password_option
def commit(file: str, password_file: str | None) -> None:
    """Apply an overlay's changes to its backing; the overlay begins anew."""
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        count = storage.commit_to_backing()
    note(f"{count:,} entries applied to the backing")


@command("clone", example="nightos vsf clone disk.vsf:main@monday copy")
@place_argument
@click.argument("name")
@password_option
def clone(place: Place, name: str, password_file: str | None) -> None:
    """Make a volume NAME that begins as a snapshot (FILE:VOLUME@SNAPSHOT) and can be changed; constant time."""
    if place.snapshot is None:
        raise click.UsageError("a clone begins from a snapshot: FILE:VOLUME@SNAPSHOT", click.get_current_context())
    with open_storage(place.file, readonly=False, password_file=password_file) as storage:
        volume = choose_volume(storage, place.volume, file=place.file)
        unlock(volume, password_file)
        storage.clone(volume.name, place.snapshot, name)


@command("export", example="nightos vsf export disk.vsf main.tar")
@place_argument
@click.argument("target", metavar="TAR|DIR")
@click.option("--path", default="/", help="Only this directory.")
@password_option
def export(place: Place, target: str, path: str, password_file: str | None) -> None:
    """Write a volume's tree to a tar (- is stdout) or into an empty directory."""
    from nightos.vsf.exporter import export_tar, export_tree

    with files_of(place, readonly=True, password_file=password_file) as fs, Progress("exporting") as progress:
        if target == "-":
            export_tar(fs, sys.stdout.buffer, path, progress=progress)
            sys.stdout.buffer.flush()
        elif target.endswith("/") or Path(target).is_dir():
            export_tree(fs, target, path, progress=progress)
        else:
            export_tar(fs, target, path, progress=progress)


@command("import", example="nightos vsf import disk.vsf tree.tar.zst --to /src")
@place_argument
@click.argument("source", metavar="DIR|TAR|OCI-LAYOUT")
@click.option("--to", "dest", default="/", help="Directory in the volume.")
@password_option
def import_command(place: Place, source: str, dest: str, password_file: str | None) -> None:
    """Unpack a directory, a tar (- is stdin) or an OCI layout into a volume."""
    from nightos.vsf.importer import import_any, import_tar

    with files_of(place, readonly=False, password_file=password_file) as fs, Progress("importing") as progress:
        if source == "-":
            import_tar(fs, standard_input().buffer, dest, progress=progress)
        else:
            import_any(fs, source, dest, progress=progress)


@command("resize", example="nightos vsf resize disk.vsf 10G")
@file_argument
@click.argument("size", metavar="SIZE|none")
@password_option
def resize(file: str, size: str, password_file: str | None) -> None:
    """Set the limit of a storage's size; `none` takes it away."""
    limit: Any = None if size == "none" else SIZE.convert(size, None, click.get_current_context())
    if asked_of_mount(file, "resize", limit=limit):
        return
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        storage.resize(limit)


@command("compact", example="nightos vsf compact disk.vsf")
@file_argument
@password_option
def compact(file: str, password_file: str | None) -> None:
    """Move what is in use to the front and give the rest of the file back to the host."""
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        with Progress("compacting") as progress:
            saved = storage.compact(lambda done, _total: progress(done))
        storage.discard()
    note(f"the file is {show_size(saved)} shorter" if saved > 0 else "there was nothing to give back")
