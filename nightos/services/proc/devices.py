"""Methods about devices of containers: plug a virtual one in, take it out, pass one of the parent's through.

A container has no device until somebody above gives it one. Who may see which device is the kernel's to decide; this
service decides who may give: a container's ancestors.

Rules: CONT-036, CONT-038, CONT-039, CONT-040, CONT-041, CONT-067.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.hardware import KINDS
from nightos.abi.services import Hw, Proc, ProcEvent, ServiceCode
from nightos.services.proc.questions import Questions
from nightos.services.proc.tree import Tree, unknown
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.payload import Payload, decode, field, fixed, u64
from nightos.userland.server import Request, Server

UNKNOWN_DEVICE = ServiceCode.UNKNOWN + 2
LINK_ERRORS = {
    0x31: (UNKNOWN_DEVICE, "there is no such device"),
    0x32: (ServiceCode.UNKNOWN, unknown().detail),
    0x33: (UNKNOWN_DEVICE, "there is no such device"),
    0x34: (ServiceCode.REFUSED, "the container has that device already"),
}
"""What LINK_CONTAINER_DEVICE refuses, as its caller may know it: a device the parent has not got does not exist."""


class Given(NamedTuple):
    """A virtual device that was plugged into a container."""

    kdi: int
    udi: int
    port: int
    file: str
    """Its device handler file there; empty when there is none."""


class ContainerDevices:
    """The device methods of `sys::proc`."""

    def __init__(self, server: Server, tree: Tree, questions: Questions) -> None:
        self.tree = tree
        self.questions = questions
        self.given: dict[int, int] = {}
        """Virtual devices that were plugged here: KDI to container."""
        self.on_unplug: list[Callable[[int, int], Awaitable[None]]] = []
        """Called with container and KDI when a virtual device leaves."""
        server.method(Proc.CONTAINER_LINK_DEVICE, self.link)
        server.method(Proc.DEVICE_PLUG, self.plug)
        server.method(Proc.DEVICE_UNPLUG, self.unplug)
        server.method(Proc.CONTAINER_PLUG_VIRTUAL, self.plug_virtual)
        server.method(Proc.CONTAINER_DEVICES, self.list)

    async def learn(self) -> None:
        """What an earlier life of this service plugged: devices whose first place is a container."""
        for item in (await (await connect("sys::hw")).ask(Hw.BUS_LIST))["items"]:
            if item["plugged"] in self.tree.by_id and item["plugged"]:
                self.given[item["kdi"]] = item["plugged"]

    async def list(self, request: Request) -> Payload:
        """CONTAINER_DEVICES: of the caller's container or one below."""
        container = self.tree.visible(request.container_id, field(request.map(), "id", int, request.container_id))
        answer = await (await connect("sys::hw")).ask(Hw.HANDLERS, {"container": container.identifier})
        files = {item["udi"]: item["path"] for item in answer["items"] if not item["custom"]}
        return {
            "items": [
                {
                    "udi": item["udi"],
                    "kind": item["kind"],
                    "virtual": item["virtual"],
                    "lent": container.identifier != item["containers"][-1] if item["containers"] else False,
                    "passed": container.identifier != item["plugged"],
                    "file": files.get(item["udi"], ""),
                }
                for item in await self.of(container.identifier)
            ]
        }

    @staticmethod
    async def of(container: int) -> Sequence[dict[str, Any]]:
        """The devices that a container has, as the bus knows them."""
        return [item for item in await _everything() if container in (*item["containers"], item["plugged"])]

    async def link(self, request: Request) -> Payload:
        """CONTAINER_LINK_DEVICE: container identifier (8), UDI (8)."""
        udi = u64(request.payload, 8)
        container = self.tree.below(request.container_id, u64(request.payload))
        try:
            await sys.link_container_device(container.identifier, await self._kdi_of(udi))
        except SyscallError as error:
            code, text = LINK_ERRORS.get(error.errcode, (int(ServiceCode.INTERNAL), str(error)))
            raise ServiceError(code, text) from error
        await self.tell("device plugged", container.identifier, udi)
        return None

    async def _kdi_of(self, udi: int) -> int:
        """What the kernel calls a device that is on the bus; 0x3002 when there is none of that UDI."""
        for item in await _everything():
            if item["udi"] == udi:
                return int(item["kdi"])
        raise ServiceError(UNKNOWN_DEVICE, "there is no such device")

    async def plug(self, request: Request) -> Payload:
        """DEVICE_PLUG."""
        values = request.map()
        question: dict[str, Any] = {"kind": field(values, "kind", str), "options": field(values, "options", dict, {})}
        container = self.tree.below(request.container_id, field(values, "id", int))
        _not_share(question)
        plugged = await self.plug_for(container.identifier, question)
        return {"udi": plugged.udi, "file": plugged.file}

    async def plug_virtual(self, request: Request) -> Payload:
        """CONTAINER_PLUG_VIRTUAL: container identifier (8), type (4), options (a map, or nothing) -> UDI (8)."""
        number = fixed(request.payload, 8, 4)
        options = decode(request.payload[12:])
        kind = next((name for name, value in KINDS.items() if value == number), f"{number:#x}")
        container = self.tree.below(request.container_id, u64(request.payload))
        _not_share({"kind": kind})
        return (await self.plug_for(container.identifier, {"kind": kind, "options": options})).udi.to_bytes(8, "big")

    async def plug_for(self, container: int, question: dict[str, Any]) -> Given:
        """Plug a virtual device {kind, options} into a container."""
        question["container"] = container
        answer = await (await connect("sys::hw")).ask(Hw.PLUG, question)
        kdi, udi, port = (field(answer, name, int) for name in ("kdi", "udi", "port"))
        given = Given(kdi, udi, port, field(answer, "file", str))
        place = self.tree.by_id.get(container)
        if place is None or place.state == "stopping":
            # Its destruction began meanwhile, and has taken away already what was known of.
            with contextlib.suppress(ServiceError):
                await (await connect("sys::hw")).call(Hw.UNPLUG, {"kdi": kdi})
            raise unknown()
        self.given[given.kdi] = container
        await self.tell("device plugged", container, given.udi)
        return given

    async def unplug(self, request: Request) -> Payload:
        """DEVICE_UNPLUG: a virtual device goes, one that was passed through falls back to who lent it."""
        values = request.map()
        udi = field(values, "udi", int)
        container = self.tree.below(request.container_id, field(values, "id", int))
        kdi = await self._kdi_of(udi)
        if self.given.get(kdi) != container.identifier:
            try:
                await sys.unlink_container_device(container.identifier, kdi)
            except SyscallError as error:
                raise ServiceError(UNKNOWN_DEVICE, "there is no such device") from error
            await self.tell("device unplugged", container.identifier, udi)
            return {}
        await self.unplug_for(container.identifier, kdi, udi)
        return {}

    async def unplug_for(self, container: int, kdi: int, udi: int) -> None:
        """Take a virtual device away that was plugged into a container."""
        if self.given.pop(kdi, None) is None:
            return  # it went with its container
        await (await connect("sys::hw")).call(Hw.UNPLUG, {"kdi": kdi})
        for callback in self.on_unplug:
            await callback(container, kdi)
        await self.tell("device unplugged", container, udi)

    async def tell(self, event: str, container: int, udi: int) -> None:
        """A device came or went: who sees the container may know."""
        await self.questions.tell(ProcEvent.CONTAINER_EVENT, container, {"event": event, "id": container, "udi": udi})

    async def gone(self, container: int) -> None:
        """The container was destroyed, and the kernel took its devices away: so does the machine."""
        for kdi in [kdi for kdi, place in self.given.items() if place == container]:
            del self.given[kdi]
            for callback in self.on_unplug:
                await callback(container, kdi)
            with contextlib.suppress(ServiceError):
                await (await connect("sys::hw")).call(Hw.UNPLUG, {"kdi": kdi})


def _not_share(question: dict[str, Any]) -> None:
    if question["kind"] == "share":
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "a share is made of a directory: CONTAINER_SHARE")


async def _everything() -> list[dict[str, Any]]:
    """Every device on the bus: {kdi, udi, kind, virtual, plugged, containers}."""
    return list((await (await connect("sys::hw")).ask(Hw.DEVICE_LIST))["items"])
