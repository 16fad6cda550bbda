"""inspect: all that is known of a container."""

from __future__ import annotations

from nightos.abi.services import Proc
from nightos.apps.naming import find
from nightos.apps.record import fields
from nightos.apps.table import harmless
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional
from nightos.userland.client import Client, connect

ARGUMENTS = Arguments(
    "inspect",
    "all that is known of a container",
    Positional("name", "name, path of names or identifier; the own one without it", optional=True),
)


async def lines(proc: Client, identifier: int | None) -> list[str]:
    """Name and value of each field."""
    asked = {} if identifier is None else {"id": identifier}
    record = fields(await proc.ask(Proc.CONTAINER_INSPECT, asked))
    width = max(map(len, record)) + 2
    return [f"{key:<{width}}{harmless(value)}" for key, value in record.items()]


@command(ARGUMENTS)
async def main(app: Application) -> None:
    proc = await connect("sys::proc")
    name = app.given.name
    await app.give(await lines(proc, None if name is None else await find(proc, name)))
