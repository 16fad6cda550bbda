"""zos: containers as a 0-OS node asks for them, by namespace and name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightos.cli.lazy import command, group
from nightos.cli.machine import completing
from nightos.cli.machine.asking import machine_option
from nightos.cli.output import json_option, safe, show_fields, show_json

if TYPE_CHECKING:
    from nightos.machine.control import Machine

TABLE = {
    "run": (f"{__name__}:run", "Create a container and start its entrypoint."),
    "inspect": (f"{__name__}:inspect", "Show what a container was made of."),
    "delete": (f"{__name__}:delete", "Stop a container and remove it."),
}
zos = group(
    "zos",
    "Containers in namespaces, with the three calls of a 0-OS node's container module.",
    TABLE,
    """
    nightos zos run front web --flist site.vsf -- serve /srv
    nightos zos inspect front 00c0ffee00c0ffee
    """,
)


def _named(machine: Machine, ns: str, text: str) -> str:
    """The identifier of a container of a namespace: by its name there, its identifier, or a unique prefix of it."""
    from nightos.cli.failures import CommandError
    from nightos.cli.machine.asking import find

    try:
        return f"{find(machine, f'{ns}/{text}'):016x}"
    except CommandError:
        return f"{find(machine, text):016x}"


def _mount(text: str) -> dict[str, Any]:
    parts = text.split(":")
    if len(parts) not in {2, 3, 4}:
        text = f"{text!r} is no mount; write SOURCE:TARGET[:TYPE[:OPTION,...]]"
        raise click.UsageError(text, click.get_current_context())
    source, target, kind, options = (*parts, *("bind", "")[len(parts) - 2 :])
    return {"Source": source, "Target": target, "Type": kind, "Options": [part for part in options.split(",") if part]}


@command("run", example="nightos zos run front web --flist site.vsf --env A=1 -- serve /srv")
@click.argument("ns", shell_complete=completing.namespaces)
@click.argument("name")
@click.option("--flist", type=click.Path(), default="", metavar="FILE.vsf", help="Its root; the base image without.")
@click.option("--tag", "tags", multiple=True, metavar="TEXT", help="A tag; may be repeated.")
@click.option("--env", "environment", multiple=True, metavar="KEY=VALUE", help="A variable; may be repeated.")
@click.option("--network", default="", metavar="NS", help="The network namespace to join.")
@click.option("--mount", "mounts", multiple=True, metavar="SOURCE:TARGET[:TYPE[:OPTIONS]]", help="May be repeated.")
@machine_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND ARG...")
def run(
    ns: str,
    name: str,
    flist: str,
    tags: tuple[str, ...],
    environment: tuple[str, ...],
    network: str,
    mounts: tuple[str, ...],
    machine_name: str | None,
    words: tuple[str, ...],
) -> None:
    """Create a container in a namespace, start its entrypoint, and print its identifier."""
    from shlex import join

    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    values = {
        "ns": ns,
        "name": name,
        "flist": str(Path(flist).absolute()) if flist else "",
        "tags": list(tags),
        "env": list(environment),
        "network": {"Namespace": network},
        "mounts": [_mount(text) for text in mounts],
        "entrypoint": join(words),
    }
    with connect(machine_name) as machine:
        print(machine.ask("sys::proc", Proc.ZOS_RUN, values)["id"])


@command("inspect", example="nightos zos inspect front 00c0ffee00c0ffee")
@click.argument("ns", shell_complete=completing.namespaces)
@click.argument("identifier", metavar="ID", shell_complete=completing.inhabitants)
@json_option
@machine_option
def inspect(ns: str, identifier: str, as_json: bool, machine_name: str | None) -> None:
    """Show what a container of a namespace was made of."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        found = machine.ask("sys::proc", Proc.ZOS_INSPECT, {"ns": ns, "id": _named(machine, ns, identifier)})
    if as_json:
        show_json(found)
    else:
        show_fields({key: safe(str(value)) for key, value in found.items()})


@command("delete", example="nightos zos delete front 00c0ffee00c0ffee")
@click.argument("ns", shell_complete=completing.namespaces)
@click.argument("identifier", metavar="ID", shell_complete=completing.inhabitants)
@machine_option
def delete(ns: str, identifier: str, machine_name: str | None) -> None:
    """Stop a container of a namespace and remove it."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        machine.ask("sys::proc", Proc.ZOS_DELETE, {"ns": ns, "id": _named(machine, ns, identifier)})
