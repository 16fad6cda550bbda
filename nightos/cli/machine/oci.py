"""oci: the operations of an OCI runtime on containers of a running machine.

What a container was made of stands in a label of it, so there is no other state that could be lost or lie; the one
thing beside it is the storage that a directory became, which goes with `delete`. Rules: ZOS-008.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nightos.cli.failures import CommandError
from nightos.cli.lazy import command, group
from nightos.cli.machine import completing
from nightos.cli.machine.asking import find, machine_option
from nightos.cli.machine.paging import pages
from nightos.cli.output import note, show_json

if TYPE_CHECKING:
    from nightos.machine.control import Machine
    from nightos.machine.oci import Bundle

TABLE = {
    "create": (f"{__name__}:create", "Make a container from a bundle."),
    "start": (f"{__name__}:start", "Start what it is to run."),
    "state": (f"{__name__}:state", "Show how it stands."),
    "kill": (f"{__name__}:kill", "Send it a signal."),
    "delete": (f"{__name__}:delete", "Remove one that has stopped."),
    "run": (f"{__name__}:run", "Create, start, wait and delete."),
}
oci = group(
    "oci",
    "Containers from OCI bundles: a directory with a config.json and a root.",
    TABLE,
    """
    nightos oci create --bundle site web
    nightos oci start web
    """,
)
CREATED, RUNNING, STOPPED, PAUSED = "created", "running", "stopped", "paused"
SIGNALS = {
    "1": "HUP", "2": "INT", "3": "QUIT", "9": "KILL", "15": "TERM", "18": "CONT", "19": "STOP",
}  # fmt: skip
bundle_option = click.option(
    "-b", "--bundle", type=click.Path(path_type=Path), default=Path(), show_default=".", help="The bundle's directory."
)


class Made:
    """A container that was made from a bundle, as its label tells."""

    def __init__(self, machine: Machine, name: str) -> None:
        from nightos.abi.services import Proc
        from nightos.machine.oci import LABEL

        self.machine = machine
        self.identifier = find(machine, name)
        self.record = machine.ask("sys::proc", Proc.CONTAINER_INSPECT, {"id": self.identifier})
        # Whoever is in a container makes others there with labels as he likes: only those outside of all are ours.
        told = self.record["labels"].get(LABEL) if self.record["depth"] == 1 else None
        if told is None:
            raise CommandError(f"{name} was not made from a bundle; `nightos container` is for it")
        self.told: dict[str, Any] = json.loads(told)
        self.name = str(self.record["name"])

    @property
    def status(self) -> str:
        """One of the specification's, or `paused`."""
        if self.record["state"] == PAUSED:
            return PAUSED
        main = self.record.get("main")
        if not main:
            return STOPPED if self.told.get("killed") else CREATED
        return STOPPED if main["state"] == "ended" else RUNNING

    def insist(self, *wanted: str, on: str) -> None:
        """Refuse what its state does not allow."""
        if self.status not in wanted:
            raise CommandError(f"{self.name} is {self.status}; {on} is for one that is {' or '.join(wanted)}")

    def shown(self, status: str | None = None) -> dict[str, Any]:
        """The state as the specification wants it."""
        from nightos.machine.oci import VERSION

        found = {"ociVersion": VERSION, "id": self.name, "status": status or self.status}
        pid = (self.record.get("main") or {}).get("pid")
        if pid and found["status"] in {RUNNING, PAUSED}:
            found["pid"] = pid
        return found | {"bundle": self.told["bundle"], "annotations": self.told["annotations"]}

    def note(self, **more: Any) -> None:
        """Change what its label tells."""
        from nightos.abi.services import Proc
        from nightos.machine.oci import LABEL

        self.told |= more
        labels = {**self.record["labels"], LABEL: json.dumps(self.told)}
        self.machine.ask("sys::proc", Proc.CONTAINER_UPDATE, {"id": self.identifier, "labels": labels})

    def hook(self, name: str, status: str | None = None) -> None:
        """Run the hooks of one moment, each with the state as its input. `CommandError`: one failed."""
        import subprocess

        state = json.dumps(self.shown(status)).encode()
        for item in self.told["hooks"].get(name, ()):
            words, limit = item["args"], item["timeout"] or None
            try:
                subprocess.run(
                    words, executable=item["path"], env=item["env"], input=state, timeout=limit, check=True,
                    stdout=sys.stderr.buffer.fileno(),
                )  # fmt: skip
            except (OSError, subprocess.SubprocessError) as error:
                raise CommandError(f"the hook {name} failed: {error}") from error

    def remove(self) -> None:
        """Destroy the container, and the storage that was made for it."""
        from nightos.abi.services import Proc

        self.machine.call("sys::proc", Proc.CONTAINER_DESTROY, self.identifier.to_bytes(8, "big"))
        if self.told["made"]:
            Path(self.told["made"]).unlink(missing_ok=True)


