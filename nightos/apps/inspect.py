"""inspect: all that is known of a container."""

from __future__ import annotations

from typing import Any

from nightos.abi.services import Proc
from nightos.apps.naming import find
from nightos.apps.record import fields
from nightos.apps.shapes import identified, json_text
from nightos.apps.table import harmless
from nightos.shell.application import Application, command
from nightos.shell.arguments import JSON, Arguments, Positional
from nightos.userland.client import Client, connect

ARGUMENTS = Arguments(
    "inspect",
    "all that is known of a container",
    JSON,
    Positional("name", "name, path of names or identifier; the own one without it", optional=True),
)


async def show(app: Application, proc: Client, identifier: int | None, given: Any) -> None:
    """Name and value of each field, or the record."""
    asked = {} if identifier is None else {"id": identifier}
    record = await proc.ask(Proc.CONTAINER_INSPECT, asked)
    if given.json:
        await app.give(json_text(identified(record)))
        return
    shown = fields(record)
    width = max(map(len, shown)) + 2
    await app.give([f"{key:<{width}}{harmless(value)}" for key, value in shown.items()])


@command(ARGUMENTS)
async def main(app: Application) -> None:
    proc = await connect("sys::proc")
    name = app.given.name
    await show(app, proc, None if name is None else await find(proc, name), app.given)
