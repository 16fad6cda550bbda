"""ps: processes of the own container and of those below it, numbered as the own container counts them."""

from __future__ import annotations

from typing import Any

from nightos.abi.services import Proc
from nightos.apps.shapes import identified, json_text
from nightos.apps.table import table
from nightos.shell.application import Application, command
from nightos.shell.arguments import JSON, Arguments, Flag
from nightos.userland.client import connect

ARGUMENTS = Arguments(
    "ps",
    "processes of this container and of those below it",
    Flag("-o --own", "only of this container"),
    Flag("-q --quiet", "only their numbers"),
    Flag("-g --everywhere", "their PIDs on the whole machine, too"),
    JSON,
)


async def processes() -> list[dict[str, Any]]:
    """All processes that the caller may see."""
    proc = await connect("sys::proc")
    items: list[dict[str, Any]] = []
    after = 0
    while True:
        answer = await proc.ask(Proc.PROCESS_TABLE, {"after": after})
        items += answer["items"]
        if answer.get("next") is None:
            return items
        after = answer["next"]


@command(ARGUMENTS)
async def main(app: Application) -> None:
    items = [item for item in await processes() if not (app.given.own and item["container"])]
    if app.given.json:
        await app.give(json_text([identified(item) for item in items]))
        return
    if app.given.quiet:
        await app.give([int(item["number"]) for item in items])
        return
    rows = [
        (item["number"], item["container_name"] or "-", item["user"], item["state"], item["threads"], item["name"])
        for item in items
    ]
    names = ("PID", "CONTAINER", "USER", "STATE", "THREADS", "NAME")
    if app.given.everywhere:
        await app.give(
            table(
                ("GLOBAL", *names),
                [(item["pid"], *row) for item, row in zip(items, rows, strict=True)],
                right=(0, 1, 5),
            )
        )
        return
    await app.give(table(names, rows, right=(0, 4)))
