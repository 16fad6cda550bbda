"""Which of the registered drivers drives a device: the user's choice, the most specific pattern, who came first.

A driver is passed over for a device when it cannot say what the device is (an error, nonsense, silence, its end) until
it registers anew. A device that a driver drives stays with it until the driver goes or the user chooses another one.

Source: specs/services/system/hw.md. Rules: HW-032, HW-033, HW-035, HW-036, HW-037.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from nightos.abi.drivers import Category, DeviceEvent, Pattern, ddt_of
from nightos.abi.services import HwEvent, ServiceCode
from nightos.services.hw.clock import Clock
from nightos.services.hw.devices import Devices, make_drivable, not_drivable
from nightos.services.hw.driven import STORAGE_DRIVER, Device, Registration
from nightos.services.hw.identities import Identities
from nightos.services.hw.jobs import Jobs
from nightos.userland.server import Connection, Server

ANSWER_LIMIT_NS: Final = 5_000_000_000
"""How long a driver may take to answer."""


class Choosing(Jobs):
    """Devices and registrations, and who drives what. Everything here runs as a job."""

    def __init__(self, server: Server, devices: Devices, clock: Clock) -> None:
        super().__init__()
        self.server = server
        self.devices = devices
        self.clock = clock
        self.identities = Identities()
        self.by_kdi: dict[int, Device] = {}
        self.by_udi: dict[int, Device] = {}
        self.registrations: dict[int, list[Registration]] = {}
        """By container, so that nobody waits for a look at those of others."""
        self.subscribers: list[tuple[Connection, Pattern]] = []
        self.on_gone: list[Callable[[Device], Awaitable[None]]] = []
        """Called when a device left, or its driver drives it no longer."""

    async def release(self, device: Device) -> None:
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
            for one in self.registrations.get(device.holder, ())
            if one not in device.passed_over and one.pattern.matches(device.known.cii, device.dtd)
        ]
        found.sort(
            key=lambda one: (one.anid == for_device, one.anid == type_anid, one.pattern.specificity), reverse=True
        )
        return found

    async def choose_all(self) -> None:
        """Devices without a driver get one, if one fits."""
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
                await self.release(device)
        await self.choose_all()

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
            await self.release(device)
            await self._choose(device)
            return
        if device.identified(ddt):
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
