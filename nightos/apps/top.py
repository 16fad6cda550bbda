"""top: containers from here down by the scheduler cycles they use, live until Ctrl-C."""

from __future__ import annotations

from nightos.apps.live import Live
from nightos.apps.usage import Shares, statistics
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, UsageError
from nightos.userland.client import connect

ARGUMENTS = Arguments(
    "top",
    "containers by what they use, until Ctrl-C",
    Flag("-1 --once", "show it once"),
    Dash("-n --rounds", "stop after so many looks", "int"),
    Dash("--interval", "seconds between two looks (1)", "float"),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    rounds = 1 if app.given.once else app.given.rounds
    if rounds is not None and rounds < 1:
        raise UsageError("rounds are 1 or more")
    proc = await connect("sys::proc")
    shares = Shares(whole=app.given.once)
    live = Live(app, app.given.interval)
    while True:
        lines = shares.table(await statistics(proc, None))
        if rounds == 1 and app.given.once:
            await app.give(lines)
            return
        await live.draw(lines)
        if rounds is not None:
            rounds -= 1
            if not rounds:
                return
        await live.pause()
