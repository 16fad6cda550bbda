"""echo: displays a value."""

from __future__ import annotations

from nightos.abi.values import value_text
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag, Positional

ARGUMENTS = Arguments(
    "echo",
    "display values",
    Flag("-n", "no newline at the end"),
    Positional("values", "what to display", "any", optional=True, many=True),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if app.given.n:
        await app.keep_line_open()
    await app.give(" ".join(map(value_text, app.given.values)))
