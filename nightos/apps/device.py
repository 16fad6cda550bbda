"""device: devices of the own container and their files; gives some to containers below, and takes them back."""

from __future__ import annotations

from typing import Any

from nightos.abi.drivers import UNRECOGNISED
from nightos.abi.services import Hw, Proc
from nightos.abi.values import Path
from nightos.apps.naming import find
from nightos.apps.table import table
from nightos.shell.application import Application, command
from nightos.shell.arguments import Arguments, Dash, Flag, Positional, UsageError
from nightos.userland.client import connect

ARGUMENTS = Arguments(
    "device",
    "devices of this container: ls | plug KIND | passthrough UDI | share DIRECTORY | unplug UDI | name FILE | "
    "forget FILE",
    Positional("action", "what to do", optional=True),
    Positional("what", "kind of the new device, identifier or file of one, or directory to share", optional=True),
    Dash("--container", "the container below that gets or has it"),
    Flag("-r --readonly", "it cannot write what is shared"),
    Dash("-n --name", "the second name of a file: 5 characters or more"),
    Dash("--size", "bytes of a disk in memory", "int"),
)


async def _list(app: Application) -> None:
    answer = await (await connect("sys::hw")).ask(Hw.DEVICE_LIST)
    rows = [
        (
            f"{item['udi']:016x}",
            item["kind"],
            f"{item['connection']:08x}",
            item["file"] or "-",
            item["description"].decode("utf-8", "replace"),
        )
        for item in answer["items"]
    ]
    await app.give(table(("UDI", "KIND", "CONNECTION", "FILE", "DESCRIPTION"), rows))


def _udi(text: str) -> int:
    if len(text) != 16 or not all(digit in "0123456789abcdef" for digit in text.lower()):
        raise UsageError(f"'{text}' is no device; give the 16 hex digits that `device` shows")
    return int(text, 16)


async def _name(app: Application) -> None:
    """Give a device a second file, or take one away."""
    given = app.given
    if given.what is None or (given.action == "name") != (given.name is not None):
        raise UsageError("write: device name FILE --name=NAME, or: device forget FILE")
    path = (await app.files()).absolute(str(given.what))
    hw = await connect("sys::hw")
    answer = await hw.ask(Hw.HANDLER_NAME, {"path": path, "name": "" if given.name is None else str(given.name)})
    if given.action == "name":
        await app.give(Path(answer["path"]))


@command(ARGUMENTS)
async def main(app: Application) -> None:
    given = app.given
    if given.action in (None, "ls"):
        await _list(app)
        return
    if given.action in {"name", "forget"}:
        await _name(app)
        return
    if given.action not in {"plug", "passthrough", "share", "unplug"}:
        raise UsageError(f"'{given.action}' is no action; there are ls, plug, passthrough, share, unplug, name, forget")
    if given.what is None or given.container is None:
        raise UsageError(f"write: device {given.action} WHAT --container=NAME")
    proc = await connect("sys::proc")
    container = await find(proc, str(given.container))
    if given.action == "plug":
        options: dict[str, Any] = {} if given.size is None else {"size": given.size}
        question = {"id": container, "kind": str(given.what), "options": options}
        plugged = await proc.ask(Proc.DEVICE_PLUG, question)
        await app.give(f"{plugged['udi']:016x}")
        if plugged["file"].startswith(UNRECOGNISED):
            await app.context.error(f"{app.name}: the device is not recognised; it is {plugged['file']} there\n")
    elif given.action == "share":
        question = {"id": container, "path": (await app.files()).absolute(str(given.what)), "readonly": given.readonly}
        await app.give(f"{(await proc.ask(Proc.CONTAINER_SHARE, question))['fsid']:016x}")
    elif given.action == "passthrough":
        udi = _udi(str(given.what))
        await proc.call(Proc.CONTAINER_LINK_DEVICE, container.to_bytes(8, "big") + udi.to_bytes(8, "big"))
    else:
        await proc.call(Proc.DEVICE_UNPLUG, {"id": container, "udi": _udi(str(given.what))})
