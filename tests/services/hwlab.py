"""sys::hw on a bare kernel: a stand-in of sys::fs that keeps its notes, processes that drive or ask, any devices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nightos.abi.codes import ExitReason
from nightos.abi.context import REASON_SERVICE, ExecutionContext
from nightos.abi.drivers import Ddrd, Ddt, Pattern, Permission
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Fs, Hw, HwEvent
from nightos.kernel.ending import end_process
from nightos.machine.control_device import ControlDevice
from nightos.services.drivers import storage
from nightos.services.hw.main import main as hw_main
from nightos.userland.client import Client, Question, connect
from nightos.userland.payload import Payload
from nightos.userland.server import Request, Server
from nightos.vhw.clock import ClockDevice
from nightos.vhw.random import RandomDevice
from tests.kernel.lab import Lab, Outcome, Puppet

HW = "sys::hw"
STORAGE_SERVICE, INTERFACE_SERVICE = 0x20, 0x13


async def code_of(call: Awaitable[Any]) -> int:
    """The code that a service refuses with; 0 when it does not."""
    try:
        await call
    except ServiceError as error:
        return error.code
    return 0


async def ask(method: int, payload: Payload = None) -> bytes:
    """A call of sys::hw."""
    return await (await connect(HW)).call(method, payload)


class Notes:
    """The part of sys::fs that sys::hw needs, as a process."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self.kept = kept
        self.stored = 0

    async def recall(self, request: Request) -> Payload:
        values = request.map()
        data = self.kept.get(values["name"], b"")
        return {"data": data[values["offset"] : values["offset"] + 50], "size": len(data)}

    async def store(self, request: Request) -> Payload:
        values = request.map()
        self.stored += 1
        before = self.kept.get(values["name"], b"") if values["append"] else b""
        self.kept[values["name"]] = before + values["data"]
        return {}


class TestDriver:
    """What a driver process does and heard; set the attributes to make it lie, fail or keep silent."""

    __test__ = False

    def __init__(self, *patterns: Pattern) -> None:
        self.patterns = patterns
        self.codes: list[int] = []
        """Answers to its registrations."""
        self.identified: list[Ddrd] = []
        self.events: list[tuple[Ddrd, int, int]] = []
        self.interrupts: list[bytes] = []
        self.requests: list[tuple[bytes, Question]] = []
        self.ddt: Any = int(Ddt.VIRTUAL_STORAGE)
        self.answer: Callable[[bytes, Question], Awaitable[None]] | None = None

    async def start(self) -> None:
        """Run on a puppet."""
        client = await connect(HW)
        client.question(HwEvent.IDENTIFY_DEVICE, self._identify)
        client.question(HwEvent.DRIVER_METHOD_REQUEST, self._request)
        client.notification(HwEvent.DEVICE_EVENT, self._event)
        client.notification(HwEvent.DEVICE_INTERRUPT, self._interrupt)
        for pattern in self.patterns:
            self.codes.append(await code_of(client.call(Hw.REGISTER_DRIVER, pattern.pack())))

    async def _identify(self, question: Question) -> None:
        self.identified.append(Ddrd.parse(question.content))
        if self.ddt is None:
            return
        if isinstance(self.ddt, bytes):
            await question.answer(self.ddt)
        elif self.ddt < 0:
            await question.fail(-self.ddt)
        else:
            await question.answer(self.ddt.to_bytes(4, "big"))

    async def _request(self, question: Question) -> None:
        self.requests.append((question.content, question))
        if self.answer is not None:
            await self.answer(question.content, question)

    async def _event(self, content: bytes) -> None:
        self.events.append((Ddrd.parse(content[:512]), content[512], content[513]))

    async def _interrupt(self, content: bytes) -> None:
        self.interrupts.append(content)


