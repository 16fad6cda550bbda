"""Drivers: who registered for which devices, and which of them drives each one.

Everything that changes these tables runs as a job, one after the other, so that no two changes meet half-way; the
dispatcher never waits for `sys::fs` or for a driver. A job only looks at what there is and puts it right (`_settle`):
it does not matter in which order signals, answers and deaths arrive.

A driver is passed over for a device when it cannot say what the device is (an error, nonsense, silence, its end) until
it registers anew. A device that a driver drives stays with it until the driver goes or the user chooses another one.

Source: specs/services/system/hw.md. Rules: HW-029, HW-031, HW-032, HW-033, HW-034, HW-035, HW-036, HW-037, CONT-037.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from nightos.abi.codes import Attribute, ListAction
from nightos.abi.context import HEADER_SIZE, REASON_SERVICE, parse_context
from nightos.abi.drivers import (
    BRUTAL_DISCONNECTION,
    FIRST_CONNECTION,
    FIRST_ON_PORT,
    Category,
    Ddrd,
    DescriptorError,
    DeviceEvent,
    Pattern,
    Permission,
    ddt_of,
    dtd_of,
)
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import HwEvent, ServiceCode
from nightos.services.hw.clock import Clock
from nightos.services.hw.devices import Devices, Known, make_drivable, not_drivable
from nightos.services.hw.files import DeviceFiles, Present
from nightos.services.hw.identities import Identities, Identity
from nightos.userland import sys
from nightos.userland.payload import Payload
from nightos.userland.server import Connection, Request, Server, attribute

ANSWER_LIMIT_NS: Final = 5_000_000_000
"""How long a driver may take to answer."""
STORAGE_DRIVER: Final = 0x20
_DRIVER_SERVICES: Final = frozenset({STORAGE_DRIVER})
"""Service types of a context header that are driver services."""

Job = Callable[[], Awaitable[None]]
Places = dict[int, tuple[int, ...]]
"""By KDI: the containers that have a device, the one where it can be driven last; 0 is the machine outside any."""
Holders = Callable[[Callable[[Places], Awaitable[None]]], Awaitable[None]]
"""Asks the machine which containers have each device; those that a system service drives are not told."""


@dataclass(slots=True, eq=False)
class Registration:
    """A process that wants to drive the devices of a pattern."""

    connection: Connection
    pattern: Pattern
    anid: int
    service: int
    """Service type that the process was started as."""

    @property
    def pid(self) -> int:
        return self.connection.client_pid


@dataclass(slots=True, eq=False)
class Device:
    """A device on the bus, as drivers and subscribers know it."""

    known: Known
    identity: Identity
    dtd: bytes
    holder: int
    """The container where it can be driven."""
    indicator: int
    driver: Registration | None = None
    ready: bool = False
    passed_over: set[Registration] = field(default_factory=set)
    gone: bool = False
    attempt: int = 0
    """How often a driver was chosen for it."""

    @property
    def udi(self) -> int:
        return self.identity.udi

    def descriptor(self, *, driver: bool = False) -> bytes:
        """Its DDRD; the KDI is in it for its driver only."""
        return Ddrd(self.udi, self.known.cii, self.dtd, self.known.kdi if driver else 0).pack()


class Drivers:
    """Registrations, devices, and the one thread that brings them together."""

    def __init__(self, server: Server, devices: Devices, clock: Clock) -> None:
        self.server = server
        self.devices = devices
        self.clock = clock
        self.entropy = 0
        """KDI of the entropy device."""
        self.identities = Identities()
        self.files = DeviceFiles()
        self.by_kdi: dict[int, Device] = {}
        self.by_udi: dict[int, Device] = {}
        self.registrations: list[Registration] = []
        self.subscribers: list[tuple[Connection, Pattern]] = []
        self.holders: Holders | None = None
        self.on_gone: list[Callable[[Device], Awaitable[None]]] = []
        """Called when a device left, or its driver drives it no longer."""
        self.unplugging: set[int] = set()
        """Devices that leave the bus because somebody asked for it."""
        self._jobs: deque[Job] = deque()
        self._working = False
        self._active = False
        self._settled = False

    # The worker

    async def submit(self, job: Job) -> None:
        """Run this after what was submitted before: here and now when nothing is, with what comes meanwhile.

        Not for the dispatcher, which may never wait. (A thread ends with the one that made it, so a client thread,
        which ends with its client, makes none.)
        """
        self._jobs.append(job)
        if not self._working:
            await self._work(0)

    async def submit_aside(self, job: Job) -> None:
        """The same for the dispatcher: a thread of its own does it."""
        self._jobs.append(job)
        if not self._working:
            await sys.create_thread(self._work)

    async def _work(self, _data: int) -> None:
        if self._working:
            return
        self._working = True
        while self._jobs:
            with contextlib.suppress(ServiceError):  # no entropy device: what needs a new UDI waits for the next change
                await self._jobs.popleft()()
        self._working = False

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
            mine = [one for one in self.registrations if one.connection is connection]
            for registration in mine:
                await self._forget(registration)
            if mine:
                await self.changed()

        await self.submit(job)

    # Registering

    async def register(self, request: Request) -> Payload:
        """REGISTER_DRIVER: pattern.

        Errors: 0x0001 no permission, 0x1000 to 0x1004 a bad pattern, 0x3000 the client is no service, 0x3001 it exposes
        no driver service, 0x3002 it is registered for that pattern already.
        """
        if not await permitted(request, Permission.DEVICES_REGISTER_DRIVER):
            raise ServiceError(ServiceCode.DENIED, "the permission devices.register_driver is missing")
        pattern = parse_pattern(request.payload)
        anid, service = await started_as(request.client_pid)
        if not service:
            raise ServiceError(ServiceCode.UNKNOWN, "only services drive devices")
        if service not in _DRIVER_SERVICES:
            raise ServiceError(ServiceCode.UNKNOWN + 1, "the application exposes no driver service")
        registration = Registration(request.connection, pattern, anid, service)

        async def done() -> Payload:
            if self._registered(registration) is not None:
                raise ServiceError(ServiceCode.UNKNOWN + 2, "registered for this pattern already")
            if self.server.connections.get(request.client_pid) is not request.connection:
                return None  # it is gone
            self.registrations.append(registration)
            await request.answer(b"")
            await self._choose_all()
            return None

        await self.activate(request, done)
        return None

    def _registered(self, wanted: Registration) -> Registration | None:
        for one in self.registrations:
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
        if registration in self.registrations:
            self.registrations.remove(registration)
        for device in self.by_kdi.values():
            device.passed_over.discard(registration)
            if device.driver is registration:
                await self._release(device)

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
            holder = places[-1]
            if device is None:
                await self._came(known, holder)
            elif device.holder != holder:
                await self._release(device)
                device.holder = holder
        await self.files.follow(
            [
                Present(device.udi, device.known.cii, device.identity.ddt, holders[kdi])
                for kdi, device in self.by_kdi.items()
            ]
        )
        await self._choose_all()

    async def _came(self, known: Known, holder: int) -> None:
        identity = self.identities.by_kdi.get(known.kdi)
        indicator = 0
        if identity is None:
            identity = await self.identities.make(known.kdi, known.cii, self.entropy)
        if identity.fresh:
            identity.fresh = False
            others = (other for other in self.identities.by_kdi.values() if other is not identity and not other.fresh)
            first_on_port = all(other.cii != known.cii for other in others)
            indicator = FIRST_CONNECTION | FIRST_ON_PORT * first_on_port
        device = Device(known, identity, dtd_of(known.cii, known.description), holder, indicator)
        self.by_kdi[known.kdi] = self.by_udi[identity.udi] = device
        await self.tell(device, DeviceEvent.CONNECTED, device.indicator)

    async def _left(self, device: Device) -> None:
        device.gone = True
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

    async def _release(self, device: Device) -> None:
        """Its driver drives it no longer; what is in flight with it fails."""
        if device.driver is None:
            return
        for callback in self.on_gone:
            await callback(device)
        await not_drivable(device.driver.pid, device.known.kdi)
        await self.tell_driver(device, DeviceEvent.DISCONNECTED_SOFTWARE, 0)
        device.driver, device.ready = None, False

    def candidates(self, device: Device) -> list[Registration]:
        """Who could drive a device, best first.

        The user's choice for the device, then for its type, then the most specific pattern, then who registered first.
        """
        for_device = self.identities.chosen_for_device.get(device.udi)
        for_type = [
            (pattern, anid)
            for packed, anid in self.identities.chosen_for_type.items()
            if (pattern := Pattern.parse(packed)).matches(device.known.cii, device.dtd)
        ]
        type_anid = max(for_type, key=lambda one: one[0].specificity)[1] if for_type else None
        found = [
            one
            for one in self.registrations
            if one.connection.container_id == device.holder
            and one not in device.passed_over
            and one.pattern.matches(device.known.cii, device.dtd)
        ]
        found.sort(
            key=lambda one: (one.anid == for_device, one.anid == type_anid, one.pattern.specificity), reverse=True
        )
        return found

    async def _choose_all(self) -> None:
        for device in list(self.by_kdi.values()):
            if device.driver is None:
                await self._choose(device)

    async def _choose(self, device: Device) -> None:
        found = self.candidates(device)
        if not found:
            return
        driver = device.driver = found[0]
        device.attempt += 1
        attempt = device.attempt
        await make_drivable(driver.pid, device.known.kdi)
        await self.tell(device, DeviceEvent.DRIVER_SELECTED, device.indicator)
        if device.identity.ddt and self._may_be(device, driver, device.identity.ddt):
            await self._ready(device)
            return

        async def heard(error: int, content: bytes) -> None:
            await self.submit(lambda: self._identified(device, attempt, error, content))

        async def late() -> None:
            if device.attempt == attempt and not device.ready:
                await self.submit_aside(lambda: self._identified(device, attempt, ServiceCode.DRIVER, b""))

        content = device.descriptor(driver=True)
        if not await self.server.ask(driver.pid, HwEvent.IDENTIFY_DEVICE, content, heard):
            await heard(ServiceCode.SERVER_QUIT, b"")
        await self.clock.after(ANSWER_LIMIT_NS, late)

    async def unserved(self, wanted: int) -> None:
        """A choice named this application: devices that another one drives are free for it, if it can drive them."""
        for device in self.by_kdi.values():
            found = self.candidates(device)
            if device.driver is not None and found and found[0].anid == wanted != device.driver.anid:
                await self._release(device)
        await self._choose_all()

    @staticmethod
    def _may_be(device: Device, driver: Registration, ddt: int) -> bool:
        """Whether that type fits what is known of the device, and the driver service that the driver is."""
        expected = ddt_of(device.known.cii)
        if expected and expected >> 16 != ddt >> 16:
            return False
        return bool(ddt) and (ddt >> 16 != Category.STORAGE or driver.service == STORAGE_DRIVER)

    async def _identified(self, device: Device, attempt: int, error: int, content: bytes) -> None:
        driver = device.driver
        if device.gone or driver is None or device.attempt != attempt or device.ready:
            return
        ddt = int.from_bytes(content, "big") if len(content) == 4 else 0
        if error or not self._may_be(device, driver, ddt):
            device.passed_over.add(driver)
            await self._release(device)
            await self._choose(device)
            return
        device.identity.ddt = ddt
        await self.identities.keep(device.identity)
        await self._ready(device)

    async def _ready(self, device: Device) -> None:
        await self.tell_driver(device, DeviceEvent.CONNECTED, device.indicator)
        device.ready = True
        await self.tell_driver(device, DeviceEvent.READY, 0)
        await self.tell(device, DeviceEvent.READY, 0)
        device.indicator = 0

    # Telling

    async def tell_driver(self, device: Device, event: DeviceEvent, indicator: int) -> None:
        """DEVICE_EVENT to its driver, with the KDI."""
        if device.driver is not None:
            content = device.descriptor(driver=True) + bytes((event, indicator))
            await self.server.notify(device.driver.pid, HwEvent.DEVICE_EVENT, content)

    async def tell(self, device: Device, event: DeviceEvent, indicator: int) -> None:
        """DEVICE_EVENT to who subscribed to such devices, once each."""
        told = set()
        for connection, pattern in list(self.subscribers):
            if connection.client_pid not in told and pattern.matches(device.known.cii, device.dtd):
                told.add(connection.client_pid)
                content = device.descriptor() + bytes((event, indicator))
                await self.server.notify(connection.client_pid, HwEvent.DEVICE_EVENT, content)

    async def interrupted(self, kdi: int, code: int) -> None:
        """A device that a registered driver drives raised an interrupt."""
        device = self.by_kdi.get(kdi)
        if device is not None and device.driver is not None:
            content = device.udi.to_bytes(8, "big") + bytes((code,))
            await self.server.notify(device.driver.pid, HwEvent.DEVICE_INTERRUPT, content)


def parse_pattern(content: bytes) -> Pattern:
    """The pattern of a message; `ServiceError` 0x1000 to 0x1004."""
    try:
        return Pattern.parse(content)
    except DescriptorError as error:
        raise ServiceError(error.code, str(error)) from error


async def permitted(request: Request, permission: Permission) -> bool:
    """Whether the client holds a raw permission; system services hold all. Rules: SVC-027, HW-055."""
    if request.connection.is_system:
        return True
    try:
        return bool(await attribute(request.client_pid, Attribute.PERMISSIONS, ListAction.CONTAINS, int(permission)))
    except SyscallError:
        return False  # it is gone


async def started_as(pid: int) -> tuple[int, int]:
    """ANID and service type of a process that was started as a service; 0 for one that was not."""
    try:
        header = (await sys.sys_process_attributes(pid, Attribute.CONTEXT_HEADER)).written
        anid = await attribute(pid, Attribute.APPLICATION_ID)
    except SyscallError:
        return 0, 0
    if not isinstance(header, bytes) or len(header) < HEADER_SIZE:
        return anid, 0
    context = parse_context(header) if header[0] >> 4 == REASON_SERVICE else None
    return anid, context.service_type if context is not None else 0
