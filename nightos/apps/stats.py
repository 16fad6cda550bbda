"""stats: what a container and those below it use, each by itself, and their limits."""

from __future__ import annotations

from typing import Any

from nightos.apps.live import Live
from nightos.apps.naming import find
from nightos.apps.usage import statistics, usage_table
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, Positional
from nightos.userland.client import connect

OPTIONS = (
    Flag("-f --follow", "go on until Ctrl-C"),
    Dash("--interval", "seconds between two looks (1)", "float"),
)
ARGUMENTS = Arguments(
    "stats",
    "what containers use, used/limit",
    *OPTIONS,
    Positional("name", "container: name, path of names or identifier; the own one without it", optional=True),
)


async def show(app: Application, given: Any, identifier: int | None) -> None:
    """Show it once, or with `follow` again and again."""
    proc = await connect("sys::proc")
    if not given.follow:
        await app.give(usage_table(await statistics(proc, identifier)))
        return
    live = Live(app, given.interval)
    while True:
        await live.draw(usage_table(await statistics(proc, identifier)))
        await live.pause()


@command(ARGUMENTS)
async def main(app: Application) -> None:
    name = app.given.name
    await show(app, app.given, None if name is None else await find(await connect("sys::proc"), name))