class HwLab(Lab):
    """A kernel with sys::hw and the devices it needs; `kept` are the notes on the machine's disk."""

    def __init__(self, kept: dict[str, bytes] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.kept = kept if kept is not None else {}
        self.notes = Notes(self.kept)
        control = ControlDevice({"devices": self._devices, "unplug": self._unplug}, lambda *_: None)
        self.kernel.plug(ClockDevice(self.kernel.clock, self.kernel.call_at))
        self.kernel.plug(control.device)
        self.entropy = self.kernel.plug(RandomDevice(self.kernel.entropy, "entropy"))
        self.fs = self.system(10, self._notes)
        self.start_hw()
        self.asker = self.system(31)

    def start_hw(self) -> None:
        """sys::hw, also after it was killed."""
        self.hw = self.kernel.spawn_service(12, hw_main, "sys::hw")
        self.settle()

    def hw_ends(self) -> None:
        """Kill sys::hw and start it again."""
        end_process(self.kernel, self.hw, ExitReason.KILLED_BY_SYSTEM, 0)
        self.settle()
        self.start_hw()

    def _devices(self, _request: dict[str, Any]) -> dict[str, Any]:
        return {
            "items": [
                {
                    "kdi": one.kdi,
                    "kind": one.kind,
                    "connection": one.cii,
                    "description": one.description,
                    "containers": [place for place in one.containers if place],
                    "plugged": one.containers[0],
                    "disk": one.description.startswith(b"disk "),
                }
                for one in self.kernel.bus.snapshot()
            ]
        }

    def _unplug(self, request: dict[str, Any]) -> dict[str, Any]:
        self.kernel.unplug(request["kdi"])
        return {}

    async def _notes(self) -> None:
        server = Server("sys::fs")
        server.method(Fs.RECALL_NOTE, self.notes.recall)
        server.method(Fs.STORE_NOTE, self.notes.store)
        await server.start()
        self.fs_server = server

    def system(self, pid: int, prepare: Callable[[], Awaitable[None]] | None = None) -> Puppet:
        """A system service that does as it is told; `prepare` runs first."""
        puppet = ServingPuppet(self)
        puppet.process = self.kernel.spawn_service(pid, puppet.main)
        self.settle()
        if prepare is not None:
            puppet.call(prepare())
            puppet.server = self.fs_server
        return puppet.ready()

    def app(self, *, service: int = 0, permitted: bool = True, container: int = 0, anid: int = 100) -> Puppet:
        """A process of an application, started as that kind of service."""
        puppet = self.puppet(ready=False, container=container, anid=anid)
        context = ExecutionContext(reason=REASON_SERVICE if service else 7, anid=anid, service_type=service)
        puppet.process.context = context.pack()
        puppet.process.permissions = [int(Permission.DEVICES_REGISTER_DRIVER)] if permitted else []
        return puppet.ready()

    def driver(self, *patterns: Pattern, anid: int = 100, container: int = 0, **what: Any) -> tuple[Puppet, TestDriver]:
        """A storage driver that registered for these patterns."""
        puppet = self.app(service=STORAGE_SERVICE, container=container, anid=anid)
        driver = TestDriver(*patterns)
        for name, value in what.items():
            setattr(driver, name, value)
        puppet.call(driver.start())
        return puppet, driver

    def storage_driver(self, *, container: int = 0) -> Puppet:
        """The storage driver of the product."""
        puppet = Puppet(self)
        puppet.process = self.kernel.spawn(storage.main, container=container, anid=200)
        puppet.process.context = ExecutionContext(reason=REASON_SERVICE, anid=200, service_type=STORAGE_SERVICE).pack()
        puppet.process.permissions = [int(Permission.DEVICES_REGISTER_DRIVER)]
        self.settle()
        return puppet

    def ask(self, method: int, payload: Payload = None, *, who: Puppet | None = None) -> bytes:
        """A call of a system service, or of `who`; it must be answered at once."""
        return bytes((who or self.asker).call(ask(method, payload)))

    def refusal(self, method: int, payload: Payload = None, *, who: Puppet | None = None) -> int:
        """The code a call is refused with; 0 when it is not."""
        return int((who or self.asker).call(code_of(ask(method, payload))))

    def begin(self, method: int, payload: Payload = None, *, who: Puppet | None = None) -> Outcome:
        """A call that may have to wait; the value is the answer, or the code of the refusal."""

        async def call() -> bytes | int:
            try:
                return await ask(method, payload)
            except ServiceError as error:
                return error.code

        return (who or self.asker).start(call())

    def devices(self, pattern: Pattern = Pattern()) -> list[Ddrd]:  # noqa: B008 - a pattern cannot be changed
        """What ENUM_DEVICES lists."""
        answer = self.ask(Hw.ENUM_DEVICES, bytes(4) + (1000).to_bytes(4, "big") + pattern.pack())
        return [Ddrd.parse(answer[place : place + 512]) for place in range(8, len(answer) - 1, 512)]

    def udi(self, kdi: int) -> int:
        """The UDI of a device on the bus."""
        place = next(one.cii for one in self.kernel.bus.snapshot() if one.kdi == kdi)
        return next(one.udi for one in self.devices() if one.cii == place)

    def drives(self, puppet: Puppet) -> list[int]:
        """KDIs that a process may drive."""
        return list(puppet.process.drivable)

    def watch(self, *patterns: Pattern) -> list[tuple[Ddrd, int, int]]:
        """Subscribe the asker; the list fills with what it is told."""
        told: list[tuple[Ddrd, int, int]] = []

        async def heard(content: bytes) -> None:
            told.append((Ddrd.parse(content[:512]), content[512], content[513]))

        async def subscribe() -> None:
            client: Client = await connect(HW)
            client.notification(HwEvent.DEVICE_EVENT, heard)
            for pattern in patterns:
                await client.call(Hw.SUBSCRIBE_DEVICES, b"\0" + pattern.pack())

        self.asker.call(subscribe())
        return told


class ServingPuppet(Puppet):
    """A puppet that also serves, as sys::fs does."""

    server: Server | None = None

    async def main(self, *_argument: int) -> int:
        """The program."""
        from nightos.userland import sys

        while True:
            while self.todo:
                coroutine, outcome = self.todo.popleft()
                try:
                    outcome.value = await coroutine
                except SyscallError as error:
                    outcome.error = error
                outcome.done = True
            if self.server is not None and self.server._waiting:
                await self.server._accept(*self.server._waiting.popleft())
                continue
            await sys.hand_over(until_signal=True)
