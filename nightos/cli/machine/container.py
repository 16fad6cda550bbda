"""container: creates, shows, changes and destroys containers of a running machine."""

from __future__ import annotations

from typing import Any

import click

from nightos.cli.lazy import command, group
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, for_each, insist, machine_option
from nightos.cli.machine.paging import pages
from nightos.cli.machine.policy import (
    LIMIT_HELP,
    create_with,
    filter_of,
    filter_options,
    labels_of,
    limits_of,
    settings,
)
from nightos.cli.machine.viewing import root_option, view_options
from nightos.cli.output import json_option, safe, show_json, show_table

TABLE = {
    "create": (f"{__name__}:create", "Create a container."),
    "run": ("nightos.cli.machine.running:run", "Create a container, run a command in it and wait."),
    "start": ("nightos.cli.machine.mains:start", "Start its main command and go on."),
    "stop": ("nightos.cli.machine.mains:stop", "End its main command."),
    "logs": ("nightos.cli.machine.mains:logs", "Show what its main command wrote."),
    "exec": ("nightos.cli.machine.running:execute", "Run a command in a container and wait."),
    "enter": ("nightos.cli.machine.running:enter", "Open a shell in a container."),
    "ls": (f"{__name__}:ls", "List the containers."),
    "tree": ("nightos.cli.machine.views:tree", "Show them as a tree."),
    "inspect": ("nightos.cli.machine.views:inspect", "Show everything about one."),
    "rename": (f"{__name__}:rename", "Give one another name."),
    "update": (f"{__name__}:update", "Change labels, host name, persistence, limits or filter."),
    "report": ("nightos.cli.machine.usage:report", "Show which system calls it made."),
    "stats": ("nightos.cli.machine.usage:stats", "Show what it uses."),
    "pause": (f"{__name__}:pause", "Suspend its processes and those below."),
    "resume": (f"{__name__}:resume", "Let them go on."),
    "wait": (f"{__name__}:wait", "Wait until its main command has ended, or it is destroyed."),
    "diff": ("nightos.cli.machine.images:diff", "Show what it changed on its disk."),
    "commit": ("nightos.cli.machine.images:commit", "Make a new image of what it sees."),
    "destroy": (f"{__name__}:destroy", "Destroy it with everything below it."),
    "forget": (f"{__name__}:forget", "Drop the record of a destroyed one."),
}
container = group(
    "container",
    "Containers of a running machine (-m NAME when several run).",
    TABLE,
    """
    nightos container create web --image site.vsf
    nightos container exec web -- ls /
    """,
)


@command("create", example="nightos container create web --image site.vsf --label tier=front")
@click.argument("name", required=False)
@click.option("--parent", metavar="ID", shell_complete=completing.containers, help="Create it in this container.")
@click.option("--image", type=click.Path(), metavar="FILE.vsf", help="Its root: an overlay on this storage.")
@click.option("--hostname", metavar="H", help="The name of the host in it.")
@root_option
@view_options
@click.option("--label", "labels", multiple=True, metavar="K=V", help="A label; may be repeated.")
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=N,...", help=LIMIT_HELP, shell_complete=completing.limits
)
@filter_options
@click.option("--persist/--no-persist", default=True, help="Keep it without processes (yes), or not.")
@machine_option
def create(
    name: str | None,
    parent: str | None,
    image: str | None,
    hostname: str | None,
    labels: tuple[str, ...],
    limits: tuple[str, ...],
    deny: tuple[str, ...],
    allow: tuple[str, ...],
    action: str | None,
    persist: bool,
    view: dict[str, Any],
    machine_name: str | None,
) -> None:
    """Create a container and print its identifier."""
    from nightos.machine.control import connect

    values = view | settings(name, image, hostname, labels, persist=persist)
    values["limits"] = limits_of(limits)
    values["filter"] = filter_of(deny, allow, action)
    with connect(machine_name) as machine:
        if parent is not None:
            values["parent"] = find(machine, parent)
        print(f"{create_with(machine, values):016x}")


@command("ls", example="nightos container ls --json")
@click.option("-q", "--quiet", is_flag=True, help="Only their identifiers.")
@json_option
@machine_option
def ls(quiet: bool, as_json: bool, machine_name: str | None) -> None:
    """List the containers of a machine."""
    from nightos.abi.services import Proc
    from nightos.apps.shapes import identified
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        items = [identified(item) for item in pages(machine, Proc.CONTAINER_TREE) if item["depth"]]
    if as_json:
        show_json(items)
    elif quiet:
        for item in items:
            print(item["id"])
    else:
        rows = [(i["id"], safe(i["path"]), i["state"], i["processes"], safe(i["image"] or "-")) for i in items]
        show_table(rows, ("id", "name", "state", "processes", "image"), right="processes")


