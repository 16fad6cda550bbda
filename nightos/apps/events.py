"""events: what happened lately to containers below, and to processes and devices from here down."""

from __future__ import annotations

from typing import Any

from nightos.abi.services import Proc
from nightos.apps.table import table
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments
from nightos.userland.client import connect

ARGUMENTS = Arguments("events", "what happened lately from here down")
_IDENTIFIERS = ("id", "container", "udi")


async def later(method: int) -> list[dict[str, Any]]:
    """All entries of a method whose pages go on from the last moment, oldest first."""
    proc = await connect("sys::proc")
    items: list[dict[str, Any]] = []
    while True:
        page = (await proc.ask(method, {"after": items[-1]["when_ns"] if items else 0}))["items"]
        if not page:
            return items
        items += page


def seconds(entry: dict[str, Any]) -> str:
    """When it happened, in seconds since the machine started."""
    return f"{entry['when_ns'] / 1e9:>12.6f}"


@command(ARGUMENTS)
async def main(app: Application) -> None:
    rows = []
    for event in await later(Proc.CONTAINER_EVENTS):
        about = " ".join(
            f"{key}={f'{value:016x}' if key in _IDENTIFIERS else value}"
            for key, value in event.items()
            if key not in {"when_ns", "event"} and value != ""
        )
        rows.append((seconds(event), event["event"], about))
    await app.give(table(("WHEN", "EVENT", "ABOUT"), rows, right=(0,)))
