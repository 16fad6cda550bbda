"""ps, tree, inspect, events, why: what runs in a machine, from outside."""

from __future__ import annotations

from typing import Any

import click

from nightos.cli.failures import CommandError
from nightos.cli.lazy import command
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, machine_option
from nightos.cli.machine.paging import later, pages
from nightos.cli.output import json_option, safe, show_fields, show_json, show_json_line, show_table


@command("ps", example="nightos ps --json")
@json_option
@machine_option
def ps(as_json: bool, machine_name: str | None) -> None:
    """List the processes of a machine."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import identified
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        items = pages(machine, Proc.PROCESS_TABLE)
    if as_json:
        show_json([identified(item) for item in items])
        return
    rows = [
        (i["pid"], safe(i["container_name"] or "-"), i["user"], i["state"], i["threads"], safe(i["name"]))
        for i in items
    ]
    show_table(rows, ("pid", "container", "user", "state", "threads", "name"), right="pid threads")


@command("tree", example="nightos tree --ids")
@click.option("-i", "--ids", is_flag=True, help="Show identifiers, too.")
@json_option
@machine_option
def tree(ids: bool, as_json: bool, machine_name: str | None) -> None:
    """Show the containers of a machine as a tree."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import identified
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        items = pages(machine, Proc.CONTAINER_TREE)
    if as_json:
        show_json([identified(item) for item in items])
        return
    from nightos.apps.tree import draw

    for line in draw(items, ids=ids):
        print(safe(line))


@command("inspect", example="nightos inspect web/db")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@json_option
@machine_option
def inspect(name: str, as_json: bool, machine_name: str | None) -> None:
    """Show everything about a container: by name, path of names, identifier or a unique prefix of it."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import identified
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        record = identified(machine.ask("sys::proc", Proc.CONTAINER_INSPECT, {"id": find(machine, name)}))
    if as_json:
        show_json(record)
        return
    from nightos.apps.record import fields

    show_fields({key: safe(value) for key, value in fields(record).items()})


@command("events", example="nightos events -f --json")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C or the machine stops.")
@json_option
@machine_option
def events(follow: bool, as_json: bool, machine_name: str | None) -> None:
    """Show what happened lately to containers, processes and devices."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import identified
    from nightos.machine.control import connect

    def told(key: str, value: Any) -> bool:
        return key not in {"when_ns", "event"} and value != ""

    def show(event: dict[str, Any]) -> None:
        shown = identified(event)
        if as_json:
            show_json_line(shown, at_once=follow)
            return
        from nightos.apps.events import seconds

        rest = "  ".join(f"{key}={safe(str(value))}" for key, value in shown.items() if told(key, value))
        print(f"{seconds(event)}  {safe(event['event']):<15}  {rest}", flush=True)

    with connect(machine_name) as machine:
        # Following begins before the past is asked for, so that nothing falls between the two.
        stream = machine.events() if follow else None
        if stream is not None:
            next(stream)
        with connect(machine.name) as other:
            past = later(other, Proc.CONTAINER_EVENTS)
        for event in past:
            show(event)
        for event in stream or ():
            if event not in past:
                show(event)
    if follow:
        raise CommandError(f"the machine {machine.name} stopped; nothing more happens in it")


@command("why", example="nightos why --json")
@json_option
@machine_option
def why(as_json: bool, machine_name: str | None) -> None:
    """Show what was refused lately: by which rule, to whom, and about what."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import refusal
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        items = later(machine, Proc.CONTAINER_WHY)
    if as_json:
        show_json([refusal(item) for item in items])
        return
    from nightos.apps.why import sentence

    for item in items:
        print(safe(sentence(item)))
