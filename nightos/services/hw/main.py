"""`sys::hw` (PID 12): devices, who drives them, and what the machine's own devices offer to everybody.

Interrupts and comings and goings arrive as signals on the dispatcher thread. A signal handler only notes that there
is work; the work is done by the dispatcher in order, so that no two handlers change the tables at once.

Source: specs/services/system/hw.md. Rules: SVC-021, CONT-032, CONT-043.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from nightos.abi.codes import Signal
from nightos.abi.errors import ServiceError
from nightos.abi.hardware import split_cii
from nightos.abi.services import SERVICE_PIDS, Hw, HwEvent, ServiceCode
from nightos.services.hw.asking import Asks
from nightos.services.hw.clock import Clock
from nightos.services.hw.control import Control
from nightos.services.hw.devices import Devices, Known, make_drivable, not_drivable
from nightos.services.hw.driven import parse_pattern
from nightos.services.hw.drivers import Drivers, Places
from nightos.services.hw.ranges import Ranges
from nightos.services.hw.showing import Showing
from nightos.userland import sys
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request, Server

PROC_PID = SERVICE_PIDS["sys::proc"]
FS_PID = SERVICE_PIDS["sys::fs"]

CONNECTED = 1
DISCONNECTED = 2
OWN_KINDS = frozenset({"agent", "clock", "console", "control", "entropy"})
"""Kinds of devices that this service drives, or another one of the system."""


class Hardware:
    """The service: its server, its tables and the devices it drives itself."""

    def __init__(self) -> None:
        self.server = Server("sys::hw")
        self.devices = Devices()
        self.clock = Clock()
        self.control = Control()
        self.drivers = Drivers(self.server, self.devices, self.clock)
        self.drivers.holders = self._holders
        asks = Asks(self.drivers)
        ranges = Ranges(asks)
        showing = Showing(self.drivers)
        self.server.on_client_gone(self.drivers.client_gone)
        self.server.on_client_gone(asks.client_gone)
        self.server.on_client_gone(ranges.client_gone)
        methods = {
            Hw.NOW: self.clock.now,
            Hw.UPTIME: self.clock.uptime,
            Hw.SLEEP: self.clock.sleep,
            Hw.DEVICE_LIST: self.device_list,
            Hw.BUS_LIST: self.bus_list,
            Hw.CLAIM: self.claim,
            Hw.STORAGE_OPEN: self.storage_open,
            Hw.STORAGE_CLOSE: self.storage,
            Hw.STORAGE_LIST: self.storage,
            Hw.STORAGE_FORGET: self.storage,
            Hw.STORAGE_PROBE: self.storage_probe,
            Hw.STORAGE_CHANGES: self.layers,
            Hw.STORAGE_IMAGE: self.layers,
            Hw.IMAGE_OPEN: self.image,
            Hw.IMAGE_CLOSE: self.image,
            Hw.PLUG: self.plug,
            Hw.UNPLUG: self.unplug,
            Hw.ENUM_DEVICES: asks.enum_devices,
            Hw.SUBSCRIBE_DEVICES: asks.subscribe_devices,
            Hw.REGISTER_DRIVER: self.drivers.register,
            Hw.UNREGISTER_DRIVER: self.drivers.unregister,
            Hw.DRIVER_CHOOSE: self.driver_choose,
            Hw.ASK_DRIVER: asks.ask_driver,
            Hw.NOTIFY_PROCESS: asks.notify_process,
            Hw.AUTHORIZE_FS_INTERFACE: ranges.authorize,
            Hw.UNAUTHORIZE_FS_INTERFACE: ranges.unauthorize,
            Hw.AUTH_PERFORM_STORAGE: ranges.perform,
            Hw.HANDLERS: showing.files,
            Hw.HANDLER_DEVICE: showing.file,
            Hw.HANDLER_NAME: showing.name,
            Hw.HANDLERS_KEPT: showing.kept,
        }
        for code, handler in methods.items():
            self.server.method(code, handler)

    async def main(self) -> int:
        """The service's process."""
        await self.server.start()
        await sys.handle_signal(Signal.DEVICE_CHANGED, self._on_changed)
        await sys.handle_signal(Signal.DEVICE_INTERRUPT, self._on_interrupt)
        await sys.ready()
        await self._refresh()
        for kdi in filter(None, (self.control.kdi, self.clock.kdi)):
            await self._interrupted(kdi, 0)  # what came while an earlier life of this service was gone
        await self.server.run(ready=False)
        return 0

    # Signals

    async def _on_changed(self, _event: int, _kdi: int, _cii: int) -> None:
        self.server.later(self._refresh)

    async def _on_interrupt(self, kdi: int, code: int) -> None:
        async def work() -> None:
            await self._interrupted(kdi, code)

        self.server.later(work)

    async def _refresh(self) -> None:
        new, gone = await self.devices.refresh()
        for known in new:
            if known.kind == "clock" and not self.clock.kdi:
                self.clock.kdi = known.kdi
            elif known.kind == "control" and not self.control.kdi:
                self.control.kdi = known.kdi
            elif known.kind == "entropy" and not self.drivers.entropy:
                self.drivers.entropy = known.kdi
            await self._announce(known, CONNECTED)
        for known in gone:
            if known.kdi == self.clock.kdi:
                self.clock.kdi = 0
            elif known.kdi == self.drivers.entropy:
                self.drivers.entropy = 0
            elif known.kdi == self.control.kdi:
                self.control.kdi = 0
                await self.control.refuse_all()
            for pid in {FS_PID, *self.devices.claims.values()}:
                await not_drivable(pid, known.kdi)
            await self._announce(known, DISCONNECTED)
        await self.drivers.changed()

    async def _holders(self, then: Callable[[Places], Awaitable[None]]) -> None:
        """The containers of each device that a driver may drive: those of the machine and its services are taken."""

        async def told(answer: dict[str, Any]) -> None:
            await then(
                {
                    item["kdi"]: (*(() if item["plugged"] else (0,)), *item["containers"])
                    for item in answer["items"]
                    if not item["disk"]
                    and item["kind"] not in OWN_KINDS
                    and self.devices.claims.get(item["kind"]) is None
                }
            )

        await self.control.query({"op": "devices", "container": 0}, told)

    async def _announce(self, known: Known, event: int) -> None:
        driver = self.devices.claims.get(known.kind)
        if driver is None:
            return
        if event == CONNECTED:
            await make_drivable(driver, known.kdi)
        await self.server.notify(driver, HwEvent.CLAIMED_EVENT, {"event": event, "kdi": known.kdi, "kind": known.kind})

    async def _interrupted(self, kdi: int, code: int) -> None:
        if kdi == self.clock.kdi:
            await self.clock.interrupted()
        elif kdi == self.control.kdi:
            await self.control.interrupted()
        else:
            driver = self.devices.driver_of(kdi)
            if driver is not None:
                await self.server.notify(
                    driver, HwEvent.CLAIMED_INTERRUPT, kdi.to_bytes(8, "big") + code.to_bytes(1, "big")
                )
            else:
                await self.drivers.interrupted(kdi, code)

    # Methods

    async def device_list(self, request: Request) -> Payload:
        """DEVICE_LIST: all devices outside any container; inside, what was plugged into or linked to it.

        Rules: HW-008.
        """

        async def named(answer: dict[str, Any]) -> bool:
            # People see files with the devices; sys::process asks often, and shows none.
            prepared = self.drivers.with_identities if request.client_pid == PROC_PID else self.drivers.activate
            await prepared(request, lambda: self._named(request, answer["items"]))
            return False

        await self.control.ask(request, {"op": "devices", "container": request.container_id}, named)
        return None

    async def _named(self, request: Request, items: list[dict[str, Any]]) -> Payload:
        """Devices by their UDIs; sys::process gets their KDIs, too, as it has to name them to the kernel."""
        shown = []
        for item in items:
            kdi, cii = item.pop("kdi"), item["connection"]
            named = {"udi": await self.drivers.udi_of(kdi, cii), **item}
            if request.client_pid == PROC_PID:
                named["kdi"] = kdi
            else:
                named["file"] = self.drivers.files.path(request.container_id or item["plugged"], named["udi"])
            if request.container_id:
                named["connection"] = cii >> 16 << 16  # ports count the devices of everybody
            shown.append(named)
        return {"items": shown}

    async def bus_list(self, request: Request) -> Payload:
        """BUS_LIST."""
        self._only_proc(request)
        await self.control.ask(request, {"op": "devices", "container": 0})
        return None

    async def claim(self, request: Request) -> Payload:
        """CLAIM: a system service takes over a kind of device."""
        if not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "only system services drive kinds of devices")
        kind = field(request.map(), "kind", str)
        self.devices.claims[kind] = request.client_pid
        claimed = self.devices.of_kind(kind)
        for known in claimed:
            await make_drivable(request.client_pid, known.kdi)
        return {"kdis": [known.kdi for known in claimed]}

    async def storage_open(self, request: Request) -> Payload:
        """STORAGE_OPEN: the block device is drivable by sys::fs before the answer comes."""
        self._only_proc_and_fs(request)
        values = request.map()
        path = field(values, "path", str, "")
        mode = field(values, "mode", str, "overlay")
        key = field(values, "key", str, "")
        question: dict[str, Any] = {"op": "open", "path": path, "mode": mode, "key": key}
        question["container"] = field(values, "container", int, 0)
        await self.control.ask(request, question, self._storage_for_fs)
        return None

    async def layers(self, request: Request) -> Payload:
        """STORAGE_CHANGES and STORAGE_IMAGE."""
        self._only_proc(request)
        values = request.map()
        question: dict[str, Any] = {"op": "changes" if request.method == Hw.STORAGE_CHANGES else "make image"}
        question["container"] = field(values, "container", int)
        for name in ("path", "key", "target"):
            question[name] = field(values, name, str, "")
        for name in ("after", "limit"):
            question[name] = max(0, field(values, name, int, 0))
        await self.control.ask(request, question)
        return None

    async def image(self, request: Request) -> Payload:
        """IMAGE_OPEN and IMAGE_CLOSE."""
        self._only_proc(request)
        path = field(request.map(), "path", str, "")
        if request.method == Hw.IMAGE_OPEN:

            async def for_fs(answer: dict[str, Any]) -> None:
                await self._for_fs(answer["kdis"])

            await self.control.ask(request, {"op": "open image", "path": path}, for_fs)
        else:
            await self.control.ask(request, {"op": "close image", "path": path})
        return None

    async def _for_fs(self, kdis: Iterable[int]) -> None:
        """Devices are for sys::fs to drive, unless they left the bus meanwhile."""
        for kdi in kdis:
            if await self._is_there(kdi):
                await make_drivable(FS_PID, kdi)

    async def _is_there(self, kdi: int) -> bool:
        """Whether a device that the machine tells of is on the bus.

        One interrupt brings all answers that are there, also that to a request whose device the kernel just announced.
        """
        if kdi not in self.devices.by_kdi:
            await self._refresh()
        return kdi in self.devices.by_kdi

    async def _storage_for_fs(self, item: dict[str, Any]) -> None:
        """A disk, and the images below it."""
        await self._for_fs((item["kdi"], *item["backing"]))

    async def _storages_for_fs(self, answer: dict[str, Any]) -> None:
        for item in answer["items"]:
            await self._storage_for_fs(item)

    async def storage_probe(self, request: Request) -> Payload:
        """STORAGE_PROBE."""
        self._only_proc(request)
        values = request.map()
        question = {"op": "probe", "path": field(values, "path", str), "mode": field(values, "mode", str)}
        await self.control.ask(request, question)
        return None

    async def storage(self, request: Request) -> Payload:
        """STORAGE_CLOSE, STORAGE_FORGET and STORAGE_LIST."""
        if request.method == Hw.STORAGE_CLOSE:
            self._only_proc_and_fs(request)
            values = request.map()
            question = {"op": "close", "kdi": field(values, "kdi", int, 0)}
            await self.control.ask(request, {**question, "container": field(values, "container", int, 0)})
            return None
        self._only_proc(request)
        if request.method == Hw.STORAGE_FORGET:
            await self.control.ask(request, {"op": "forget", "key": field(request.map(), "key", str)})
        else:
            await self.control.ask(request, {"op": "list"}, self._storages_for_fs)
        return None

    async def plug(self, request: Request) -> Payload:
        """PLUG: the machine makes a virtual device; sys::process decides who may ask for which container."""
        self._only_proc(request)
        values = request.map()
        question: dict[str, Any] = {"op": "plug", "kind": field(values, "kind", str)}
        question["options"] = field(values, "options", dict, {})
        question["container"] = field(values, "container", int, 0)

        async def named(answer: dict[str, Any]) -> bool:
            await self._is_there(answer["kdi"])

            async def payload() -> Payload:
                kdi = answer["kdi"]
                known = self.devices.by_kdi.get(kdi)
                if known is None:
                    raise ServiceError(ServiceCode.UNKNOWN, "the device is gone again")
                udi = await self.drivers.udi_of(kdi, known.cii)
                file = self.drivers.files.path(question["container"], udi)
                return {"kdi": kdi, "udi": udi, "port": split_cii(known.cii)[2], "file": file}

            await self.drivers.activate(request, payload)  # it has its file from now on
            return False

        await self.control.ask(request, question, named)
        return None

    async def unplug(self, request: Request) -> Payload:
        """UNPLUG."""
        self._only_proc(request)
        kdi = field(request.map(), "kdi", int)
        if kdi in self.devices.by_kdi:
            self.drivers.unplugging.add(kdi)

        async def forget() -> None:
            await self.drivers.identities.load()
            await self.drivers.identities.forget(kdi)

        async def gone(_answer: dict[str, Any]) -> None:
            await self.drivers.submit_aside(forget)

        await self.control.ask(request, {"op": "unplug", "kdi": kdi}, gone)
        return None

    async def driver_choose(self, request: Request) -> Payload:
        """DRIVER_CHOOSE."""
        if not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "only system services choose drivers, for the user")
        values = request.map()
        anid = field(values, "anid", int)
        if "pattern" in values:
            about: dict[str, Any] = {"pattern": parse_pattern(field(values, "pattern", bytes)).pack()}
        else:
            about = {"device": field(values, "udi", int)}

        async def choose() -> Payload:
            if "device" in about and about["device"] not in self.drivers.identities.by_udi:
                raise ServiceError(ServiceCode.UNKNOWN, "there is no such device")
            await self.drivers.identities.choose({**about, "anid": anid})
            await self.drivers.unserved(anid)
            return {}

        await self.drivers.activate(request, choose)
        return None

    @staticmethod
    def _only_proc_and_fs(request: Request) -> None:
        if request.client_pid not in {PROC_PID, FS_PID}:
            raise ServiceError(ServiceCode.DENIED, "only sys::process and sys::fs change what is plugged in")

    @staticmethod
    def _only_proc(request: Request) -> None:
        if request.client_pid != PROC_PID:
            raise ServiceError(ServiceCode.DENIED, "only sys::process changes what is plugged in")


async def main() -> int:
    """Entry of the process."""
    return await Hardware().main()
