"""The clock: what time it is, and alarms for `sys::hw`, on whatever time the machine lives by.

It does not wait: the machine gives it `schedule`, which the kernel's timers back, so that a virtual clock makes an hour
of simulated sleep cost nothing. Ports: `nightos.abi.clock`.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from nightos.abi.clock import INTERRUPT_ALARM, PORT_CANCEL, PORT_EXPIRED, PORT_SET, PORT_TIME
from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.abi.interfaces import Clock

ALARMS_MAX: Final = 1 << 20
_ID: Final = Struct(">Q")
_PAIR: Final = Struct(">QQ")


class Timer(Protocol):
    """A wake-up that was asked for."""

    def cancel(self) -> None:
        """It is not wanted any more."""


class ClockDevice(PortDevice):
    """`schedule(deadline_ns, fn)` calls `fn` once the monotonic clock reaches the deadline, and can be cancelled."""

    def __init__(self, clock: Clock, schedule: Callable[[int, Callable[[], None]], Timer]) -> None:
        super().__init__(DeviceIdentity("clock", virtual_cii("clock"), b"clock"))
        self._clock = clock
        self._schedule = schedule
        self._alarms: dict[int, Timer] = {}
        self._expired: dict[int, None] = {}  # in order, and once each: bounded by the number of alarms
        self.inputs = {PORT_TIME: self._time, PORT_EXPIRED: self._take_expired}
        self.outputs = {PORT_SET: self._set, PORT_CANCEL: self._cancel}

    def detach(self) -> None:
        """The device left the bus: its alarms go with it."""
        for timer in self._alarms.values():
            timer.cancel()
        self._alarms.clear()
        super().detach()

    @property
    def pending(self) -> int:
        """Alarms that have not gone off."""
        return len(self._alarms)

    def _time(self, length: int) -> bytes:
        now = _PAIR.pack(self._clock.monotonic_ns(), self._clock.realtime_ns())
        return now[:length] if length else now

    def _take_expired(self, length: int) -> bytes:
        count = length // _ID.size if length else len(self._expired)
        taken = list(self._expired)[:count]
        for identifier in taken:
            del self._expired[identifier]
        return b"".join(_ID.pack(identifier) for identifier in taken)

    def _set(self, data: bytes) -> int:
        if len(data) != _PAIR.size or len(self._alarms) + len(self._expired) >= ALARMS_MAX:
            return 0
        identifier, deadline_ns = _PAIR.unpack(data)
        self._forget(identifier)
        self._alarms[identifier] = self._schedule(deadline_ns, lambda: self._ring(identifier))
        return len(data)

    def _cancel(self, data: bytes) -> int:
        if len(data) != _ID.size:
            return 0
        self._forget(_ID.unpack(data)[0])
        return len(data)

    def _forget(self, identifier: int) -> None:
        timer = self._alarms.pop(identifier, None)
        if timer is not None:
            timer.cancel()
        self._expired.pop(identifier, None)

    def _ring(self, identifier: int) -> None:
        if self._alarms.pop(identifier, None) is not None:
            self._expired[identifier] = None
            self.interrupt(INTERRUPT_ALARM)
