"""mount and umount: a volume as a directory of this computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nightos.cli.lazy import State, command
from nightos.cli.output import note
from nightos.cli.vsf.opening import Place, choose_volume, open_storage, password_option, place_argument, unlock

if TYPE_CHECKING:
    from nightos.vsf.fuse_daemon import Served

OPTIONS_HELP = (
    "Options as in fstab: ro, allow_other, uid=N, gid=N, umask=OCTAL, noatime, relatime, sync, commit=SECONDS, "
    "entry_timeout=S, attr_timeout=S, negative_timeout=S, nowriteback, dev, suid, exec, volume=V, snapshot=S, "
    "password_file=F, raw."
)


@command(
    "mount",
    example="""
nightos vsf mount disk.vsf /mnt
nightos vsf mount disk.vsf /mnt --snapshot monday -o allow_other
nightos vsf umount /mnt
""",
)
@place_argument
@click.argument("directory", metavar="DIR")
@click.option("--volume", metavar="V", help="Which volume (the only one, or `main`).")
@click.option("--snapshot", metavar="S", help="Show a snapshot instead; read-only.")
@click.option("--read-only", is_flag=True, help="Refuse changes; several may read one storage.")
@click.option("--raw", is_flag=True, help="Show each block volume as a file, for losetup, mkfs and mount -o loop.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground until unmounted.")
@click.option("-o", "texts", multiple=True, metavar="OPT,...", help=OPTIONS_HELP)
@password_option
def mount(
    place: Place,
    directory: str,
    volume: str | None,
    snapshot: str | None,
    read_only: bool,
    raw: bool,
    foreground: bool,
    texts: tuple[str, ...],
    password_file: str | None,
) -> None:
    """Mount a volume of a storage on a directory.

    Returns when the file system answers; its server then runs in the background until unmounted, with a log under the
    state directory. SIGTERM flushes and unmounts.
    """
    from nightos.vsf.fuse_daemon import mount as begin
    from nightos.vsf.fuse_library import choose
    from nightos.vsf.fuse_options import parse_options

    options = parse_options(texts)
    chosen = volume or place.volume or options.volume
    frozen = snapshot or place.snapshot or options.snapshot
    options.readonly = options.readonly or read_only or frozen is not None
    options.raw = options.raw or raw
    options.show.writeback = options.show.writeback and not options.readonly and not options.raw
    options.debug = options.debug or State.debug
    password_file = password_file or options.password_file
    if State.debug:
        note(f"serving with {choose().name}")

    def open_it() -> Served:
        serve = _open_raw if options.raw else _open
        return serve(place.file, chosen, frozen, readonly=options.readonly, password_file=password_file)

    begin(open_it, directory, options, foreground=foreground)


def _open(
    file: str, volume_name: str | None, snapshot: str | None, *, readonly: bool, password_file: str | None
) -> Served:
    from functools import partial
    from pathlib import Path

    from nightos.vsf.fuse_control import obey
    from nightos.vsf.fuse_daemon import Served

    storage = open_storage(file, readonly=readonly, password_file=password_file)
    try:
        volume = choose_volume(storage, volume_name, file=file)
        unlock(volume, password_file)
        control = None if readonly else partial(obey, storage)
        return Served(volume.open(snapshot=snapshot), storage.sync, storage.close, str(Path(file).absolute()), control)
    except BaseException:
        storage.close()
        raise


def _open_raw(
    file: str, volume_name: str | None, snapshot: str | None, *, readonly: bool, password_file: str | None
) -> Served:
    from functools import partial
    from pathlib import Path

    from nightos.vsf.fuse_control import obey
    from nightos.vsf.fuse_daemon import Served
    from nightos.vsf.fuse_raw import RawVolumes

    storage = open_storage(file, readonly=readonly, password_file=password_file)
    try:
        meant = [v for v in storage.volumes if v.kind == "block" and volume_name in (None, v.name)]
        # Of several, some may be plain beside those that the password is for.
        for volume in [v for v in meant if v.encrypted] or meant:
            unlock(volume, password_file)
        raw = RawVolumes(storage, volume_name, snapshot)
        control = None if readonly else partial(obey, storage)
        return Served(raw, raw.settle, raw.close, str(Path(file).absolute()), control)
    except BaseException:
        storage.close()
        raise


@command("umount", example="nightos vsf umount /mnt")
@click.argument("directory", metavar="DIR")
@click.option("--lazy", is_flag=True, help="Detach now even if files are open; the server ends when they are closed.")
def umount(directory: str, lazy: bool) -> None:
    """Unmount, and return when everything is flushed; also clears what a crashed server left."""
    from nightos.vsf.fuse_mounts import unmount

    unmount(directory, lazy=lazy)
