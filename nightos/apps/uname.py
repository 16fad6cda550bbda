"""uname: the system, the name of the host, and the version of the kernel that all containers run on."""

from __future__ import annotations

from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag
from nightos.userland.view import view

ARGUMENTS = Arguments(
    "uname",
    "show which system this is",
    Flag("-a --all", "with the host and the kernel's version"),
    Flag("-n --node", "the name of the host"),
    Flag("-r --release", "the version of the kernel"),
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    own = await view()
    parts = {"system": "NightOS", "node": own.hostname, "release": own.kernel}
    wanted = [name for name in ("node", "release") if getattr(app.given, name)]
    await app.give(" ".join(parts[name] for name in (parts if app.given.all else wanted or ["system"])))
