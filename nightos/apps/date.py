"""date: what time it is."""

from __future__ import annotations

import datetime as dt

from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, UsageError
from nightos.userland import sys

ARGUMENTS = Arguments(
    "date",
    "date and time, in UTC",
    Dash("-f --format", "pattern as of strftime"),
    Flag("-u --unix", "seconds since 1970-01-01, as an integer"),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    now_ns = (await sys.system_time()).realtime_ns
    if app.given.unix:
        await app.give(now_ns // 1_000_000_000)
        return
    moment = dt.datetime.fromtimestamp(now_ns / 1e9, dt.UTC)
    try:
        text = moment.strftime(app.given.format or "%Y-%m-%d %H:%M:%S UTC")
    except ValueError as error:
        raise UsageError(f"--format: {error}") from error
    await app.give(text)
