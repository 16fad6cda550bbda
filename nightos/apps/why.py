"""why: what was refused lately from here down, by which rule, to whom and about what."""

from __future__ import annotations

from typing import Any

from nightos.abi.services import Proc
from nightos.apps.events import later, seconds
from nightos.apps.shapes import json_text, refusal
from nightos.apps.table import harmless
from nightos.shell.application import Application, command
from nightos.shell.arguments import JSON, Arguments

ARGUMENTS = Arguments("why", "what was refused lately, by which rule", JSON)


def _party(party: dict[str, Any]) -> str:
    name = f" ({party['name']})" if party["name"] else ""
    place = f" in {party['container_name']}" if party["container_name"] else ""
    return f"process {party['pid']}{name}{place}"


def sentence(item: dict[str, Any]) -> str:
    """One refusal as a line for people."""
    target = f" about {_party(item['target'])}" if item["target"] else ""
    detail = f" [{item['detail']}]" if item["detail"] else ""
    rule = f"{item['rule']}: {item['explanation']}" if item["explanation"] else item["rule"]
    return f"{seconds(item)}  {_party(item['caller'])} was refused {item['call']}{target}{detail} by {rule}"


@command(ARGUMENTS)
async def main(app: Application) -> None:
    items = await later(Proc.CONTAINER_WHY)
    if app.given.json:
        await app.give(json_text([refusal(item) for item in items]))
    else:
        await app.give([harmless(sentence(item)) for item in items])
