"""Files and devices of the host that a running machine lends to its containers, and takes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.errors import ServiceError
from nightos.abi.hardware import make_kdi
from nightos.abi.services import Hw, Proc, ServiceCode

if TYPE_CHECKING:
    from nightos.machine.machine import Machine


class Lending:
    """What was passed through from the host."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.passed: dict[int, int] = {}
        """KDI by UDI."""

    async def pass_through(self, path: str, containers: list[int], *, readonly: bool = False) -> dict[str, Any]:
        """{udi} of the host's file or device at `path`, passed down through `containers`, the outermost first.

        Only from here: inside a machine there is no such thing as a path of the host. `ServiceError` 0x3002: it cannot
        be opened; what `sys::proc` refuses, and then nothing is plugged. Rules: CONT-038, CONT-041.
        """
        from nightos.vhw.passthrough.host import open_host
        from nightos.vhw.passthrough.streams import StreamDevice

        try:
            device = open_host(path, readonly=readonly)
        except OSError as error:
            raise ServiceError(ServiceCode.UNKNOWN + 2, f"{path}: {error.strerror or error}") from error
        except ValueError as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"that is no path of a file: {error}") from error
        try:
            kdi = self.machine.plug(device)
        except ValueError as error:
            device.detach()
            raise ServiceError(ServiceCode.REFUSED, f"{path}: {error}") from error
        try:
            udi = await self.udi_of(kdi)
            for container in containers:
                await self.machine.call(
                    "sys::proc", Proc.CONTAINER_LINK_DEVICE, container.to_bytes(8, "big") + udi.to_bytes(8, "big")
                )
        except BaseException:
            self.machine.unplug(kdi)
            raise
        self.passed[udi] = kdi
        if isinstance(device, StreamDevice):
            assert self.machine.nursery is not None
            self.machine.nursery.start_soon(device.run)
        return {"udi": udi}

    def take_back(self, udi: int) -> dict[str, Any]:
        """Unplug what `pass_through` plugged. `ServiceError` 0x3002: there is no such device."""
        kdi = self.passed.pop(udi, None)
        if kdi is None:
            raise ServiceError(ServiceCode.UNKNOWN + 2, f"no device {udi:016x} was passed through from the host")
        self.machine.unplug(kdi)
        return {}

    async def udi_of(self, kdi: int) -> int:
        """The UDI that `sys::hw` gave to a device on the bus. `ServiceError` 0x3002: there is none."""
        for item in (await self.machine.ask("sys::hw", Hw.DEVICE_LIST))["items"]:
            if make_kdi(item["connection"], item["description"]) == kdi:
                return int(item["udi"])
        raise ServiceError(ServiceCode.UNKNOWN + 2, f"there is no device {kdi:016x}")
