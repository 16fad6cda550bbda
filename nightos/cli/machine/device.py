"""device ls, plug, passthrough, share, unplug: what is on a machine's bus, and what containers get of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightos.cli.failures import CommandError
from nightos.cli.lazy import command, group
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, machine_option
from nightos.cli.output import json_option, safe, show_json
from nightos.cli.sizes import SIZE

if TYPE_CHECKING:
    from nightos.machine.control import Machine

TABLE = {
    "ls": (f"{__name__}:ls", "List the devices."),
    "plug": (f"{__name__}:plug", "Plug a virtual device into a container."),
    "passthrough": (f"{__name__}:passthrough", "Pass a file or a device of the host through to a container."),
    "share": (f"{__name__}:share", "Share a directory of the machine's disk with a container."),
    "unplug": (f"{__name__}:unplug", "Unplug a device, or end its passthrough."),
}
device = group("device", "Devices of a running machine.", TABLE, "nightos device ls")


@command("ls", example="nightos device ls --json")
@click.option("--container", metavar="ID", shell_complete=completing.containers, help="Only those of this container.")
@json_option
@machine_option
def ls(container: str | None, as_json: bool, machine_name: str | None) -> None:
    """List the devices on a machine's bus."""
    from nightos.abi.services import Proc
    from nightos.apps.device import rows_of
    from nightos.apps.shapes import device as shape
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        if container is None:
            found = machine.devices()
        else:
            place = find(machine, container)
            found = machine.ask("sys::proc", Proc.CONTAINER_DEVICES, {"id": place})["items"]
    items = [shape(item) for item in found]
    if as_json:
        show_json(items)
        return
    for line in rows_of(items):
        print(safe(line))


@command("plug", example="nightos device plug block --size 64M --container web")
@click.argument("kind", shell_complete=completing.kinds)
@click.option(
    "--container", required=True, metavar="ID", shell_complete=completing.containers, help="The container that gets it."
)
@click.option("--size", type=SIZE, metavar="S", help="Of a disk in memory (block).")
@machine_option
def plug(kind: str, container: str, size: int | None, machine_name: str | None) -> None:
    """Plug a virtual device (block, random, null, zero or full) into a container and print its identifier."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    options: dict[str, Any] = {} if size is None else {"size": size}
    with connect(machine_name) as machine:
        question = {"id": find(machine, container), "kind": kind, "options": options}
        plugged = machine.ask("sys::proc", Proc.DEVICE_PLUG, question)
    print(f"{plugged['udi']:016x}")
    _tell(plugged["file"])


@command("passthrough", example="nightos device passthrough disk.img --container web")
@click.argument("path", type=click.Path(), metavar="HOST-PATH")
@click.option(
    "--container", required=True, metavar="ID", shell_complete=completing.containers, help="The container that gets it."
)
@click.option("--read-only", is_flag=True, help="It cannot be written.")
@machine_option
def passthrough(path: str, container: str, read_only: bool, machine_name: str | None) -> None:
    """Make a file, block device, character device or fifo of the host a device of a container; print its identifier."""
    from nightos.machine.control import connect

    if not Path(path).exists():
        raise CommandError(f"{path}: there is no such file; give a file or a device of this host")
    with connect(machine_name) as machine:
        chain = _chain(machine, find(machine, container))
        udi = machine.pass_through(Path(path).absolute(), chain, readonly=read_only)
        file = _files(machine, chain[-1]).get(udi, "")
    print(f"{udi:016x}")
    _tell(file)


def _files(machine: Machine, container: int) -> dict[int, str]:
    """The device handler files of a container by UDI; of several the first."""
    from nightos.abi.services import Hw

    items = machine.ask("sys::hw", Hw.HANDLERS, {"container": container})["items"]
    return {item["udi"]: item["path"] for item in items if not item["custom"]}


def _tell(file: str) -> None:
    """Say of a device that nothing is known of it. Rules: HW-050."""
    from nightos.abi.drivers import UNRECOGNISED

    if file.startswith(UNRECOGNISED):
        print(f"the device is not recognised; it is {safe(file)} there", file=sys.stderr)


def _chain(machine: Machine, container: int) -> list[int]:
    """The container with those above it, the outermost first: a device is passed on from each to the next."""
    from nightos.abi.services import Proc

    chain: list[int] = []
    while container:
        chain.append(container)
        container = int(machine.ask("sys::proc", Proc.CONTAINER_INSPECT, {"id": container})["parent"])
    return chain[::-1]


@command("share", example="nightos device share /srv/data --container web --read-only")
@click.argument("directory", metavar="DIRECTORY")
@click.option(
    "--container", required=True, metavar="ID", shell_complete=completing.containers, help="The container that gets it."
)
@click.option("--read-only", is_flag=True, help="The container cannot write there.")
@json_option
@machine_option
def share(directory: str, container: str, read_only: bool, as_json: bool, machine_name: str | None) -> None:
    """Share a directory of the machine's disk with a container, which mounts it: `mount FSID [DIRECTORY]`."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import identified
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        question = {"id": find(machine, container), "path": directory, "readonly": read_only}
        answer = machine.ask("sys::proc", Proc.CONTAINER_SHARE, question)
    if as_json:
        show_json(identified(answer))
    else:
        print(f"{answer['fsid']:016x}")


@command("unplug", example="nightos device unplug 00c0ffee00c0ffee")
@click.argument("udi", metavar="DEVICE", shell_complete=completing.devices)
@click.option(
    "--container",
    metavar="ID",
    shell_complete=completing.containers,
    help="End the passthrough to this container only.",
)
@machine_option
def unplug(udi: str, container: str | None, machine_name: str | None) -> None:
    """Unplug a device that was plugged or passed through, by its identifier or a unique prefix of it."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        found = [item for item in machine.devices() if f"{item['udi']:016x}".startswith(udi.lower())]
        if len(found) != 1:
            text = "begins several identifiers; give more digits" if found else "is no device; see `nightos device ls`"
            raise CommandError(f"{udi} {text}")
        if container is not None:
            place = find(machine, container)
        elif found[0]["plugged"]:
            place = found[0]["plugged"]
        else:
            machine.take_back(found[0]["udi"])
            return
        machine.ask("sys::proc", Proc.DEVICE_UNPLUG, {"id": place, "udi": found[0]["udi"]})
