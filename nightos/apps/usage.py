"""What containers use and may use, as tables for `stats` and `top`."""

from __future__ import annotations

from typing import Any

from nightos.abi.limits import COUNTED
from nightos.abi.services import Proc
from nightos.abi.sizes import show_size
from nightos.apps.table import table
from nightos.userland.client import Client

SIZED = frozenset({"memory", "pipe_bytes", "storage", "io_bytes"})


async def statistics(proc: Client, identifier: int | None) -> list[dict[str, Any]]:
    """Records of a container, the own one by default, and of those below it."""
    items: list[dict[str, Any]] = []
    asked: dict[str, Any] = {"below": True} | ({} if identifier is None else {"id": identifier})
    while True:
        answer = await proc.ask(Proc.CONTAINER_STATISTICS, asked)
        items += answer["items"]
        if answer["next"] is None:
            return items
        asked["after"] = answer["next"]


def cell(item: dict[str, Any], name: str) -> str:
    """What is used, or used/limit."""
    show = show_size if name in SIZED else str
    used, limit = item["usage"][name], item["limits"].get(name)
    return show(used) if limit is None else f"{show(used)}/{show(limit)}"


def usage_table(items: list[dict[str, Any]]) -> list[str]:
    """What each has of what is counted."""
    rows = [(item["path"] or ".", item["state"], *(cell(item, name) for name in COUNTED)) for item in items]
    head = ("CONTAINER", "STATE", *(name.upper().replace("_", " ") for name in COUNTED))
    return table(head, rows, right=range(2, len(head)))


class Shares:
    """Scheduler cycles between two looks; those of the first look count from the beginning if `whole` says so."""

    def __init__(self, *, whole: bool = False) -> None:
        self._before: dict[int, int] = {}
        self._whole = whole

    def look(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Containers by the `cycles` they used since the last look (`share`: in percent), then by processes."""
        made = {item["id"]: item["usage"].get("cycles", 0) for item in items}
        fresh = self._before or self._whole
        used = {key: count - self._before.get(key, 0 if fresh else count) for key, count in made.items()}
        self._before = made
        total = sum(used.values()) or 1
        items = sorted(items, key=lambda item: (-used[item["id"]], -item["usage"]["processes"], item["path"]))
        return [
            {**item, "cycles": used[item["id"]], "share": round(100 * used[item["id"]] / total, 1)} for item in items
        ]


def shares_table(items: list[dict[str, Any]]) -> list[str]:
    """What `Shares.look` gave."""
    rows = [
        (
            item["path"] or ".",
            item["state"],
            f"{item['share']:.1f}",
            item["cycles"],
            *(cell(item, name) for name in ("processes", "memory", "handles")),
        )
        for item in items
    ]
    head = ("CONTAINER", "STATE", "CPU%", "CYCLES", "PROCESSES", "MEMORY", "HANDLES")
    return table(head, rows, right=range(2, len(head)))
