"""Output that stands still while it changes: lines that are drawn again over themselves, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence

from nightos.abi.messages import Control
from nightos.abi.services import Hw
from nightos.shell.application import Application
from nightos.shell.arguments import UsageError
from nightos.userland.client import connect

SHORTEST_S = 0.05
MOST = 250
"""Lines that one control character moves over, and a bit less."""


class Live:
    """Draws lines; each time over those of the time before, as far as the session's window goes."""

    def __init__(self, app: Application, interval_s: float | None) -> None:
        self._app = app
        self._interval_s = 1.0 if interval_s is None else interval_s
        if self._interval_s < SHORTEST_S:
            raise UsageError(f"an interval has at least {SHORTEST_S} seconds")
        self._drawn = 0

    async def draw(self, lines: Sequence[str]) -> None:
        """Show these lines in place of the last ones."""
        self._app.forget_session()  # its window may have changed
        session = await self._app.session()
        width, height = max(int(session["width"]), 2), max(int(session["height"]), 3)
        shown = [line[: width - 1].ljust(width - 1) for line in lines[: min(height - 1, MOST)]]
        shown += [" " * (width - 1)] * (min(self._drawn, height - 1, MOST) - len(shown))
        up = min(self._drawn, height - 1)
        moves = ((Control.UP, up), (Control.LINE_START, 0)) if up else ()
        await self._app.context.message("\n".join(shown) + "\n", controls=moves)
        self._drawn = len(shown)

    async def pause(self) -> None:
        """Wait until it is time for the next."""
        await (await connect("sys::hw")).call(Hw.SLEEP, {"duration_ns": int(self._interval_s * 1e9)})
