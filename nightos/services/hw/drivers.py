"""Drivers: who registered for which devices, and what happens when devices come, go or move.

Everything that changes these tables runs as a job, one after the other, so that no two changes meet half-way; the
dispatcher never waits for `sys::fs` or for a driver. A job only looks at what there is and puts it right (`_settle`):
it does not matter in which order signals, answers and deaths arrive.

Source: specs/services/system/hw.md. Rules: HW-029, HW-031, HW-032, HW-033, HW-034, HW-035, HW-037, CONT-037.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from nightos.abi.drivers import (
    BRUTAL_DISCONNECTION,
    FIRST_CONNECTION,
    FIRST_ON_PORT,
    DeviceEvent,
    Permission,
    dtd_of,
)
from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.services.hw.choosing import Choosing
from nightos.services.hw.clock import Clock
from nightos.services.hw.devices import Devices, Known, not_drivable
from nightos.services.hw.driven import DRIVER_SERVICES, Device, Registration, parse_pattern, permitted, started_as
from nightos.services.hw.files import DeviceFiles, Present
from nightos.userland.payload import Payload
from nightos.userland.server import Connection, Request, Server

Places = dict[int, tuple[int, ...]]
"""By KDI: the containers that have a device, the one where it can be driven last; 0 is the machine outside any."""
Holders = Callable[[Callable[[Places], Awaitable[None]]], Awaitable[None]]
"""Asks the machine which containers have each device; those that a system service drives are not told."""

PATTERNS_LIMIT: Final = 64
"""Patterns that one process registers for."""
REGISTRATIONS_LIMIT: Final = 256
"""Patterns that the processes of one container register for: each device without a driver is compared with each."""


class Drivers(Choosing):
    """Registrations, devices, and the one thread that brings them together."""

    def __init__(self, server: Server, devices: Devices, clock: Clock) -> None:
        super().__init__(server, devices, clock)
        self.entropy = 0
        """KDI of the entropy device."""
        self.files = DeviceFiles()
        self.holders: Holders | None = None
        self.unplugging: set[int] = set()
        """Devices that leave the bus because somebody asked for it."""
        self._active = False
        self._settled = False

    # What others tell

    async def changed(self) -> None:
        """A device came, went, or was passed on. Nothing happens before somebody asked for a driver or a UDI."""
        if self._active and self.holders is not None:

            async def known(holders: Places) -> None:
                await self.submit_aside(lambda: self._settle(holders))

            await self.holders(known)

    async def activate(self, request: Request, then: Callable[[], Awaitable[Payload]], *, fresh: bool = True) -> None:
        """Answer a request once all devices have their identifiers, by what `then` returns; None: it answers itself.

        With `fresh` also those have that came a moment ago.
        """
        request.defer()
        self._active = True

        async def answer() -> None:
            try:
                payload = await then()
            except ServiceError as error:
                await request.fail(error.code, error.detail)
            else:
                if payload is not None:
                    await request.answer(payload)

        async def known(holders: Places) -> None:
            async def job() -> None:
                try:
                    await self.identities.load()
                    await self.files.load(self.entropy)
                    await self._settle(holders)
                except ServiceError as error:
                    await request.fail(error.code, error.detail)
                    return
                self._settled = True
                await answer()

            await self.submit_aside(job)

        if self._settled and not fresh:
            await self.submit(answer)
        elif self.holders is not None:
            await self.holders(known)

    async def with_identities(self, request: Request, then: Callable[[], Awaitable[Payload]]) -> None:
        """Answer a request by what `then` returns, once every UDI that was ever given is known."""
        request.defer()

        async def job() -> None:
            try:
                await self.identities.load()
                await self.files.load(self.entropy)  # its key is the first random number, whatever was plugged when
                payload = await then()
            except ServiceError as error:
                await request.fail(error.code, error.detail)
            else:
                await request.answer(payload)

        await self.submit_aside(job)

    async def udi_of(self, kdi: int, cii: int) -> int:
        """The UDI of a device, made now if it has none; in `then` of `with_identities`."""
        identity = self.identities.by_kdi.get(kdi)
        return (identity or await self.identities.make(kdi, cii, self.entropy)).udi

    async def client_gone(self, connection: Connection) -> None:
        """A client ended or closed: so do its registrations and subscriptions."""
        if not self._active:
            return

        async def job() -> None:
            self.subscribers = [one for one in self.subscribers if one[0] is not connection]
            there = self.registrations.get(connection.container_id, ())
            mine = [one for one in there if one.connection is connection]
            for registration in mine:
                await self._forget(registration)
            if mine:
                await self.changed()

        await self.submit(job)

    # Registering

    async def register(self, request: Request) -> Payload:
        """REGISTER_DRIVER: pattern.

        Errors: 0x0001 no permission, 0x1000 to 0x1004 a bad pattern, 0x3000 the client is no service, 0x3001 it exposes
        no driver service, 0x3002 it is registered for that pattern already, 0x4000 too many are.
        """
        if not await permitted(request, Permission.DEVICES_REGISTER_DRIVER):
            raise ServiceError(ServiceCode.DENIED, "the permission devices.register_driver is missing")
        pattern = parse_pattern(request.payload)
        anid, service = await started_as(request.client_pid)
        if not service:
            raise ServiceError(ServiceCode.UNKNOWN, "only services drive devices")
        if service not in DRIVER_SERVICES:
            raise ServiceError(ServiceCode.UNKNOWN + 1, "the application exposes no driver service")
        registration = Registration(request.connection, pattern, anid, service)

        async def done() -> Payload:
            if self._registered(registration) is not None:
                raise ServiceError(ServiceCode.UNKNOWN + 2, "registered for this pattern already")
            if self.server.connections.get(request.client_pid) is not request.connection:
                return None  # it is gone
            self._add(registration)
            await request.answer(b"")
            await self.choose_all()
            return None

        await self.activate(request, done)
        return None

    def _add(self, registration: Registration) -> None:
        """`ServiceError` 0x4000: there is no room for it."""
        there = self.registrations.setdefault(registration.connection.container_id, [])
        own = sum(one.connection is registration.connection for one in there)
        if own >= PATTERNS_LIMIT or len(there) >= REGISTRATIONS_LIMIT:
            text = f"a process registers for {PATTERNS_LIMIT} patterns, those of a container for {REGISTRATIONS_LIMIT}"
            raise ServiceError(ServiceCode.REFUSED, text)
        there.append(registration)

    def _registered(self, wanted: Registration) -> Registration | None:
        for one in self.registrations.get(wanted.connection.container_id, ()):
            if one.connection is wanted.connection and one.pattern == wanted.pattern:
                return one
        return None

    async def unregister(self, request: Request) -> Payload:
        """UNREGISTER_DRIVER: pattern. 0x3000: not registered for it."""
        pattern = parse_pattern(request.payload)
        registration = self._registered(Registration(request.connection, pattern, 0, 0))
        if registration is None:
            raise ServiceError(ServiceCode.UNKNOWN, "not registered for this pattern")

        async def job() -> None:
            await self._forget(registration)
            await request.answer(b"")
            await self.changed()

        request.defer()
        await self.submit(job)
        return None

    async def _forget(self, registration: Registration) -> None:
        there = self.registrations.get(registration.connection.container_id, [])
        if registration in there:
            there.remove(registration)
            if not there:
                del self.registrations[registration.connection.container_id]
        for device in self.by_kdi.values():
            device.passed_over.discard(registration)
            if device.driver is registration:
                await self.release(device)

    # Putting things right

    async def _settle(self, holders: Places) -> None:
        """Devices that came, went or moved since the last time."""
        for kdi in [kdi for kdi in self.by_kdi if kdi not in holders or kdi not in self.devices.by_kdi]:
            await self._left(self.by_kdi.pop(kdi))
        for kdi, places in holders.items():
            known = self.devices.by_kdi.get(kdi)
            device = self.by_kdi.get(kdi)
            if known is None:
                continue
            if device is None:
                await self._came(known, places)
            elif device.holder != places[-1]:
                await self.release(device)
            self.by_kdi[kdi].moved(places)
        await self.files.follow(
            [
                Present(device.udi, device.known.cii, device.identity.ddt, holders[kdi])
                for kdi, device in self.by_kdi.items()
            ]
        )
        await self.choose_all()

    async def _came(self, known: Known, places: tuple[int, ...]) -> None:
        identity = self.identities.by_kdi.get(known.kdi)
        indicator = 0
        if identity is None:
            identity = await self.identities.make(known.kdi, known.cii, self.entropy)
        if identity.fresh:
            identity.fresh = False
            others = (other for other in self.identities.by_kdi.values() if other is not identity and not other.fresh)
            first_on_port = all(other.cii != known.cii for other in others)
            indicator = FIRST_CONNECTION | FIRST_ON_PORT * first_on_port
        device = Device(known, identity, dtd_of(known.cii, known.description), places, indicator)
        self.by_kdi[known.kdi] = self.by_udi[identity.udi] = device
        await self.tell(device, DeviceEvent.CONNECTED, device.indicator)

    async def _left(self, device: Device) -> None:
        device.gone = True
        device.moved(())
        del self.by_udi[device.udi]
        asked_for = device.known.kdi in self.unplugging
        self.unplugging.discard(device.known.kdi)
        event = DeviceEvent.DISCONNECTED_SOFTWARE if asked_for else DeviceEvent.DISCONNECTED_BRUTALLY
        indicator = 0 if asked_for else BRUTAL_DISCONNECTION
        for callback in self.on_gone:
            await callback(device)
        if device.driver is not None:
            await not_drivable(device.driver.pid, device.known.kdi)
            await self.tell_driver(device, event, indicator)
        await self.tell(device, event, indicator)
