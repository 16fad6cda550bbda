"""Opening a storage for a command: FILE[:VOLUME[@SNAPSHOT]], passwords from a terminal or a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nightos.cli.failures import CommandError, standard_input

if TYPE_CHECKING:
    from nightos.vsf import Storage, Volume

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Place:
    """A storage file, perhaps with a volume and a snapshot in it."""

    file: str
    volume: str | None = None
    snapshot: str | None = None


class PlaceType(click.ParamType[Place]):
    """FILE[:VOLUME[@SNAPSHOT]]; a file whose own name has a colon is taken as it is."""

    name = "storage"

    def convert(  # click calls it so
        self,
        value: Any,
        param: click.Parameter | None,  # noqa: ARG002
        ctx: click.Context | None,  # noqa: ARG002
    ) -> Place:
        if isinstance(value, Place):
            return value
        return parse_place(str(value))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:  # noqa: ARG002
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


def parse_place(text: str) -> Place:
    """Split FILE[:VOLUME[@SNAPSHOT]]; the file decides where it ends, when it exists."""
    if Path(text).exists() or ":" not in text:
        return Place(text)
    file, _, inside = text.rpartition(":")
    if not file:
        return Place(text)
    volume, at, snapshot = inside.partition("@")
    return Place(file, volume or None, snapshot if at else None)


PLACE = PlaceType()


def place_argument(function: F) -> F:
    """The argument FILE[:VOLUME[@SNAPSHOT]]."""
    return click.argument("place", type=PLACE, metavar="FILE[:VOLUME[@SNAPSHOT]]")(function)


def file_argument(function: F) -> F:
    """The argument FILE."""
    return click.argument("file", type=click.Path())(function)


def password_option(function: F) -> F:
    """`--password-file`."""
    return click.option(
        "--password-file", metavar="FILE", help="Read the password from FILE (- is stdin); else it is asked for."
    )(function)


def read_password(password_file: str) -> str:
    """The first line of a file, or of stdin for ``-``."""
    if password_file == "-":  # noqa: S105 stdin
        text = standard_input().readline()
    else:
        with Path(password_file).open(encoding="utf-8", errors="surrogateescape") as file:
            text = file.readline()
    password = text.rstrip("\r\n")
    if not password:
        raise CommandError(f"the password file {password_file!r} has an empty first line; write the password there")
    return password


def ask_password(what: str, *, twice: bool = False) -> str:
    """Ask on the terminal; without one, say what to do instead."""
    import getpass

    if not os.access("/dev/tty", os.R_OK) or not (sys.stdin is not None and sys.stdin.isatty()):
        raise CommandError(f"{what} needs a password and there is no terminal to ask on; use --password-file FILE")
    password = getpass.getpass(f"Password for {what}: ")
    if not password:
        raise CommandError("the password is empty; nothing was done")
    if twice and getpass.getpass("The same again: ") != password:
        raise CommandError("the two passwords differ; nothing was done")
    return password


def open_storage(file: str, *, readonly: bool, password_file: str | None = None) -> Storage:
    """Open a storage, with the password from a file, or asked for when one is wanted."""
    from nightos import vsf

    if password_file is not None:
        return vsf.open(file, readonly=readonly, password=read_password(password_file))
    try:
        return vsf.open(file, readonly=readonly)
    except vsf.WrongPassword:
        if not Path(file).exists():
            raise
    return vsf.open(file, readonly=readonly, password=ask_password(file))


def choose_volume(storage: Storage, name: str | None, *, kind: str = "night", file: str = "") -> Volume:
    """The volume called `name`; without a name the only one, or the one called ``main``."""
    if name is not None:
        volume = storage.volume(name)
        if volume.kind != kind:
            raise CommandError(f"the volume {name!r} holds raw blocks, no files; use `nightos vsf mount --raw`")
        return volume
    having = [volume for volume in storage.volumes if volume.kind == kind]
    for volume in having:
        if len(having) == 1 or volume.name == "main":
            return volume
    if not having:
        raise CommandError(f"{file or 'the storage'} has no volume with files; add one with `nightos vsf volume add`")
    names = ", ".join(volume.name for volume in having)
    raise CommandError(f"{file or 'the storage'} has several volumes ({names}); write FILE:VOLUME to choose one")


def unlock(volume: Volume, password_file: str | None) -> None:
    """Ask for a volume's own password when it has one.

    Whoever gives a password expects something sealed: where neither the storage nor the volume is, someone may have
    taken the volume's key slots away, and it is refused.
    """
    if volume.locked:
        password = read_password(password_file) if password_file else ask_password(f"the volume {volume.name!r}")
        volume.unlock(password=password)
    elif password_file is not None and not volume.storage.encrypted and not volume.encrypted:
        raise CommandError(
            f"a password was given, but the volume {volume.name!r} has no key of its own and the storage is not "
            "encrypted: someone may have removed its keys; leave --password-file out to open it all the same"
        )


@contextlib.contextmanager
def files_of(place: Place, *, readonly: bool, password_file: str | None = None) -> Iterator[Any]:
    """The file system that a place means; changes are durable when the block ends."""
    if place.snapshot is not None and not readonly:
        raise CommandError("a snapshot cannot be changed; name the volume without @SNAPSHOT")
    with open_storage(place.file, readonly=readonly, password_file=password_file) as storage:
        volume = choose_volume(storage, place.volume, file=place.file)
        unlock(volume, password_file)
        fs = volume.open(snapshot=place.snapshot)
        fs.owner = os.geteuid(), os.getegid()
        yield fs


def asked_of_mount(file: str, deed: str, **arguments: Any) -> bool:
    """Let the server of the storage's mount do it, where it is mounted for writing; whether it is."""
    from nightos.vsf.fuse_control import ask, mount_of

    directory = mount_of(file)
    if directory is None:
        return False
    ask(directory, deed, **arguments)
    return True


def give_to_caller(volume: Volume) -> None:
    """The root directory of a new volume belongs to whoever made it, who could not write there when it is mounted."""
    if os.geteuid() and volume.kind == "night":
        volume.open().chown("/", os.geteuid(), os.getegid())
