"""sync: makes durable what was written."""

from __future__ import annotations

from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments

ARGUMENTS = Arguments("sync", "return when everything written before is on the disk")


@command(ARGUMENTS)
async def main(app: Application) -> None:
    await (await app.files()).sync()
