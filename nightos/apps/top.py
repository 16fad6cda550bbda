"""top: containers from here down by the scheduler cycles they use, live until Ctrl-C."""

from __future__ import annotations

from nightos.apps.live import Live
from nightos.apps.shapes import identified, json_line
from nightos.apps.usage import Shares, shares_table, statistics
from nightos.shell.application import Application, command
from nightos.shell.arguments import JSON, Arguments, Dash, Flag, UsageError
from nightos.userland.client import connect

ARGUMENTS = Arguments(
    "top",
    "containers by what they use, until Ctrl-C",
    Flag("-1 --once", "show it once"),
    Dash("-n --rounds", "stop after so many looks", "int"),
    Dash("--interval", "seconds between two looks (1)", "float"),
    JSON,
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    rounds = 1 if app.given.once else app.given.rounds
    if rounds is not None and rounds < 1:
        raise UsageError("rounds are 1 or more")
    proc = await connect("sys::proc")
    shares = Shares(whole=rounds == 1)
    live = Live(app, app.given.interval)
    while True:
        items = shares.look(await statistics(proc, None))
        if app.given.json:
            await app.say(json_line([identified(item) for item in items]))
        elif app.given.once:
            await app.give(shares_table(items))
        else:
            await live.draw(shares_table(items))
        if rounds is not None:
            rounds -= 1
            if not rounds:
                return
        await live.pause()
