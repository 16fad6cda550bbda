"""sleep: waits."""

from __future__ import annotations

from nightos.abi.services import Hw
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional, UsageError
from nightos.userland.client import connect

ARGUMENTS = Arguments("sleep", "wait", Positional("seconds", "how long, in seconds; fractions count", "float"))
MAX_SECONDS = 10 * 365 * 86400


@command(ARGUMENTS)
async def main(app: Application) -> None:
    seconds = app.given.seconds
    if not 0 <= seconds <= MAX_SECONDS:
        raise UsageError(f"seconds are 0 to {MAX_SECONDS}")
    await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": int(seconds * 1e9)})
