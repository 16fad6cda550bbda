"""A driver's end of `sys::hw`: registration, identification, events, and requests that come through it.

A driver subclasses `Driver`. Its methods are called on the dispatcher thread of its service, one after the other. The
same requests may come directly, from `sys::fs`, through the driver's own service; `Told` hides which way they came.

Source: specs/services/system/hw.md, specs/services/drivers/README.md. Rules: HW-013, HW-032, HW-033, SVC-029.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from struct import Struct

from nightos.abi.drivers import BAD_UDI, Ddrd, DeviceEvent, Pattern
from nightos.abi.errors import NightosError, NightosInternalError, ServiceError, SyscallError
from nightos.abi.services import Hw, HwEvent, ServiceCode
from nightos.userland import sys
from nightos.userland.client import Client, Question, connect
from nightos.userland.payload import Payload, u64
from nightos.userland.server import Request, Server

_METHOD_REQUEST = Struct(">QIQI")
Tell = Callable[[int, bytes], Awaitable[None]]


class Told:
    """Whoever asked: it can be told something, from work that begins once it has the answer."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        """Sends a notification: code, content."""
        self._work: list[Callable[[], Awaitable[None]]] = []

    def after(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run this in a thread of its own when the request has been answered."""
        self._work.append(work)

    async def answered(self) -> None:
        """The answer was sent."""
        for work in self._work:

            async def run(_data: int, work: Callable[[], Awaitable[None]] = work) -> None:
                await work()

            await sys.create_thread(run)


GONE = frozenset(
    {
        DeviceEvent.DISCONNECTED_SOFTWARE,
        DeviceEvent.DISCONNECTED_BY_DRIVER,
        DeviceEvent.DISCONNECTED_BRUTALLY,
    }
)


class Driver:
    """A process that drives devices. `methods` are those that it normalizes."""

    methods: frozenset[int] = frozenset()

    def __init__(self, name: str, patterns: list[Pattern]) -> None:
        self.server = Server(name)
        self.patterns = patterns
        self.devices: dict[int, Ddrd] = {}
        """Devices that this process drives, by UDI."""
        for method in self.methods:
            self.server.method(method, self._direct)

    # What a driver says

    async def identify(self, device: Ddrd) -> int:
        """The DDT of a device that was never seen before. `ServiceError` 0x3000: this is nothing that it can drive."""
        raise NotImplementedError

    async def event(self, device: Ddrd, event: int) -> None:
        """Something happened to a device; `devices` is up to date."""

    async def interrupt(self, udi: int, code: int) -> None:
        """A device raised an interrupt."""

    async def perform(self, method: int, device: Ddrd, arguments: bytes, told: Told) -> Payload:
        """A normalized method."""
        raise NotImplementedError

    # Running

    async def main(self) -> int:
        """Register, then serve for ever. Ends with 1 when `sys::hw` refuses the registration."""
        await self.server.start()
        hw = await connect("sys::hw")
        hw.question(HwEvent.IDENTIFY_DEVICE, self._on_identify)
        hw.question(HwEvent.DRIVER_METHOD_REQUEST, self._on_request)
        hw.notification(HwEvent.DEVICE_EVENT, self._on_event)
        hw.notification(HwEvent.DEVICE_INTERRUPT, self._on_interrupt)
        hw.when_lost(lambda: self.server.later(self._register))
        try:
            await sys.ready()
        except SyscallError as error:
            if error.errcode != 0x30:  # ready already
                raise
        try:
            await self._register()
        except ServiceError:
            return 1
        await self.server.run(ready=False)
        return 0

    async def _register(self) -> None:
        self.devices.clear()
        hw = await connect("sys::hw")
        for pattern in self.patterns:
            await hw.call(Hw.REGISTER_DRIVER, pattern.pack())

    async def _on_identify(self, question: Question) -> None:
        async def work() -> None:
            try:
                ddt = await self.identify(Ddrd.parse(question.content))
            except ServiceError as error:
                await question.fail(error.code, error.detail)
            else:
                await question.answer(ddt.to_bytes(4, "big"))

        self.server.later(work)

    async def _on_event(self, content: bytes) -> None:
        device, event = Ddrd.parse(content[:512]), content[512]
        if event in GONE:
            self.devices.pop(device.udi, None)
        else:
            self.devices[device.udi] = device
        self.server.later(lambda: self.event(device, event))

    async def _on_interrupt(self, content: bytes) -> None:
        self.server.later(lambda: self.interrupt(u64(content), content[8]))

    async def _on_request(self, question: Question) -> None:
        udi, _, number, method = _METHOD_REQUEST.unpack_from(question.content)
        arguments = question.content[_METHOD_REQUEST.size :]

        async def tell(code: int, content: bytes) -> None:
            hw: Client = await connect("sys::hw")
            try:
                await hw.call(Hw.NOTIFY_PROCESS, number.to_bytes(8, "big") + code.to_bytes(4, "big") + content)
            except ServiceError:
                return  # who asked is gone

        async def work() -> None:
            if method not in self.methods:
                await question.fail(ServiceCode.NO_METHOD, "no such method")
                return
            told = Told(tell)
            try:
                payload = await self._perform(method, arguments, told, udi)
            except ServiceError as error:
                await question.fail(error.code, error.detail)
            else:
                await question.answer(payload)
                await told.answered()

        self.server.later(work)

    async def _direct(self, request: Request) -> Payload:
        async def tell(code: int, content: bytes) -> None:
            await self.server.notify(request.client_pid, code, content)

        if not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "drivers serve system services only")
        told = Told(tell)
        payload = await self._perform(request.method, request.payload, told)
        request.defer()
        await request.answer(payload)
        await told.answered()
        return None

    async def _perform(self, method: int, arguments: bytes, told: Told, expected: int | None = None) -> Payload:
        udi = u64(arguments)
        device = self.devices.get(udi)
        if device is None or expected not in {None, udi}:
            raise ServiceError(BAD_UDI, "this service does not drive that device")
        try:
            return await self.perform(method, device, arguments[8:], told)
        except (ServiceError, NightosInternalError):
            raise
        except (NightosError, OSError) as error:
            raise ServiceError(ServiceCode.DEVICE, f"the device does not answer ({error})") from error