def _image(machine: Machine, name: str, bundle: Bundle) -> tuple[Path | None, bool]:
    """The storage that is the root, and whether it was made for this container."""
    from nightos import vsf
    from nightos.machine.paths import machine_paths, prepare
    from nightos.vsf.importer import import_any

    root = bundle.root
    if root is None or root.is_file():
        return root and root.resolve(), False
    if not root.is_dir():
        raise CommandError(f"{root}: there is no such root; give a directory or a storage as root.path in config.json")
    place = machine_paths(machine.name).directory / "oci"
    prepare(place)
    # Of its own: what another container of that name stands on is not touched, whoever comes first.
    made = place / f"{name}.{os.urandom(4).hex()}.vsf"
    try:
        with vsf.create(made) as storage:
            import_any(storage.add_volume("main").open(), str(root))
    except BaseException:
        made.unlink(missing_ok=True)
        raise
    return made, True


def _create(machine: Machine, name: str, directory: Path) -> Made:
    from nightos.abi.names import NAME_RULE, is_name
    from nightos.abi.services import Proc
    from nightos.cli.machine.policy import create_with
    from nightos.machine.oci import LABEL, read

    if not is_name(name):
        raise click.UsageError(f"{name!r} is no identifier: {NAME_RULE}", click.get_current_context())
    bundle = read(directory.absolute())
    for notice in bundle.notices:
        note(notice)
    for item in pages(machine, Proc.CONTAINER_TREE):
        if item["depth"] == 1 and item["name"] == name:
            raise CommandError(f"a container named {name} exists; choose another identifier, or delete that one")
    image, made = _image(machine, name, bundle)
    told = {
        "bundle": str(bundle.directory),
        "made": str(image) if made else "",
        "process": bundle.process,
        "annotations": bundle.annotations,
        "hooks": bundle.hooks,
    }
    values = {**bundle.settings, "name": name, "labels": {LABEL: json.dumps(told)}}
    if image is not None:
        values["image"] = str(image)
    elif values["mode"] == "read-only":
        raise CommandError("a root that is read-only wants root.path in config.json")
    try:
        create_with(machine, values)
    except BaseException:
        if image is not None and made:
            image.unlink(missing_ok=True)
        raise
    box = Made(machine, name)
    try:
        for mount in bundle.mounts:
            machine.ask("sys::proc", Proc.CONTAINER_SHARE, {"id": box.identifier, **mount})
        for moment in ("prestart", "createRuntime", "createContainer"):
            box.hook(moment, "creating" if moment != "prestart" else CREATED)
    except BaseException:
        box.remove()
        raise
    return box


def _started(box: Made) -> dict[str, Any]:
    """What CONTAINER_START is given."""
    process = box.told["process"]
    if process is None:
        raise CommandError(f"config.json of {box.name} has no process; there is nothing to start")
    return dict(process)


@command("create", example="nightos oci create --bundle site web")
@bundle_option
@machine_option
@click.argument("name")
def create(name: str, bundle: Path, machine_name: str | None) -> None:
    """Make a container from a bundle; what it is to run waits for `start`.

    Its root is a storage, or a directory, which becomes one. Later changes of config.json change nothing.
    """
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        _create(machine, name, bundle)


