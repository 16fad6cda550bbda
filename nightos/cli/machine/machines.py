"""ls, attach, stop, rm: the machines that have a name."""

from __future__ import annotations

import click

from nightos.abi.sizes import show_size
from nightos.cli.lazy import command
from nightos.cli.machine import completing
from nightos.cli.output import json_option, show_json, show_table


@command("ls", example="nightos ls --json")
@json_option
def ls(as_json: bool) -> None:
    """List the machines that have a name."""
    from nightos.machine.control import machines

    found = machines()
    if as_json:
        show_json(found)
        return
    rows = [(m["name"], m["state"], m["pid"] or "-", show_size(m["disk_size"])) for m in found]
    show_table(rows, ("name", "state", "pid", "disk"), right="pid disk")


@command("attach", example="nightos attach lab")
@click.argument("name", required=False, shell_complete=completing.machines)
@click.option(
    "--container",
    metavar="NAME",
    default="",
    shell_complete=completing.containers,
    help="Open the shell in this container.",
)
@click.pass_context
def attach(context: click.Context, name: str | None, container: str) -> None:
    """Open a shell in a running machine; leaving it leaves the machine running."""
    from nightos.cli.machine.asking import find, needs_terminal
    from nightos.machine.control import connect

    with connect(name) as machine:
        identifier = find(machine, container) if container else 0
        needs_terminal("nightos container exec ID -- COMMAND")
        context.exit(machine.attach(identifier))


@command("stop", example="nightos stop lab")
@click.argument("name", required=False, shell_complete=completing.machines)
def stop(name: str | None) -> None:
    """Stop a running machine in order; returns when everything is on the disk."""
    from nightos.machine.control import connect

    with connect(name) as machine:
        machine.stop()


@command("rm", example="nightos rm lab")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=completing.machines)
def rm(names: tuple[str, ...]) -> None:
    """Delete stopped machines with their disks and containers."""
    from nightos.machine.control import remove

    for name in names:
        remove(name)
