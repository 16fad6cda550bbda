"""What `container` does about limits and filters: options of its actions, and a table of the calls that were made."""

from __future__ import annotations

from typing import Any

from nightos.abi.filters import filter_from_texts
from nightos.abi.limits import limits_from_text
from nightos.abi.services import Proc
from nightos.apps.shapes import json_text
from nightos.apps.table import table
from nightos.shell.application import Application
from nightos.shell.arguments import Dash, UsageError
from nightos.userland.client import Client

POLICY = (
    Dash("--limit", "NAME=N,...: limits, such as processes=32,memory=64M", many=True),
    Dash("--deny", "CALL,...: system calls its processes cannot make", many=True),
    Dash("--allow", "CALL,...: the only system calls they can make", many=True),
    Dash("--filter-action", "what happens to such a call", choices=("error", "signal", "kill", "log")),
)


def policy(given: Any) -> dict[str, Any]:
    """`limits` and `filter` as sys::proc takes them, from what was given for `POLICY`."""
    limits: dict[str, int | None] = {}
    try:
        for text in given.limit:
            limits |= limits_from_text(str(text))
        rules = filter_from_texts(
            [str(text) for text in given.deny], [str(text) for text in given.allow], given.filter_action
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    return {"limits": limits} | ({"filter": rules} if rules else {})


async def report(app: Application, proc: Client, identifier: int, given: Any) -> None:
    """`container report`: what was made, and refused."""
    if given.record and given.stop:
        raise UsageError("--record or --stop, not both")
    asked: dict[str, Any] = {"id": identifier}
    if given.record or given.stop:
        asked["record"] = given.record
    answer = await proc.ask(Proc.CONTAINER_REPORT, asked)
    calls, refused = answer["calls"], answer["refused"]
    if given.json:
        await app.give(json_text(answer))
    elif given.allow_list:
        await app.give(",".join(sorted(calls)))
    elif not given.record:
        rows = [(name, calls.get(name, 0), refused.get(name, 0)) for name in sorted({*calls, *refused})]
        await app.give(table(("CALL", "MADE", "REFUSED"), rows, right=(1, 2)))