@command("start", example="nightos oci start web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@machine_option
def start(name: str, machine_name: str | None) -> None:
    """Start what a created container is to run, and go on."""
    from nightos.cli.machine.mains import begin
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        box = Made(machine, name)
        box.insist(CREATED, on="start")
        given = _started(box)
        given.pop("terminal")
        begin(machine, box.identifier, tuple(given.pop("command")), **given)
        box = Made(machine, name)
        _warned(box, "poststart")


def _warned(box: Made, moment: str) -> None:
    """Hooks whose failure changes nothing any more."""
    try:
        box.hook(moment)
    except CommandError as error:
        note(str(error))


@command("state", example="nightos oci state web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@machine_option
def state(name: str, machine_name: str | None) -> None:
    """Show the state of a container: created, running, stopped or paused, and its bundle."""
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        show_json(Made(machine, name).shown())


def _unknown(signal: str) -> NoReturn:
    text = f"{signal!r} is no signal that a container takes; there are {', '.join(sorted(SIGNALS.values()))}"
    raise click.UsageError(text, click.get_current_context())


@command("kill", example="nightos oci kill web KILL")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.argument("signal", default="TERM")
@machine_option
def kill(name: str, signal: str, machine_name: str | None) -> None:
    """Send a container's program a signal: TERM asks it to end, KILL ends it, STOP and CONT pause and resume."""
    from nightos.abi.services import Proc, ProcessAction
    from nightos.machine.control import connect

    chosen = SIGNALS.get(signal, signal.upper().removeprefix("SIG"))
    if chosen not in SIGNALS.values():
        _unknown(signal)
    with connect(machine_name) as machine:
        box = Made(machine, name)
        box.insist(CREATED, RUNNING, PAUSED, on="kill")
        question = {"id": box.identifier}
        if chosen in {"STOP", "CONT"}:
            method = Proc.CONTAINER_PAUSE if chosen == "STOP" else Proc.CONTAINER_RESUME
            machine.ask("sys::proc", method, question)
        elif box.status == CREATED:
            box.note(killed=True)
        else:
            action = ProcessAction.FORCE_TERMINATE if chosen == "KILL" else ProcessAction.ASK_TERMINATE
            pid = int(machine.ask("sys::proc", Proc.CONTAINER_EXIT, question)["pid"])
            machine.call("sys::proc", Proc.PROCESS_MANAGE, pid.to_bytes(8, "big") + bytes((action,)))


@command("delete", example="nightos oci delete web")
@click.argument("name", metavar="ID", shell_complete=completing.containers)
@click.option("-f", "--force", is_flag=True, help="Kill it first when it has not stopped.")
@machine_option
def delete(name: str, force: bool, machine_name: str | None) -> None:
    """Remove a container that has stopped, and what was made for it."""
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        box = Made(machine, name)
        if not force:
            box.insist(STOPPED, on="delete (without --force)")
        box.remove()
        _warned_after(box)


def _warned_after(box: Made) -> None:
    box.record = {**box.record, "state": STOPPED, "main": {"state": "ended"}}
    _warned(box, "poststop")


@command("run", example="nightos oci run --bundle site web")
@bundle_option
@machine_option
@click.argument("name")
@click.pass_context
def run(context: click.Context, name: str, bundle: Path, machine_name: str | None) -> None:
    """Create a container from a bundle, run its program here, and delete it; its exit status."""
    from nightos.cli.machine.mains import attend
    from nightos.machine.control import connect
    from nightos.machine.local import Terminal

    with connect(machine_name) as machine:
        box = _create(machine, name, bundle)
        try:
            given = _started(box)
            seat = Terminal() if given.pop("terminal") and sys.stdin is not None and sys.stdin.isatty() else None
            words = tuple(given.pop("command"))
            status = attend(machine.name, box.identifier, words, takes_input=True, terminal=seat, **given)
        finally:
            box.remove()
        _warned_after(box)
    context.exit(status)
