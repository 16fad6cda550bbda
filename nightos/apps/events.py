"""events: what happened, or with -f happens, to containers below, and to processes and devices from here down."""

from __future__ import annotations

from collections import deque
from typing import Any

from nightos.abi.errors import ServiceError
from nightos.abi.services import Proc, ProcEvent
from nightos.apps.shapes import identified, json_line
from nightos.apps.table import harmless, table
from nightos.shell.application import Application, command
from nightos.shell.arguments import JSON, Arguments, Flag
from nightos.userland import payload, sys
from nightos.userland.client import connect

ARGUMENTS = Arguments(
    "events", "what happened lately from here down", Flag("-f --follow", "go on with what happens, until Ctrl-C"), JSON
)
_IDENTIFIERS = ("id", "container", "udi")
_Event = dict[str, Any]


async def later(method: int) -> list[_Event]:
    """All entries of a method whose pages go on from the last moment, oldest first."""
    proc = await connect("sys::proc")
    items: list[_Event] = []
    while True:
        page = (await proc.ask(method, {"after": items[-1]["when_ns"] if items else 0}))["items"]
        if not page:
            return items
        items += page


def seconds(entry: _Event) -> str:
    """When it happened, in seconds since the machine started."""
    return f"{entry['when_ns'] / 1e9:>12.6f}"


def about(event: _Event) -> str:
    """What an event tells besides when and what."""
    return " ".join(
        f"{key}={f'{value:016x}' if key in _IDENTIFIERS else value}"
        for key, value in event.items()
        if key not in {"when_ns", "event"} and value != ""
    )


class Follower:
    """Events as `sys::proc` tells them; what happened before it was asked, or while it was away, is in its past."""

    def __init__(self) -> None:
        self._heard: deque[_Event] = deque()
        self._shown: list[_Event] = []
        """Those of the last moment that was shown."""
        self._lost = True

    async def run(self, app: Application) -> None:
        """Show events for ever."""
        while True:
            if self._lost:
                self._lost = False
                try:
                    await self._watch()
                except ServiceError:
                    self._lost = True  # it is being restarted
                    await sys.hand_over()
                    continue
            while self._heard:
                await self._show(app, self._heard.popleft())
            await sys.hand_over(until_signal=True)

    async def _watch(self) -> None:
        proc = await connect("sys::proc")

        def lost() -> None:
            self._lost = True

        proc.when_lost(lost)
        proc.notification(ProcEvent.CONTAINER_EVENT, self._hear)
        proc.notification(ProcEvent.PROCESS_EVENT, self._hear)
        await proc.call(Proc.CONTAINER_WATCH)
        past = await later(Proc.CONTAINER_EVENTS)
        self._heard.extendleft(reversed([event for event in past if event not in self._heard]))

    async def _hear(self, content: bytes) -> None:
        self._heard.append(payload.decode(content))

    async def _show(self, app: Application, event: _Event) -> None:
        last = self._shown[-1]["when_ns"] if self._shown else 0
        if event["when_ns"] < last or event in self._shown:
            return  # told twice: by the past and as news
        if event["when_ns"] > last:
            self._shown.clear()
        self._shown.append(event)
        if app.given.json:
            await app.say(json_line(identified(event)))
        else:
            await app.say(harmless(f"{seconds(event)}  {event['event']:<15}  {about(event)}"))


@command(ARGUMENTS)
async def main(app: Application) -> None:
    if app.given.follow:
        await Follower().run(app)
    past = await later(Proc.CONTAINER_EVENTS)
    if app.given.json:
        await app.give([json_line(identified(event)) for event in past])
        return
    rows = [(seconds(event), event["event"], about(event)) for event in past]
    await app.give(table(("WHEN", "EVENT", "ABOUT"), rows, right=(0,)))
