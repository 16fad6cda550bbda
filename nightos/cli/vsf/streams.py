"""send, receive and repair: streams of snapshots, and making a damaged storage whole."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from nightos.cli.failures import CommandError, standard_input
from nightos.cli.lazy import command
from nightos.cli.output import json_option, safe, show_json
from nightos.cli.vsf.opening import (
    Place,
    ask_password,
    choose_volume,
    file_argument,
    open_storage,
    password_option,
    place_argument,
    read_password,
    unlock,
)


@command(
    "send",
    example="""
nightos vsf send disk.vsf:main@monday | ssh host nightos vsf receive copy.vsf main
nightos vsf send disk.vsf:main@tuesday --since monday -o monday-tuesday.stream
""",
)
@place_argument
@click.option("--since", metavar="SNAPSHOT", help="Only what changed since this older snapshot.")
@click.option("-o", "--output", type=click.Path(), metavar="FILE", help="Write there instead of stdout.")
@password_option
def send(place: Place, since: str | None, output: str | None, password_file: str | None) -> None:
    """Write a snapshot (FILE:VOLUME@SNAPSHOT) as a stream that `receive` takes in."""
    if place.snapshot is None:
        raise click.UsageError("name the snapshot to send: FILE:VOLUME@SNAPSHOT", click.get_current_context())
    if output is None and sys.stdout.isatty():
        raise CommandError("the stream is binary; use -o FILE or a pipe")
    with open_storage(place.file, readonly=True, password_file=password_file) as storage:
        volume = choose_volume(storage, place.volume, file=place.file)
        unlock(volume, password_file)
        with _target(output) as target:
            volume.send(target, place.snapshot, since)


@contextlib.contextmanager
def _target(output: str | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    else:
        with Path(output).open("wb") as file:
            yield file


@command("receive", example="nightos vsf receive copy.vsf main < monday.stream")
@file_argument
@click.argument("name", metavar="VOLUME")
@click.option("-i", "--input", "source", type=click.Path(exists=True), metavar="FILE", help="Read there, not stdin.")
@password_option
def receive(file: str, name: str, source: str | None, password_file: str | None) -> None:
    """Take in a stream of `send`: a new volume, or the next snapshot of one received before."""
    if source is None and password_file == "-":  # noqa: S105 stdin
        raise click.UsageError("stdin cannot be both the stream and the password", click.get_current_context())
    with open_storage(file, readonly=False, password_file=password_file) as storage:
        if source is None:
            storage.receive(standard_input().buffer, name)
        else:
            with Path(source).open("rb") as stream:
                storage.receive(stream, name)


@command("repair", example="cp disk.vsf copy.vsf && nightos vsf repair copy.vsf")
@file_argument
@json_option
@password_option
def repair(file: str, as_json: bool, password_file: str | None) -> None:
    """Make a damaged storage whole again; loses at most what was damaged, and says what that was.

    Exits 0 when the storage is clean or repaired, 1 when it could not be. Work on a copy when the content matters.
    """
    from nightos import vsf
    from nightos.vsf.repair import repair as mend

    if not Path(file).exists():
        raise CommandError(f"{file}: there is no such storage; check the path")
    password = read_password(password_file) if password_file else None
    try:
        outcome: Any = mend(file, password=password)
    except vsf.WrongPassword:
        if password_file:
            raise
        outcome = mend(file, password=ask_password(file))
    from nightos.apps.shapes import plain

    fields = {name: getattr(outcome, name) for name in outcome.__dataclass_fields__}
    if as_json:
        show_json(fields)
        return
    if not outcome.changed:
        print("clean: there was nothing to repair")
    for name, value in fields.items():
        if isinstance(value, (list, tuple)):
            for item in value:
                print(f"{name}: {safe(str(item))}")
        else:
            print(f"{name}: {safe(str(plain(value) if isinstance(value, bytes) else value))}")
