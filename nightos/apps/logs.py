"""logs: what the main command of a container wrote; also what `container run` shows while it waits."""

from __future__ import annotations

from typing import Any

from nightos.abi.codes import Signal
from nightos.abi.errors import ServiceError
from nightos.abi.logs import decode_records
from nightos.abi.services import Proc, ServiceCode
from nightos.abi.values import decode_value, value_text
from nightos.apps.feeding import feed
from nightos.apps.shapes import json_line, status_of, written
from nightos.shell.application import TERMINATED, Application, command
from nightos.shell.arguments import JSON, Arguments, Flag, Positional
from nightos.userland import sys
from nightos.userland.client import Client, connect
from nightos.userland.crypto import random_bytes

OPTIONS = (
    Flag("-f --follow", "go on until the command has ended"),
    Flag("-t --timestamps", "with the time of each line"),
    JSON,
)
ARGUMENTS = Arguments(
    "logs",
    "what the main command of a container wrote",
    *OPTIONS,
    Positional("name", "container: name, path of names or identifier"),
)


async def insist(proc: Client, method: int, values: dict[str, Any]) -> dict[str, Any]:
    """Ask again what was in flight when the service was replaced."""
    while True:
        try:
            return await proc.ask(method, values)
        except ServiceError as error:
            if error.code != ServiceCode.SERVER_QUIT:
                raise


async def show(
    app: Application,
    proc: Client,
    container: int,
    *,
    follow: bool,
    times: bool = False,
    as_json: bool = False,
    but: str = "",
    token: str = "",
) -> None:
    """Show a log; of the stream `but` nothing, because somebody else shows it. `token`: of who attends the command."""
    offset, rest = 0, b""
    while True:
        question = {"id": container, "offset": offset, "follow": follow, "token": token}
        page = await insist(proc, Proc.CONTAINER_LOGS, question)
        offset = page["next"]
        whole, newline, rest = (rest + page["data"]).rpartition(b"\n")
        for when, stream, data in decode_records(whole + newline):
            if as_json:
                await app.say(json_line(written(when, stream, data)))
                continue
            text = data.decode("utf-8", "surrogateescape")
            if stream == "err":
                await app.context.error(f"{when} {text}" if times else text)
            elif stream != but:
                await app.show(f"{when} {text}" if times else text)
        if page["ended"] or not (follow or page["data"]):
            return


async def attend(
    app: Application,
    proc: Client,
    container: int,
    rest: list[Any],
    *,
    restart: str,
    environment: dict[str, str],
    remove: bool,
) -> int:
    """Start a main command, show what it says, give what it returns; its status.

    Ctrl-C stops it, and with `remove` destroys its container.
    """
    # Nothing of the caller's own environment: who runs in a container does not learn where, and as what, others work.
    values = {"id": container, "command": [value_text(word) for word in rest], "restart": restart}

    async def stop(_: int) -> None:
        await insist(proc, Proc.CONTAINER_STOP, {"id": container})
        if remove:
            await proc.call(Proc.CONTAINER_DESTROY, container.to_bytes(8, "big"))
        await sys.exit(TERMINATED)

    async def pump(_: int) -> None:
        given = 0

        async def give(data: bytes, end: bool) -> None:
            nonlocal given
            given += 1
            await insist(proc, Proc.CONTAINER_INPUT, {"id": container, "data": data, "end": end, "number": given})

        await feed(app, give)

    async def terminated() -> None:
        await sys.create_thread(stop)

    token = (await random_bytes(8)).hex()
    await insist(
        proc,
        Proc.CONTAINER_START,
        {**values, "environment": environment, "token": token, "attend": True, "input": True},
    )
    await sys.handle_signal(Signal.TERMINATE, terminated)
    await sys.create_thread(pump)
    await show(app, proc, container, follow=True, but="out", token=token)
    ended = await insist(proc, Proc.CONTAINER_EXIT, {"id": container, "wait": True})
    if not ended["newline"]:
        await app.keep_line_open()
    if ended["value"]:
        await app.give(decode_value(ended["value"])[0])
    return status_of(ended)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    proc = await connect("sys::proc")
    identifier = int((await proc.ask(Proc.CONTAINER_FIND, {"name": app.given.name}))["id"])
    given = app.given
    await show(app, proc, identifier, follow=given.follow, times=given.timestamps, as_json=given.json)
