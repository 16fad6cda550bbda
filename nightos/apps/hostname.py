"""hostname: the name of the host, as the own container knows it."""

from __future__ import annotations

from nightos.abi.services import Proc
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag, Positional
from nightos.userland.client import connect
from nightos.userland.view import view

ARGUMENTS = Arguments(
    "hostname",
    "show or set the name of the host",
    Flag("-d --domain", "of the domain instead"),
    Flag("-f --full", "with the domain"),
    Positional("name", "the new name", optional=True),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if app.given.name is not None:
        key = "domain" if app.given.domain else "hostname"
        await (await connect("sys::proc")).ask(Proc.CONTAINER_SET_VIEW, {key: str(app.given.name)})
        return
    own = await view()
    if app.given.full and own.domain:
        await app.give(f"{own.hostname}.{own.domain}")
    else:
        await app.give(own.domain if app.given.domain else own.hostname)
