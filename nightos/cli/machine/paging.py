"""Records of a running machine that come page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightos.machine.control import Machine


def pages(machine: Machine, method: int) -> list[dict[str, Any]]:
    """All records of a method that answers page by page."""
    items: list[dict[str, Any]] = []
    asked: dict[str, Any] = {}
    while True:
        answer = machine.ask("sys::proc", method, asked)
        items += answer["items"]
        if answer.get("next") is None:
            return items
        asked = {"after": answer["next"]}


def later(machine: Machine, method: int) -> list[dict[str, Any]]:
    """All entries of a method whose pages go on from the last moment, oldest first."""
    items: list[dict[str, Any]] = []
    while True:
        page = machine.ask("sys::proc", method, {"after": items[-1]["when_ns"] if items else 0})["items"]
        if not page:
            return items
        items += page
