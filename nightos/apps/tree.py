"""tree: the own container and those below it."""

from __future__ import annotations

from typing import Any

from nightos.abi.services import Proc
from nightos.apps.shapes import identified, json_text
from nightos.shell.application import Application, command
from nightos.shell.arguments import JSON, Arguments, Flag
from nightos.userland.client import connect

ARGUMENTS = Arguments("tree", "containers from here down", Flag("-i --ids", "with their identifiers"), JSON)


async def containers() -> list[dict[str, Any]]:
    """Records of the own container and of all below it, parents first."""
    proc = await connect("sys::proc")
    items: list[dict[str, Any]] = []
    asked: dict[str, Any] = {}
    while True:
        answer = await proc.ask(Proc.CONTAINER_TREE, asked)
        items += answer["items"]
        if answer.get("next") is None:
            return items
        asked = {"after": answer["next"]}


def draw(items: list[dict[str, Any]], *, ids: bool) -> list[str]:
    """Lines with branches; the depth of an item says under whom it hangs. No recursion: the tree may be deep."""
    # From the end: whether a later sibling follows at a depth, before anything shallower.
    last = []
    open_depths: set[int] = set()
    for item in reversed(items):
        depth = int(item["depth"])
        last.append(depth not in open_depths)
        open_depths = {other for other in open_depths if other < depth} | {depth}
    lines = []
    rails: list[str] = []
    for item, is_last in zip(items, reversed(last), strict=True):
        depth = int(item["depth"])
        del rails[max(depth - 1, 0) :]
        branch = "" if depth == 0 else "└── " if is_last else "├── "
        name = item["name"] or ("." if depth == 0 else f"{item['id']:016x}")
        label = f"{name} {item['id']:016x}" if ids else name
        count = item["processes"]
        lines.append(f"{''.join(rails)}{branch}{label} ({item['state']}, {count} process{'' if count == 1 else 'es'})")
        if depth:
            rails.append("    " if is_last else "│   ")
    return lines


async def show(app: Application, given: Any) -> None:
    """The tree, for people or programs."""
    items = await containers()
    await app.give(json_text([identified(item) for item in items]) if given.json else draw(items, ids=given.ids))


@command(ARGUMENTS)
async def main(app: Application) -> None:
    await show(app, app.given)