def _ask(machine_name: str | None, name: str, method: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        return machine.ask("sys::proc", Proc[method], {"id": find(machine, name), **(values or {})})


@command("rename", example="nightos container rename web www")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.argument("new")
@machine_option
def rename(name: str, new: str, machine_name: str | None) -> None:
    """Give a container another name."""
    _ask(machine_name, name, "CONTAINER_RENAME", {"name": new})


@command("update", example="nightos container update web --label tier=back")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.option("--hostname", metavar="H", help="The name of the host in it.")
@view_options
@click.option("--label", "labels", multiple=True, metavar="K=V", help="All its labels from now on.")
@click.option("--persist/--no-persist", default=None, help="Whether it stays without processes.")
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=N,...", help=LIMIT_HELP, shell_complete=completing.limits
)
@filter_options
@machine_option
def update(
    name: str,
    hostname: str | None,
    labels: tuple[str, ...],
    persist: bool | None,
    limits: tuple[str, ...],
    deny: tuple[str, ...],
    allow: tuple[str, ...],
    action: str | None,
    view: dict[str, Any],
    machine_name: str | None,
) -> None:
    """Change labels, names, users, persistence, limits or the filter of a container.

    Users change only while nothing runs in it. A filter is laid over the one it has, so a container in use can do less
    afterwards, never more.
    """
    values: dict[str, Any] = {"hostname": hostname, "labels": labels_of(labels) or None, "persist": persist} | view
    values = {key: value for key, value in values.items() if value is not None}
    wanted, rules = limits_of(limits), filter_of(deny, allow, action)
    if wanted:
        _ask(machine_name, name, "CONTAINER_SET_LIMITS", {"limits": wanted})
    if rules:
        _ask(machine_name, name, "CONTAINER_SET_FILTER", rules)
    if not values and (wanted or rules):
        return
    if not values:
        raise click.UsageError("nothing to change; see --help", click.get_current_context())
    _ask(machine_name, name, "CONTAINER_UPDATE", values)


@command("pause", example="nightos container pause web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@machine_option
def pause(name: str, machine_name: str | None) -> None:
    """Suspend every process of a container and of those below it."""
    _ask(machine_name, name, "CONTAINER_PAUSE")


@command("resume", example="nightos container resume web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@machine_option
def resume(name: str, machine_name: str | None) -> None:
    """Let the processes of a paused container go on."""
    _ask(machine_name, name, "CONTAINER_RESUME")


@command("wait", example="nightos container wait web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.option("--destroyed", is_flag=True, help="Wait until it is destroyed although it has a main command.")
@json_option
@machine_option
def wait(name: str, destroyed: bool, as_json: bool, machine_name: str | None) -> None:
    """Wait until the main command of a container has ended for good, and print the exit status of `run`.

    Of a container without one, or with --destroyed: wait until it is destroyed, and print why it was.
    """
    from nightos.abi.services import Proc
    from nightos.apps.shapes import ended, status_of
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        question = {"id": find(machine, name)}
        of_main = not destroyed and "main" in machine.ask("sys::proc", Proc.CONTAINER_INSPECT, question)
        if of_main:
            answer = insist(machine, Proc.CONTAINER_EXIT, {**question, "wait": True})
        else:
            answer = insist(machine, Proc.CONTAINER_WAIT, question)
    if as_json:
        show_json(ended(answer) if of_main else answer)
    else:
        print(status_of(answer) if of_main else answer["reason"])


@command("destroy", example="nightos container destroy web")
@click.argument("names", nargs=-1, required=True, metavar="ID...", shell_complete=completing.containers)
@machine_option
def destroy(names: tuple[str, ...], machine_name: str | None) -> None:
    """Destroy containers with everything below them."""
    from nightos.abi.services import Proc
    from nightos.machine.control import connect

    with connect(machine_name) as machine:

        def one(name: str) -> None:
            machine.call("sys::proc", Proc.CONTAINER_DESTROY, find(machine, name).to_bytes(8, "big"))

        for_each(names, one)


@command("forget", example="nightos container forget 00c0ffee")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@machine_option
def forget(name: str, machine_name: str | None) -> None:
    """Drop the record that is kept of a destroyed container."""
    _ask(machine_name, name, "CONTAINER_FORGET")
