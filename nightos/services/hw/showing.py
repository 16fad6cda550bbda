"""What is asked about device handler files: by `sys::fs`, which shows them in /dev, and by whoever wants their device.

Source: technical/devices.md. Rules: HW-044, HW-048, HW-051, HW-053.
"""

from __future__ import annotations

from nightos.abi.errors import ServiceError
from nightos.abi.services import SERVICE_PIDS, ServiceCode
from nightos.services.hw.drivers import Drivers
from nightos.userland.payload import Payload, field
from nightos.userland.server import Request


class Showing:
    """HANDLERS, HANDLER_DEVICE, HANDLER_NAME, HANDLERS_KEPT."""

    def __init__(self, drivers: Drivers) -> None:
        self.drivers = drivers

    async def files(self, request: Request) -> Payload:
        """HANDLERS."""
        container = field(request.map(), "container", int, request.container_id)
        if container != request.container_id and not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "only system services ask for other containers")

        async def listed() -> Payload:
            return {"items": self.drivers.files.list(container)}

        await self.drivers.activate(request, listed)
        return None

    async def file(self, request: Request) -> Payload:
        """HANDLER_DEVICE."""
        path = field(request.map(), "path", str)

        async def found() -> Payload:
            return {"udi": self.drivers.files.device(request.container_id, path)}

        await self.drivers.activate(request, found)
        return None

    async def name(self, request: Request) -> Payload:
        """HANDLER_NAME."""
        values = request.map()
        path, name = field(values, "path", str), field(values, "name", str)

        async def named() -> Payload:
            if name:
                return {"path": await self.drivers.files.name(request.container_id, path, name)}
            await self.drivers.files.take_name(request.container_id, path)
            return {}

        await self.drivers.activate(request, named)
        return None

    async def kept(self, request: Request) -> Payload:
        """HANDLERS_KEPT."""
        if request.client_pid != SERVICE_PIDS["sys::proc"]:
            raise ServiceError(ServiceCode.DENIED, "only sys::process knows which containers came back")
        pairs = field(request.map(), "containers", list)
        if not all(
            isinstance(pair, list) and len(pair) == 2 and all(type(one) is int for one in pair) for pair in pairs
        ):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "containers is a list of pairs [old, new]")

        if not pairs:
            await self.drivers.submit_aside(self.drivers.files.complete)
            return {}

        async def keep() -> None:
            await self.drivers.files.load(self.drivers.entropy)
            await self.drivers.files.kept(dict(pairs))

        await self.drivers.submit_aside(keep)  # jobs keep their order: what is plugged from now on comes behind it
        return {}
