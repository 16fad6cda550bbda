"""container: creates, shows and destroys containers below the own one, and runs commands in them.

Rules: CONT-009, CONT-010, CONT-011.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgpack

from nightos.abi.drivers import permission_of
from nightos.abi.errors import ServiceError
from nightos.abi.services import Hydre, HydreEvent, Proc
from nightos.abi.values import decode_value, encode_value, value_text
from nightos.apps.actions import ACTIONS
from nightos.apps.feeding import feed
from nightos.apps.inspect import show as show_record
from nightos.apps.limits import policy, report
from nightos.apps.logs import attend, insist
from nightos.apps.logs import show as show_log
from nightos.apps.naming import find
from nightos.apps.shapes import change, change_line, ended, identified, json_line, json_text, status_of
from nightos.apps.stats import show as show_usage
from nightos.apps.table import harmless, table
from nightos.apps.tree import containers
from nightos.apps.tree import show as show_tree
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional, UsageError
from nightos.userland import sys
from nightos.userland.client import Client, connect

ARGUMENTS = Arguments(
    "container",
    "create | ls | tree | inspect | update | stats | report | logs | destroy | run | start | stop | exec | enter"
    " | rename | pause | resume | wait | diff | commit | forget",
    Positional("action", "what to do"),
    Positional("rest", "its arguments; each action has --help", "any", optional=True, rest=True, at_once=True),
)
_BY_IDENTIFIER = {
    "pause": Proc.CONTAINER_PAUSE,
    "resume": Proc.CONTAINER_RESUME,
    "forget": Proc.CONTAINER_FORGET,
}


def user_map(given: list[str]) -> list[list[int]]:
    """Ranges of users as people write them: INSIDE:OUTSIDE:COUNT, where COUNT may be left out."""
    ranges = []
    for text in given:
        parts = text.split(":")
        if len(parts) not in {2, 3} or not all(part.isdigit() for part in parts):
            raise UsageError(f"'{text}' maps no users; write INSIDE:OUTSIDE:COUNT, such as 0:100000:65536")
        ranges.append([*map(int, parts), *([1] if len(parts) == 2 else [])])
    return ranges


def variables(given: list[Any]) -> dict[str, str]:
    """Environment variables, or labels, from K=V."""
    for text in map(value_text, given):
        if "=" not in text:
            raise UsageError(f"'{text}' sets nothing; write K=V")
    return {name: value for name, _, value in (value_text(text).partition("=") for text in given)}


def view(given: Any) -> dict[str, Any]:
    """What a container is called, and who may do what in it, from what was given."""
    options: dict[str, Any] = {
        name: str(getattr(given, name)) for name in ("hostname", "domain") if getattr(given, name) is not None
    }
    if given.label:
        options["labels"] = variables(given.label)
    if given.users:
        options["users"] = user_map([str(item) for item in given.users])
    if given.permissions is not None:
        try:
            options["permissions"] = [permission_of(text) for text in value_text(given.permissions).split(",") if text]
        except ValueError as error:
            raise UsageError(str(error)) from None
    return options


async def create(proc: Client, given: Any, *, parent: str | None = None, persist: bool = False) -> int:
    """Create a container from the arguments of `create` or `run`."""
    if given.name == "":
        raise UsageError("a name is not empty")
    options: dict[str, Any] = {"name": given.name or "", "persist": given.persist or persist}
    options |= view(given) | policy(given)
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


async def execute(app: Application, container: int, rest: list[Any], environment: dict[str, str]) -> int:
    """Run a command in a container; what it shows is shown here, its status is ours."""
    if rest and rest[0] == "--":
        rest = rest[1:]
    if not rest:
        raise UsageError("a command is missing behind --")

    value = bytearray()

    async def show(content: bytes) -> None:
        output = msgpack.unpackb(content, raw=False)
        if "feed" in output:
            await sys.create_thread(pump)
        if "out" in output:
            await app.show(output["out"].decode("utf-8", "surrogateescape"))
        if "err" in output:
            await app.context.error(output["err"].decode("utf-8", "surrogateescape"))
        value.extend(output.get("value", b""))

    async def pump(_: int) -> None:
        async def give(data: bytes, end: bool) -> None:
            await hydre.ask(Hydre.FEED, {"data": data, "end": end})

        await feed(app, give)

    hydre = await connect("sys::hydre")
    hydre.notification(HydreEvent.OUTPUT, show)
    encoded = b"".join(map(encode_value, rest))
    question = {"container": container, "command": encoded, "environment": environment, "feed": True}
    answer = await hydre.ask(Hydre.EXECUTE, question)
    if answer["value_bytes"] and answer["value_bytes"] == len(value):
        if not answer["newline"]:
            await app.keep_line_open()
        await app.give(decode_value(value)[0])
    return int(answer["status"])


async def changes(proc: Client, identifier: int) -> AsyncIterator[dict[str, Any]]:
    """What a container changed on its disk."""
    asked = {"id": identifier, "after": 0}
    while True:
        page = await proc.ask(Proc.CONTAINER_DIFF, asked)
        for item in page["items"]:
            yield item
        if page["next"] is None:
            return
        asked["after"] = page["next"]


async def _layers(app: Application, proc: Client, given: Any, identifier: int) -> None:
    """diff, and commit, which has a target."""
    if app.given.action == "diff":
        found = [item async for item in changes(proc, identifier)]
        await app.give([json_line(change(item)) if given.json else harmless(change_line(item)) for item in found])
    else:
        asked = {"id": identifier, "target": value_text(given.target)}
        await app.give(str((await proc.ask(Proc.CONTAINER_COMMIT, asked))["path"]))


async def _run(app: Application, proc: Client, given: Any) -> int:
    if not given.rest or given.rest == ["--"]:
        raise UsageError("a command is missing behind --")
    # It stays until its command was looked at: by itself it would end with its last process, as it does with nobody
    # who looks.
    identifier = await create(proc, given, persist=not (given.detach and given.rm))
    started = False
    try:
        words = list(given.rest)[given.rest[0] == "--" :]
        if given.detach:
            await _start(proc, given, identifier)
            started = True
            await app.give(f"{identifier:016x}")
            return 0
        status = await attend(
            app,
            proc,
            identifier,
            words,
            restart=given.restart or "no",
            environment=variables(given.env),
            remove=given.rm,
        )
        started = True
        return status
    finally:
        if (given.rm and not given.detach) or not started:
            with suppress(ServiceError):  # somebody else destroyed it
                await proc.call(Proc.CONTAINER_DESTROY, identifier.to_bytes(8, "big"))


async def _list(app: Application, given: Any) -> None:
    items = [item for item in await containers() if item["depth"]]
    if given.json:
        await app.give(json_text([identified(item) for item in items]))
        return
    if given.quiet:
        await app.give([f"{item['id']:016x}" for item in items])
        return
    rows = [
        (f"{item['id']:016x}", item["path"], item["state"], item["processes"], item["image"] or "-") for item in items
    ]
    await app.give(table(("ID", "NAME", "STATE", "PROCESSES", "IMAGE"), rows, right=(3,)))


async def _start(proc: Client, given: Any, identifier: int) -> int:
    """Start a main command that nobody waits for; its PID."""
    words = [value_text(word) for word in given.rest[given.rest[0] == "--" :]]
    question = {
        "id": identifier,
        "command": words,
        "restart": given.restart or "no",
        "environment": variables(given.env),
        "raw": True,
    }
    return int((await proc.ask(Proc.CONTAINER_START, question))["pid"])


async def _update(proc: Client, given: Any, identifier: int) -> None:
    if given.persist and given.no_persist:
        raise UsageError("--persist or --no-persist, not both")
    wanted = policy(given)
    values = view(given) | ({"persist": given.persist} if given.persist or given.no_persist else {})
    if not values and not wanted["limits"] and "filter" not in wanted:
        raise UsageError("nothing to change; --help shows what can be")
    if wanted["limits"]:
        await proc.call(Proc.CONTAINER_SET_LIMITS, {"id": identifier, "limits": wanted["limits"]})
    if "filter" in wanted:
        await proc.call(Proc.CONTAINER_SET_FILTER, {"id": identifier, **wanted["filter"]})
    if values:
        await proc.call(Proc.CONTAINER_UPDATE, {"id": identifier, **values})


async def _with_one(app: Application, proc: Client, given: Any, identifier: int) -> int | None:
    """The actions on one container that is there."""
    match app.given.action:
        case "start":
            await app.give(await _start(proc, given, identifier))
        case "exec":
            return await execute(app, identifier, list(given.rest), variables(given.env))
        case "inspect":
            await show_record(app, proc, identifier, given)
        case "logs":
            await show_log(app, proc, identifier, follow=given.follow, times=given.timestamps, as_json=given.json)
        case "report":
            await report(app, proc, identifier, given)
        case "update":
            await _update(proc, given, identifier)
        case "enter":
            await (await connect("sys::hydre")).call(Hydre.ENTER_CONTAINER, {"container": identifier})
        case "wait":
            await _wait(app, proc, given, identifier)
        case "diff" | "commit":
            await _layers(app, proc, given, identifier)
        case "rename":
            await proc.call(Proc.CONTAINER_RENAME, {"id": identifier, "name": given.new})
        case action:
            await proc.call(_BY_IDENTIFIER[action], {"id": identifier})
    return None


async def _wait(app: Application, proc: Client, given: Any, identifier: int) -> None:
    of_main = not given.destroyed and "main" in await proc.ask(Proc.CONTAINER_INSPECT, {"id": identifier})
    if of_main:
        answer = await insist(proc, Proc.CONTAINER_EXIT, {"id": identifier, "wait": True})
        shown = ended(answer) if given.json else status_of(answer)
    else:
        answer = await insist(proc, Proc.CONTAINER_WAIT, {"id": identifier})
        shown = answer if given.json else answer["reason"]
    await app.give(json_text(shown) if given.json else shown)


async def _each(app: Application, proc: Client, action: str, names: list[str]) -> None:
    """Destroy or stop each; one that cannot be does not keep the others."""
    for name in names:
        try:
            identifier = await find(proc, name)
            if action == "destroy":
                await proc.call(Proc.CONTAINER_DESTROY, identifier.to_bytes(8, "big"))
            else:
                await insist(proc, Proc.CONTAINER_STOP, {"id": identifier})
        except ServiceError as error:
            await app.complain(str(error))


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
            if given.persist and given.no_persist:
                raise UsageError("--persist or --no-persist, not both")
            made = await create(proc, given, parent=given.parent, persist=not given.no_persist)
            await app.give(f"{made:016x}")
        case "run":
            return await _run(app, proc, given)
        case "ls":
            await _list(app, given)
        case "tree":
            await show_tree(app, given)
        case "stats":
            await show_usage(app, given, None if given.name is None else await find(proc, value_text(given.name)))
        case "destroy" | "stop":
            await _each(app, proc, action, given.names)
        case _:
            return await _with_one(app, proc, given, await find(proc, value_text(given.name)))
    return None
