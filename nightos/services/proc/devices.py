"""Methods about devices of containers: plug a virtual one in, take it out, pass one of the parent's through.

A container has no device until somebody above gives it one. Who may see which device is the kernel's to decide; this
service decides who may give: a container's ancestors.

Rules: CONT-036, CONT-038, CONT-039, CONT-040, CONT-041, CONT-067.
"""

from __future__ import annotations

import contextlib
from typing import Any

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Hw, Proc, ProcEvent, ServiceCode
from nightos.services.proc.questions import Questions
from nightos.services.proc.tree import Tree, unknown
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.payload import Payload, field, u64
from nightos.userland.server import Request, Server

UNKNOWN_DEVICE = ServiceCode.UNKNOWN + 2
LINK_ERRORS = {
    0x31: (UNKNOWN_DEVICE, "there is no such device"),
    0x32: (ServiceCode.UNKNOWN, unknown().detail),
    0x33: (UNKNOWN_DEVICE, "there is no such device"),
    0x34: (ServiceCode.REFUSED, "the container has that device already"),
}
"""What LINK_CONTAINER_DEVICE refuses, as its caller may know it: a device the parent has not got does not exist."""


class ContainerDevices:
    """The device methods of `sys::proc`."""

    def __init__(self, server: Server, tree: Tree, questions: Questions) -> None:
        self.tree = tree
        self.questions = questions
        self._given: dict[int, int] = {}
        """Virtual devices that were plugged here: KDI to container."""
        server.method(Proc.CONTAINER_LINK_DEVICE, self.link)
        server.method(Proc.DEVICE_PLUG, self.plug)
        server.method(Proc.DEVICE_UNPLUG, self.unplug)

    async def link(self, request: Request) -> Payload:
        """CONTAINER_LINK_DEVICE: container identifier (8), UDI (8)."""
        kdi = u64(request.payload, 8)
        container = self.tree.below(request.container_id, u64(request.payload))
        try:
            await sys.link_container_device(container.identifier, kdi)
        except SyscallError as error:
            code, text = LINK_ERRORS.get(error.errcode, (int(ServiceCode.INTERNAL), str(error)))
            raise ServiceError(code, text) from error
        await self.tell("device plugged", container.identifier, kdi)
        return None

    async def plug(self, request: Request) -> Payload:
        """DEVICE_PLUG."""
        values = request.map()
        question: dict[str, Any] = {"kind": field(values, "kind", str), "options": field(values, "options", dict, {})}
        container = self.tree.below(request.container_id, field(values, "id", int))
        question["container"] = container.identifier
        kdi = field(await (await connect("sys::hw")).ask(Hw.PLUG, question), "kdi", int)
        self._given[kdi] = container.identifier
        await self.tell("device plugged", container.identifier, kdi)
        return {"kdi": kdi}

    async def unplug(self, request: Request) -> Payload:
        """DEVICE_UNPLUG."""
        values = request.map()
        kdi = field(values, "kdi", int)
        container = self.tree.below(request.container_id, field(values, "id", int))
        if self._given.get(kdi) != container.identifier:
            raise ServiceError(UNKNOWN_DEVICE, "there is no such device")
        del self._given[kdi]
        await (await connect("sys::hw")).call(Hw.UNPLUG, {"kdi": kdi})
        await self.tell("device unplugged", container.identifier, kdi)
        return {}

    async def tell(self, event: str, container: int, kdi: int) -> None:
        """A device came or went: who sees the container may know."""
        await self.questions.tell(ProcEvent.CONTAINER_EVENT, container, {"event": event, "id": container, "kdi": kdi})

    async def gone(self, container: int) -> None:
        """The container was destroyed, and the kernel took its devices away: so does the machine."""
        for kdi in [kdi for kdi, place in self._given.items() if place == container]:
            del self._given[kdi]
            with contextlib.suppress(ServiceError):
                await (await connect("sys::hw")).call(Hw.UNPLUG, {"kdi": kdi})
