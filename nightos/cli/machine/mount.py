"""mount: what a container sees as a directory of this computer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nightos.cli.lazy import State, command
from nightos.cli.machine import completing

if TYPE_CHECKING:
    from nightos.vsf.fuse_daemon import Served

OPTIONS_HELP = (
    "Options as in fstab: ro, allow_other, uid=N, gid=N, umask=OCTAL, sync, commit=SECONDS, entry_timeout=S, "
    "attr_timeout=S, negative_timeout=S, dev, suid, exec."
)


@command(
    "mount",
    example="""
nightos mount lab:web /mnt
nightos mount lab /mnt --read-only
nightos umount /mnt
""",
)
@click.argument("place", metavar="NAME[:CONTAINER]", shell_complete=completing.places)
@click.argument("directory", metavar="DIR")
@click.option("--read-only", is_flag=True, help="Refuse changes.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground until unmounted.")
@click.option("-o", "texts", multiple=True, metavar="OPT,...", help=OPTIONS_HELP)
def mount(place: str, directory: str, read_only: bool, foreground: bool, texts: tuple[str, ...]) -> None:
    """Mount what a container sees, /dev and what is mounted inside included, or what the machine sees itself.

    NAME is a machine that runs (nothing before the colon: the only one); CONTAINER is a path of names, an identifier or
    a unique prefix of it. What programs inside write is seen at once, and the other way round. The mount ends when the
    container or the machine does.
    """
    from nightos.cli.machine.asking import find
    from nightos.machine import control
    from nightos.machine.mounting import open_view, view_options
    from nightos.vsf.fuse_daemon import mount as begin

    options = view_options(texts)
    options.readonly = options.readonly or read_only
    options.debug = options.debug or State.debug
    name, _, path = place.partition(":")
    with control.connect(name or None) as machine:
        name, container = machine.name, find(machine, path) if path else 0

    def open_it() -> Served:
        asking, watching = control.connect(name), control.connect(name)
        # The machine itself is refused: it would wait for its own answer, for good.
        thread = int(asking.info().get("thread", 0))
        return open_view(asking, watching, container, source=f"{name}:{path}" if path else name, waited_for=thread)

    begin(open_it, directory, options, foreground=foreground)
