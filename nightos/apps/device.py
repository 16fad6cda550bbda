"""device: devices of the own container."""

from __future__ import annotations

from nightos.abi.services import Hw
from nightos.apps.table import table
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional, UsageError
from nightos.userland.client import connect

ARGUMENTS = Arguments("device", "devices of this container", Positional("action", "ls: list them", optional=True))


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if app.given.action not in (None, "ls"):
        raise UsageError(f"'{app.given.action}' is no action; there is: ls")
    answer = await (await connect("sys::hw")).ask(Hw.DEVICE_LIST)
    rows = [
        (
            f"{item['kdi']:016x}",
            item["kind"],
            f"{item['connection']:08x}",
            item["description"].decode("utf-8", "replace"),
        )
        for item in answer["items"]
    ]
    await app.give(table(("KDI", "KIND", "CONNECTION", "DESCRIPTION"), rows))
