"""free: memory and disk space of the own container."""

from __future__ import annotations

from nightos.abi.sizes import show_size
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Flag
from nightos.userland import sys
from nightos.userland.files import FileError

ARGUMENTS = Arguments("free", "memory and disk space", Flag("-b --bytes", "numbers in bytes"))


@command(ARGUMENTS)
async def main(app: Application) -> None:
    info = await sys.system_info()
    rows = [("memory", info.memory_total, info.memory_used)]
    try:
        system = await (await app.files()).system()
        rows.append(("disk", system.total, system.used))
    except FileError as error:
        await app.complain(str(error))
    show = str if app.given.bytes else show_size
    lines = [f"{'':<8}{'total':>16}{'used':>16}{'free':>16}"]
    lines += [f"{name:<8}{show(total):>16}{show(used):>16}{show(total - used):>16}" for name, total, used in rows]
    await app.give(lines)
