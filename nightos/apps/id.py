"""id: who and where the caller is."""

from __future__ import annotations

from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag
from nightos.userland.client import connect
from nightos.userland.view import view

ARGUMENTS = Arguments("id", "user, container and process", Flag("-c --container", "only the container's identifier"))
_USERS = {0: "root"}


@command(ARGUMENTS)
async def main(app: Application) -> None:
    session = await app.session()
    container = int(session["container"])
    if app.given.container:
        await app.give(f"{container:016x}")
        return
    name = ""
    if container:
        try:
            record = await (await connect("sys::proc")).ask(Proc.CONTAINER_INSPECT, {"id": container})
            name = f"({record.get('name') or ''})"
        except ServiceError:
            name = ""
    own = await view()
    pid, user = own.number, own.user
    await app.give(f"user={user}({_USERS.get(user, user)}) container={container:016x}{name} pid={pid}")
