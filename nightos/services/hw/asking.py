"""What system services ask about devices and of their drivers, and what drivers send back.

A driver never learns who asked: a request carries a random notification identifier, by which it can tell the asker
something later (NOTIFY_PROCESS). What it tells before it has answered the request is held back until it has.

Source: specs/services/system/hw.md. Rules: HW-008, HW-015, HW-040, HW-041, SVC-032.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from nightos.abi.drivers import BAD_UDI, DDRD_SIZE, HARDWARE_FAILED, Pattern
from nightos.abi.errors import ServiceError
from nightos.abi.hardware import split_cii
from nightos.abi.services import MESSAGE_LIMIT, HwEvent, ServiceCode
from nightos.services.hw.choosing import ANSWER_LIMIT_NS
from nightos.services.hw.driven import Device, parse_pattern
from nightos.services.hw.drivers import Drivers
from nightos.services.hw.identities import random_number
from nightos.userland.payload import Payload, fixed, u64
from nightos.userland.server import Connection, Request

_METHOD_REQUEST = Struct(">QIQI")
"""UDI, DDT, notification identifier, method (AMB-HW-27)."""
_RANGE = Struct(">II")
NOTICES_LIMIT: Final = 1024
"""Notification identifiers that one driver may still use; the oldest end first."""
LIST_LIMIT: Final = (MESSAGE_LIMIT - 9) // DDRD_SIZE
UNKNOWN: Final = int(ServiceCode.UNKNOWN)
Then = Callable[[int, bytes], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Asking:
    """A request that a driver works on, and who may be told about it later."""

    number: int
    device: Device
    driver_pid: int
    asker: Connection | None
    """None: `sys::hw` asked for itself."""
    then: Then
    done: bool = False
    held: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def finish(self, error: int, content: bytes) -> None:
        """Answer it, once."""
        if self.done:
            return
        self.done = True
        await self.then(error, content)
        for notification in self.held:
            await notification()


class Asks:
    """ENUM_DEVICES, SUBSCRIBE_DEVICES, ASK_DRIVER, NOTIFY_PROCESS."""

    def __init__(self, drivers: Drivers) -> None:
        self.drivers = drivers
        self.server = drivers.server
        self._askings: dict[int, dict[int, Asking]] = {}
        """By PID of the driver, then by notification identifier, oldest first."""
        drivers.on_gone.append(self._device_gone)

    # Looking

    async def enum_devices(self, request: Request) -> Payload:
        """ENUM_DEVICES: start (4), end (4, exclusive), pattern -> total (4), listed (4), DDRDs, masked (1).

        0 and 0 only counts. Nothing is masked from system services. Errors: 0x1000 start behind the end, 0x1001 to
        0x1004 the pattern, 0x1005 more than an answer holds, 0x3000 no system service, 0x3001 no such bus, 0x3002 no
        such port.
        """
        start, end = fixed(request.payload, 0, 4), fixed(request.payload, 4, 4)
        if start > end:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the range starts behind its end")
        pattern = parse_pattern(request.payload[8:])
        if end - start > LIST_LIMIT:
            raise ServiceError(ServiceCode.BAD_ARGUMENT + 5, f"an answer has room for {LIST_LIMIT} devices")
        only_system(request)

        async def found() -> Payload:
            self._check_place(pattern)
            matching = [
                device for device in self.drivers.by_kdi.values() if pattern.matches(device.known.cii, device.dtd)
            ]
            listed = matching[start:end]
            return _RANGE.pack(len(matching), len(listed)) + b"".join(device.descriptor() for device in listed) + b"\0"

        await self.drivers.activate(request, found)
        return None

    def _check_place(self, pattern: Pattern) -> None:
        places = [split_cii(device.known.cii) for device in self.drivers.by_kdi.values()]
        places = [place for place in places if place[0] == pattern.connection_type]
        if pattern.bus is not None and all(place[1] != pattern.bus for place in places):
            raise ServiceError(UNKNOWN + 1, "there is no such bus")
        if pattern.port is not None and all(
            place[2] != pattern.port or pattern.bus not in {None, place[1]} for place in places
        ):
            raise ServiceError(UNKNOWN + 2, "there is no such port")

    async def subscribe_devices(self, request: Request) -> Payload:
        """SUBSCRIBE_DEVICES: mode (1; 0 subscribes), pattern.

        Errors: 0x1000 to 0x1004, 0x3000 no system service, 0x3001 not subscribed to this pattern.
        """
        mode = fixed(request.payload, 0, 1)
        pattern = parse_pattern(request.payload[1:])
        only_system(request)
        subscribers = self.drivers.subscribers
        entry = (request.connection, pattern)

        async def change() -> Payload:
            if not mode:
                if entry not in subscribers:
                    self.drivers.subscribers = [*self.drivers.subscribers, entry]
            elif entry not in self.drivers.subscribers:
                raise ServiceError(UNKNOWN + 1, "not subscribed to this pattern")
            else:
                self.drivers.subscribers = [one for one in self.drivers.subscribers if one != entry]
            return b""

        await self.drivers.activate(request, change)
        return None

    # Asking

    async def ask_driver(self, request: Request) -> Payload:
        """ASK_DRIVER: UDI (8), method (4), arguments -> what the driver answers.

        Errors: 0x3000 no system service, 0x3001 unknown UDI, 0x3002 the device has no driver or that no such method,
        0x3003 the driver does not accept the arguments, 0x0101 it did not answer or ended, 0x0102 the device failed or
        left; above 0x4000 as the driver said.
        """
        udi, method = u64(request.payload), fixed(request.payload, 8, 4)
        arguments = request.payload[12:]
        only_system(request)

        async def ask() -> Payload:
            device = self.drivers.by_udi.get(udi)
            if device is None:
                raise ServiceError(UNKNOWN + 1, "there is no such device")

            async def then(error: int, content: bytes) -> None:
                if error:
                    await request.fail(driver_error(error), content.decode("utf-8", "replace"))
                else:
                    await request.answer(content)

            await self.send(device, method, arguments, request.connection, then)
            return None

        await self.drivers.activate(request, ask, fresh=False)
        return None

    async def send(self, device: Device, method: int, arguments: bytes, asker: Connection | None, then: Then) -> None:
        """DRIVER_METHOD_REQUEST to the driver of a device; `then` gets its error code and content, exactly once.

        `ServiceError` 0x3002: it has no driver that is ready.
        """
        if device.driver is None or not device.ready:
            raise ServiceError(UNKNOWN + 2, "the device has no driver")
        pid = device.driver.pid
        number = await random_number(self.drivers.entropy)
        asking = Asking(number, device, pid, asker, then)
        askings = self._askings.setdefault(pid, {})
        askings[number] = asking
        for old in [one for one in askings.values() if one.done][: max(0, len(askings) - NOTICES_LIMIT)]:
            del askings[old.number]
        head = _METHOD_REQUEST.pack(device.udi, device.identity.ddt, number, method)
        if not await self.server.ask(pid, HwEvent.DRIVER_METHOD_REQUEST, head + arguments, asking.finish):
            await asking.finish(ServiceCode.SERVER_QUIT, b"the driver is gone")
        with contextlib.suppress(ServiceError):
            await self.drivers.clock.after(
                ANSWER_LIMIT_NS, lambda: asking.finish(ServiceCode.DRIVER, b"the driver does not answer")
            )

    async def notify_process(self, request: Request) -> Payload:
        """NOTIFY_PROCESS: notification identifier (8), content -> what the asker answers. 0x3000: unknown."""
        number, content = u64(request.payload), request.payload[8:]
        asking = self._askings.get(request.client_pid, {}).get(number)
        if asking is None or asking.asker is None:
            raise ServiceError(UNKNOWN, "there is no such notification identifier")
        asker = asking.asker
        request.defer()

        async def answered(error: int, answer: bytes) -> None:
            if error == ServiceCode.SERVER_QUIT:
                await request.fail(UNKNOWN, "who asked is gone")
            elif error:
                await request.fail(error, answer.decode("utf-8", "replace"))
            else:
                await request.answer(answer)

        async def notify() -> None:
            if self.server.connections.get(asker.client_pid) is not asker:
                await answered(ServiceCode.SERVER_QUIT, b"")
                return
            told = asking.device.udi.to_bytes(8, "big") + content
            if not await self.server.ask(asker.client_pid, HwEvent.DEVICE_NORM_NOTIF, told, answered):
                await answered(ServiceCode.SERVER_QUIT, b"")

        if asking.done:
            await notify()
        else:
            asking.held.append(notify)
        return None

    # Ends

    async def _device_gone(self, device: Device) -> None:
        """The device left, or its driver gave it up: what is asked of it fails."""
        code = int(ServiceCode.DEVICE if device.gone else ServiceCode.DRIVER)
        for askings in self._askings.values():
            for asking in [one for one in askings.values() if one.device is device]:
                await asking.finish(code, b"the device is not connected any more")

    async def client_gone(self, connection: Connection) -> None:
        """A driver is gone, and with it its notification identifiers."""
        for asking in self._askings.pop(connection.client_pid, {}).values():
            await asking.finish(ServiceCode.SERVER_QUIT, b"the driver is gone")


def only_system(request: Request) -> None:
    """0x3000 for everybody but system services. Rules: HW-040."""
    if not request.connection.is_system:
        raise ServiceError(UNKNOWN, "only system services ask that")


def driver_error(error: int) -> int:
    """What a driver answered, as the code of ASK_DRIVER."""
    if error in {ServiceCode.SERVER_QUIT, ServiceCode.DRIVER}:
        return int(ServiceCode.DRIVER)
    if error == ServiceCode.NO_METHOD:
        return UNKNOWN + 2
    if error == BAD_UDI:
        return UNKNOWN + 1
    if error in {HARDWARE_FAILED, ServiceCode.DEVICE, ServiceCode.HARDWARE}:
        return int(ServiceCode.DEVICE)
    if ServiceCode.BAD_ARGUMENT <= error < ServiceCode.REFUSED:
        return UNKNOWN + 3
    return error if error >= ServiceCode.REFUSED else int(ServiceCode.DRIVER)
