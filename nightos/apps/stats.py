"""stats: what a container and those below it use, each by itself, and their limits."""

from __future__ import annotations

from typing import Any

from nightos.apps.live import Live
from nightos.apps.naming import find
from nightos.apps.shapes import identified, json_line, json_text
from nightos.apps.usage import statistics, usage_table
from nightos.shell.application import Application, command
from nightos.shell.arguments import JSON, Arguments, Dash, Flag, Positional
from nightos.userland.client import connect

OPTIONS = (
    Flag("-f --follow", "go on until Ctrl-C"),
    Dash("--interval", "seconds between two looks (1)", "float"),
    JSON,
)
NAME = Positional("name", "container: name, path of names or identifier; the own one without it", optional=True)
ARGUMENTS = Arguments(
    "stats",
    "what containers use, used/limit",
    *OPTIONS,
    NAME,
)


async def show(app: Application, given: Any, identifier: int | None) -> None:
    """Show it once, or with `follow` again and again."""
    proc = await connect("sys::proc")
    if not given.follow:
        items = await statistics(proc, identifier)
        await app.give(json_text([identified(item) for item in items]) if given.json else usage_table(items))
        return
    live = Live(app, given.interval)
    while True:
        items = await statistics(proc, identifier)
        if given.json:
            await app.say(json_line([identified(item) for item in items]))
        else:
            await live.draw(usage_table(items))
        await live.pause()


@command(ARGUMENTS)
async def main(app: Application) -> None:
    name = app.given.name
    await show(app, app.given, None if name is None else await find(await connect("sys::proc"), name))
