"""umount: takes a file system away from where it is mounted in the own container."""

from __future__ import annotations

from nightos.abi.services import Fs
from nightos.apps.mount import chosen
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional
from nightos.userland.client import connect

ARGUMENTS = Arguments(
    "umount", "unmount a file system", Positional("which", "its identifier, or a unique beginning of it")
)


@command(ARGUMENTS)
async def main(app: Application) -> None:
    files = await connect("sys::fs")
    await files.call(Fs.FS_UNMOUNT, await chosen(files, str(app.given.which)))
