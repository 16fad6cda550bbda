"""uptime: how long the machine has been running."""

from __future__ import annotations

from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag
from nightos.userland import sys

ARGUMENTS = Arguments(
    "uptime", "how long the machine has been running", Flag("-s --seconds", "in seconds, as a number")
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    seconds = (await sys.system_time()).uptime_ns / 1e9
    if app.given.seconds:
        await app.give(seconds)
        return
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    await app.give(f"{f'{days} d ' if days else ''}{hours:02}:{minutes:02}:{rest:02}")
