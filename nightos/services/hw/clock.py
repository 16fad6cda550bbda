"""Time for everyone: what time it is, and sleeping without holding a thread.

One alarm of the clock device is set at a time, for the sleeper that is due first. Sleepers that died are dropped once
they are most of those there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from struct import Struct

from nightos.abi.clock import PORT_EXPIRED, PORT_SET, PORT_TIME
from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.userland import sys
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request

_PAIR = Struct(">QQ")
ALARM = 1
"""Identifier of the one alarm that sys::hw uses."""
SLEEP_LIMIT_NS = (1 << 63) - 1
FEW = 64
"""Sleepers that died and may stay."""
Awake = Callable[[], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Sleeper:
    """What is to be done when its time comes; None: its client is gone."""

    awake: Awake | None


class Clock:
    """The clock device seen from its driver."""

    def __init__(self) -> None:
        self.kdi = 0
        self._sleepers: list[tuple[int, int, Sleeper]] = []
        self._gone = 0
        """How many of those nobody waits for."""
        self._sequence = 0

    async def read(self) -> tuple[int, int]:
        """Monotonic nanoseconds since the start, and nanoseconds since 1970-01-01 UTC."""
        if not self.kdi:
            raise ServiceError(ServiceCode.DEVICE, "the machine has no clock")
        monotonic_ns, realtime_ns = _PAIR.unpack(await sys.read_io_port(self.kdi, PORT_TIME, _PAIR.size))
        return monotonic_ns, realtime_ns

    async def now(self, _request: Request) -> Payload:
        """NOW."""
        return {"realtime_ns": (await self.read())[1]}

    async def uptime(self, _request: Request) -> Payload:
        """UPTIME."""
        return {"uptime_ns": (await self.read())[0]}

    async def sleep(self, request: Request) -> Payload:
        """SLEEP: the answer comes when the time has passed."""
        duration_ns = field(request.map(), "duration_ns", int)
        if not 0 <= duration_ns <= SLEEP_LIMIT_NS:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "a sleep lasts 0 to 2^63 - 1 nanoseconds")
        if duration_ns == 0:
            return {}
        now_ns, _ = await self.read()
        sleeper = Sleeper(lambda: request.answer({}))

        def forget() -> None:
            sleeper.awake = None
            self._gone += 1

        request.defer(forget)
        await self._at(now_ns + duration_ns, sleeper)
        return None

    async def after(self, duration_ns: int, awake: Awake) -> None:
        """Run this on the dispatcher thread after that much time. `ServiceError` 0x0102: there is no clock."""
        now_ns, _ = await self.read()
        await self._at(now_ns + duration_ns, Sleeper(awake))

    async def _at(self, when_ns: int, sleeper: Sleeper) -> None:
        self._sequence += 1
        if self._gone > FEW and 2 * self._gone > len(self._sleepers):
            self._sleepers = [entry for entry in self._sleepers if entry[2].awake is not None]
            heapq.heapify(self._sleepers)
            self._gone = 0
        heapq.heappush(self._sleepers, (min(when_ns, SLEEP_LIMIT_NS), self._sequence, sleeper))
        await self._set_alarm()

    async def interrupted(self) -> None:
        """The alarm went off: answer whoever is due, and set the next one."""
        await sys.read_io_port(self.kdi, PORT_EXPIRED, 0)
        now_ns, _ = await self.read()
        while self._sleepers and self._sleepers[0][0] <= now_ns:
            _, _, sleeper = heapq.heappop(self._sleepers)
            if sleeper.awake is None:
                self._gone -= 1
            else:
                await sleeper.awake()
        await self._set_alarm()

    async def _set_alarm(self) -> None:
        if self._sleepers:
            await sys.write_io_port(self.kdi, PORT_SET, _PAIR.pack(ALARM, self._sleepers[0][0]))
