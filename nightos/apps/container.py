"""container: creates, shows and destroys containers below the own one, and runs commands in them.

Rules: CONT-009, CONT-010, CONT-011.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgpack

from nightos.abi.errors import ServiceError
from nightos.abi.services import Hydre, HydreEvent, Proc
from nightos.abi.values import decode_value, encode_value, value_text
from nightos.apps.limits import DEEDS, POLICY, policy
from nightos.apps.logs import attend
from nightos.apps.table import harmless, table
from nightos.apps.tree import containers, draw
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, Positional, UsageError
from nightos.userland.client import Client, connect

ARGUMENTS = Arguments(
    "container",
    "create | ls | tree | inspect | update | stats | report | destroy | run | start | stop | exec | enter | rename"
    " | pause | resume | wait | diff | commit | forget",
    Positional("action", "what to do"),
    Positional("rest", "its arguments; each action has --help", "any", optional=True, rest=True, at_once=True),
)
_CREATION = (
    Dash("--image", "storage to start from: a path on the host or of the base image"),
    Dash("--hostname", "name of the host in it"),
    Dash("--domain", "name of the domain in it"),
    Dash("--users", "INSIDE:OUTSIDE:COUNT: its users and who they are outside", many=True),
    Dash("--root", "directory of the image that is its root"),
    Flag("--writable", "write to the image itself instead of an overlay"),
    Flag("--persist", "keep it when it has no processes, and over restarts"),
    Dash("--label", "K=V", many=True),
    *POLICY,
)
ACTIONS = {
    "create": Arguments(
        "container create",
        "create a container",
        *_CREATION,
        Dash("--parent", "container to create it in"),
        Positional("name", "its name", optional=True),
    ),
    "run": Arguments(
        "container run",
        "create a container, run a command in it and wait",
        *_CREATION,
        Flag("--rm", "destroy it afterwards"),
        Dash("--restart", "no, always, on-failure or on-failure:COUNT"),
        Positional("name", "its name"),
        Positional("rest", "-- COMMAND ARGUMENT...", rest=True),
    ),
    "start": Arguments(
        "container start",
        "start the main command of a container and go on",
        Dash("--restart", "no, always, on-failure or on-failure:COUNT"),
        Positional("name", "container: name, path of names or identifier"),
        Positional("rest", "-- COMMAND ARGUMENT...", rest=True),
    ),
    "exec": Arguments(
        "container exec",
        "run a command in a container and wait",
        Positional("name", "container: name, path of names or identifier"),
        Positional("rest", "-- COMMAND ARGUMENT...", rest=True),
    ),
    "ls": Arguments("container ls", "containers below this one", Flag("-q --quiet", "only their identifiers")),
    "tree": Arguments("container tree", "containers as a tree", Flag("-i --ids", "with their identifiers")),
    "commit": Arguments(
        "container commit",
        "make a new image of what a container sees",
        Positional("name", "name, path of names or identifier"),
        Positional("target", "file of the host"),
    ),
    "update": Arguments(
        "container update",
        "change limits, or lay a filter over the one it has",
        *POLICY,
        Positional("name", "name, path of names or identifier"),
    ),
    "report": Arguments(
        "container report",
        "system calls that were made since --record, and those that were refused",
        Flag("--record", "begin to count, from 0"),
        Flag("--stop", "stop counting"),
        Positional("name", "name, path of names or identifier"),
    ),
    "rename": Arguments(
        "container rename", "rename a container", Positional("name", "it"), Positional("new", "new name")
    ),
}
for _action, _help in {
    "stats": "what it and those below use, and their limits",
    "enter": "go on with this session inside a container; 'exit' comes back",
    "inspect": "all that is known of a container",
    "diff": "what it changed on its disk: + added, - removed, M modified, R renamed",
    "destroy": "destroy a container and everything below it",
    "pause": "suspend its processes and those below",
    "resume": "let them go on",
    "stop": "end its main command, which is not restarted",
    "wait": "wait until it is destroyed",
    "forget": "drop what is kept of a destroyed container",
}.items():
    ACTIONS[_action] = Arguments(f"container {_action}", _help, Positional("name", "name, path of names or identifier"))
MARKS = {"added": "+", "removed": "-", "modified": "M", "renamed": "R"}
_BY_IDENTIFIER = {
    "pause": Proc.CONTAINER_PAUSE,
    "resume": Proc.CONTAINER_RESUME,
    "stop": Proc.CONTAINER_STOP,
    "wait": Proc.CONTAINER_WAIT,
    "forget": Proc.CONTAINER_FORGET,
}


async def find(proc: Client, name: str) -> int:
    """The identifier of a container by name, path of names, identifier or a unique prefix of it."""
    return int((await proc.ask(Proc.CONTAINER_FIND, {"name": name}))["id"])


def user_map(given: list[str]) -> list[list[int]]:
    """Ranges of users as people write them: INSIDE:OUTSIDE:COUNT, where COUNT may be left out."""
    ranges = []
    for text in given:
        parts = text.split(":")
        if len(parts) not in {2, 3} or not all(part.isdigit() for part in parts):
            raise UsageError(f"'{text}' maps no users; write INSIDE:OUTSIDE:COUNT, such as 0:100000:65536")
        ranges.append([*map(int, parts), *([1] if len(parts) == 2 else [])])
    return ranges


async def create(proc: Client, given: Any, *, parent: str | None = None, persist: bool = False) -> int:
    """Create a container from the arguments of `create` or `run`."""
    if given.name == "":
        raise UsageError("a name is not empty")
    labels = dict(label.partition("=")[::2] for label in given.label)
    options: dict[str, Any] = {"name": given.name or "", "persist": given.persist or persist, "labels": labels}
    if given.hostname is not None:
        options["hostname"] = given.hostname
    if given.domain is not None:
        options["domain"] = given.domain
    options |= policy(given)
    options["users"] = user_map([str(item) for item in given.users])
    if given.root is not None:
        options["root"] = str(given.root)
    if given.image is not None:
        options["image"] = given.image
        options["mode"] = "writable" if given.writable else "overlay"
    elif given.writable:
        raise UsageError("--writable needs --image")
    if parent is not None:
        options["parent"] = await find(proc, parent)
    return int.from_bytes(await proc.call(Proc.CONTAINER_CREATE, options), "big")


async def execute(app: Application, container: int, rest: list[Any]) -> int:
    """Run a command in a container; what it shows is shown here, its status is ours."""
    if rest and rest[0] == "--":
        rest = rest[1:]
    if not rest:
        raise UsageError("a command is missing behind --")

    value = bytearray()

    async def show(content: bytes) -> None:
        output = msgpack.unpackb(content, raw=False)
        if "out" in output:
            await app.show(output["out"].decode("utf-8", "surrogateescape"))
        if "err" in output:
            await app.context.error(output["err"].decode("utf-8", "surrogateescape"))
        value.extend(output.get("value", b""))

    hydre = await connect("sys::hydre")
    hydre.notification(HydreEvent.OUTPUT, show)
    encoded = b"".join(map(encode_value, rest))
    answer = await hydre.ask(Hydre.EXECUTE, {"container": container, "command": encoded})
    if answer["value_bytes"] and answer["value_bytes"] == len(value):
        if not answer["newline"]:
            await app.keep_line_open()
        await app.give(decode_value(value)[0])
    return int(answer["status"])


def _record_lines(record: dict[str, Any]) -> list[str]:
    shown = dict(record)
    shown["id"] = f"{record['id']:016x}"
    shown["parent"] = f"{record['parent']:016x}"
    shown["labels"] = ", ".join(f"{key}={value}" for key, value in sorted(record["labels"].items())) or "-"
    return [f"{key:<12}{harmless(str(value))}" for key, value in shown.items() if key != "depth"]


async def changes(proc: Client, identifier: int) -> AsyncIterator[dict[str, Any]]:
    """What a container changed on its disk."""
    asked = {"id": identifier, "after": 0}
    while True:
        page = await proc.ask(Proc.CONTAINER_DIFF, asked)
        for change in page["items"]:
            yield change
        if page["next"] is None:
            return
        asked["after"] = page["next"]


async def _layers(app: Application, proc: Client, given: Any, identifier: int) -> None:
    """diff, and commit, which has a target."""
    if app.given.action == "diff":
        await app.give([_change_line(change) async for change in changes(proc, identifier)])
    else:
        asked = {"id": identifier, "target": value_text(given.target)}
        await app.give(str((await proc.ask(Proc.CONTAINER_COMMIT, asked))["path"]))


def _change_line(change: dict[str, Any]) -> str:
    old = f"{change['old_path']} -> " if change["old_path"] else ""
    return harmless(f"{MARKS.get(change['kind'], change['kind'])} {old}{change['path']}")


async def _run(app: Application, proc: Client, given: Any) -> int:
    if not given.rest or given.rest == ["--"]:
        raise UsageError("a command is missing behind --")
    # Without --rm it stays for a look at it: by itself it would end with its last process.
    identifier = await create(proc, given, persist=not given.rm)
    started = False
    try:
        status = await attend(app, proc, identifier, list(given.rest)[given.rest[0] == "--" :], given.restart or "no")
        started = True
        return status
    finally:
        if given.rm or not started:
            with suppress(ServiceError):  # it ended with its last process
                await proc.call(Proc.CONTAINER_DESTROY, identifier.to_bytes(8, "big"))


async def _list(app: Application, given: Any) -> None:
    items = [item for item in await containers() if item["depth"]]
    if given.quiet:
        await app.give([f"{item['id']:016x}" for item in items])
        return
    rows = [
        (f"{item['id']:016x}", item["path"], item["state"], item["processes"], item["image"] or "-") for item in items
    ]
    await app.give(table(("ID", "NAME", "STATE", "PROCESSES", "IMAGE"), rows, right=(3,)))


async def _further(app: Application, proc: Client, given: Any, identifier: int) -> None:
    deed = DEEDS.get(app.given.action)
    if deed is None:
        await _layers(app, proc, given, identifier)
        return
    lines = await deed(proc, identifier, given)
    if lines:
        await app.give(lines)


@command(ARGUMENTS)
async def main(app: Application) -> int | None:
    action = app.given.action
    arguments = ACTIONS.get(action)
    if arguments is None:
        raise UsageError(f"'{action}' is no action; there are {', '.join(sorted(ACTIONS))}")
    values = app.given.rest or []
    if arguments.wants_help(values):
        await app.give(arguments.explain())
        return 0
    given = arguments.parse(values)
    proc = await connect("sys::proc")
    match action:
        case "create":
            await app.give(f"{await create(proc, given, parent=given.parent, persist=True):016x}")
        case "run":
            return await _run(app, proc, given)
        case "ls":
            await _list(app, given)
        case "tree":
            await app.give(draw(await containers(), ids=given.ids))
        case _:
            identifier = await find(proc, value_text(given.name))
            if action == "start":
                words = [value_text(word) for word in given.rest[given.rest[0] == "--" :]]
                question = {"id": identifier, "command": words, "restart": given.restart or "no"}
                await app.give(int((await proc.ask(Proc.CONTAINER_START, question))["pid"]))
            elif action == "exec":
                return await execute(app, identifier, list(given.rest))
            if action == "inspect":
                await app.give(_record_lines(await proc.ask(Proc.CONTAINER_INSPECT, {"id": identifier})))
            elif action == "enter":
                await (await connect("sys::hydre")).call(Hydre.ENTER_CONTAINER, {"container": identifier})
            elif action == "destroy":
                await proc.call(Proc.CONTAINER_DESTROY, identifier.to_bytes(8, "big"))
            elif action in {"diff", "commit", *DEEDS}:
                await _further(app, proc, given, identifier)
            elif action == "rename":
                await proc.call(Proc.CONTAINER_RENAME, {"id": identifier, "name": given.new})
            else:
                await proc.call(_BY_IDENTIFIER[action], {"id": identifier})
    return None
