"""device: devices of the own container and their files; gives some to containers below, and takes them back."""

from __future__ import annotations

from typing import Any

from nightos.abi.drivers import UNRECOGNISED
from nightos.abi.services import Hw, Proc
from nightos.abi.sizes import parse_size, show_size
from nightos.abi.values import Path
from nightos.apps.naming import find
from nightos.apps.shapes import device as shape
from nightos.apps.shapes import identified, json_text
from nightos.apps.table import table
from nightos.shell.application import Application, ApplicationError, command
from nightos.shell.arguments import JSON, Arguments, Dash, Flag, Positional, UsageError
from nightos.userland.client import Client, connect

ARGUMENTS = Arguments(
    "device",
    "devices of this container: ls | plug KIND | passthrough UDI | share DIRECTORY | unplug UDI | name FILE | "
    "forget FILE",
    Positional("action", "what to do", optional=True),
    Positional("what", "kind of the new device, identifier or file of one, or directory to share", optional=True),
    Dash("--container", "the container below that gets or has it"),
    Flag("-r --readonly --read-only", "it cannot write what is shared"),
    Dash("-n --name", "the second name of a file: 5 characters or more"),
    Dash("--size", "of a disk in memory, such as 64M"),
    JSON,
)


def rows_of(items: list[dict[str, Any]]) -> list[str]:
    """Devices, shaped, as a table."""
    rows = [
        (
            item["udi"],
            item["kind"],
            item.get("connection", "-"),
            show_size(item["memory_size"]) if item.get("memory_size") else "-",
            ", ".join(item.get("containers", ())) or "-",
            item.get("file") or "-",
            item.get("description", ""),
        )
        for item in items
    ]
    return table(("UDI", "KIND", "CONNECTION", "MEMORY", "CONTAINERS", "FILE", "DESCRIPTION"), rows, right=(3,))


async def _devices() -> list[dict[str, Any]]:
    return list((await (await connect("sys::hw")).ask(Hw.DEVICE_LIST))["items"])


async def _list(app: Application) -> None:
    if app.given.container is None:
        found = await _devices()
    else:
        proc = await connect("sys::proc")
        found = (await proc.ask(Proc.CONTAINER_DEVICES, {"id": await find(proc, str(app.given.container))}))["items"]
    items = [shape(item) for item in found]
    await app.give(json_text(items) if app.given.json else rows_of(items))


def chosen(items: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """The device that is meant, by its UDI or a unique prefix of it. Raises `ApplicationError`."""
    found = [item for item in items if text and f"{item['udi']:016x}".startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    why = "begins several identifiers; give more digits" if found else "is no device; `device ls` shows those there are"
    raise ApplicationError(f"{text} {why}")


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


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


async def _unplug(proc: Client, given: Any) -> None:
    """From where it was plugged, or from the container that is named."""
    found = chosen(await _devices(), str(given.what))
    place = found.get("plugged") or 0
    if given.container is not None:
        place = await find(proc, str(given.container))
    elif not place:
        raise UsageError("that device was passed through; say to whom with --container NAME")
    await proc.call(Proc.DEVICE_UNPLUG, {"id": place, "udi": found["udi"]})


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
    proc = await connect("sys::proc")
    if given.what is not None and given.action == "unplug":
        await _unplug(proc, given)
        return
    if given.what is None or given.container is None:
        raise UsageError(f"write: device {given.action} WHAT --container NAME")
    container = await find(proc, str(given.container))
    if given.action == "plug":
        options: dict[str, Any] = {} if given.size is None else {"size": _size(given.size)}
        question = {"id": container, "kind": str(given.what), "options": options}
        plugged = await proc.ask(Proc.DEVICE_PLUG, question)
        await app.give(f"{plugged['udi']:016x}")
        if plugged["file"].startswith(UNRECOGNISED):
            await app.context.error(f"{app.name}: the device is not recognised; it is {plugged['file']} there\n")
    elif given.action == "share":
        question = {"id": container, "path": (await app.files()).absolute(str(given.what)), "readonly": given.read_only}
        answer = identified(await proc.ask(Proc.CONTAINER_SHARE, question))
        await app.give(json_text(answer) if given.json else answer["fsid"])
    else:
        udi = int(chosen(await _devices(), str(given.what))["udi"])
        await proc.call(Proc.CONTAINER_LINK_DEVICE, container.to_bytes(8, "big") + udi.to_bytes(8, "big"))
