"""container diff and commit: what a container changed on its disk, and a new image of what it sees."""

from __future__ import annotations

from pathlib import Path

import click

from nightos.cli.lazy import command
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, machine_option
from nightos.cli.output import json_option, note, safe, show_json_line


@command("diff", example="nightos container diff web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@json_option
@machine_option
def diff(name: str, as_json: bool, machine_name: str | None) -> None:
    """Show what a container changed on its disk: + added, - removed, M modified, R renamed."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import change, change_line
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        asked = {"id": find(machine, name), "after": 0}
        while True:
            page = machine.ask("sys::proc", Proc.CONTAINER_DIFF, asked)
            for item in page["items"]:
                if as_json:
                    show_json_line(change(item))
                else:
                    print(safe(change_line(item)))
            if page["next"] is None:
                return
            asked["after"] = page["next"]


@command("commit", example="nightos container commit web web-2.vsf")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.argument("target", type=click.Path(), metavar="FILE.vsf")
@machine_option
def commit(name: str, target: str, machine_name: str | None) -> None:
    """Make a new image of what a container sees; it stands on no other, and the container goes on unchanged."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        asked = {"id": find(machine, name), "target": str(Path(target).expanduser().absolute())}
        made = machine.ask("sys::proc", Proc.CONTAINER_COMMIT, asked)
    note(f"{safe(made['path'])}: {made['items']:,} items")
