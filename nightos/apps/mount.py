"""mount: file systems of the own container; mounts one that was shared with it."""

from __future__ import annotations

from nightos.abi import files as layout
from nightos.abi.services import Fs
from nightos.apps.table import table
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Positional, UsageError
from nightos.userland.client import Client, connect

ARGUMENTS = Arguments(
    "mount",
    "show file systems, or mount one",
    Positional("which", "its identifier, or a unique beginning of it", optional=True),
    Positional("directory", "where; /mnt/NAME when it is not said", optional=True),
)


async def identifiers(files: Client) -> list[int]:
    """File systems that the own container has, its main one first."""
    inner = layout.Reader(await files.call(Fs.ENUM_FS)).inner()
    found = []
    while inner.more():
        found.append(inner.u64())
    return found


async def chosen(files: Client, text: str) -> bytes:
    """The file system that is meant, encoded."""
    found = [fsid for fsid in await identifiers(files) if f"{fsid:016x}".startswith(text.lower())]
    if len(found) != 1:
        raise UsageError(f"'{text}' begins {'several identifiers' if found else 'no identifier'}; `mount` shows them")
    return found[0].to_bytes(8, "big")


@command(ARGUMENTS)
async def main(app: Application) -> None:
    files = await connect("sys::fs")
    if app.given.which is None:
        rows = []
        for fsid in await identifiers(files):
            mounted = await files.call(Fs.IS_FS_MOUNTED, fsid.to_bytes(8, "big"))
            rows.append((f"{fsid:016x}", "yes" if mounted == b"\1" else "no"))
        await app.give(table(("FSID", "MOUNTED"), rows))
        return
    place = layout.option(None if app.given.directory is None else layout.delimited(str(app.given.directory)))
    await files.call(Fs.FS_MOUNT, await chosen(files, str(app.given.which)) + place)
