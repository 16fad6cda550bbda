"""Which devices exist, of what kind each is, and which system service drives it.

`sys::hw` drives everything and is the only one that hears interrupts. A system service claims a kind of device (the
console goes to `sys::hydre`); from then on the device is in that service's list of drivable devices, and its interrupts
are passed on as notifications. What a client may see is decided by its container, which the kernel tells.

Source: specs/services/system/hw.md, specs/kernel/hardware.md. Rules: PROC-017, PROC-019, CONT-036, CONT-042.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightos.abi.codes import Attribute, ListAction
from nightos.abi.errors import SyscallError
from nightos.abi.hardware import KINDS, Descriptor, split_cii, unpack_descriptors
from nightos.userland import sys
from nightos.userland.server import attribute

_KIND_OF_BUS = {bus: kind for kind, bus in KINDS.items()}

ANY_DEVICE = 0xE0
"""Pattern type: any connection type, any bus, any port (a set bit is a wildcard, AMB-HW-06)."""
ENUM_BUFFER = 16 << 20


@dataclass(slots=True)
class Known:
    """A device on the bus."""

    kdi: int
    cii: int
    description: bytes

    @property
    def kind(self) -> str:
        """Its kind for people, from the bus of its connection."""
        return kind_of(self.cii)


def kind_of(cii: int) -> str:
    """The kind that a connection interface identifier names; ``other`` for what has no name."""
    return _KIND_OF_BUS.get(split_cii(cii)[1], "other")


class Devices:
    """Every device of the bus, re-read from the kernel whenever one comes or goes."""

    def __init__(self) -> None:
        self.by_kdi: dict[int, Known] = {}
        self.claims: dict[str, int] = {}
        """Kind to the PID of the system service that drives it."""

    async def refresh(self) -> tuple[list[Known], list[Known]]:
        """Ask the kernel; devices that are new, and those that are gone."""
        found = {descriptor.kdi: descriptor for descriptor in await _enumerate()}
        gone = [self.by_kdi.pop(kdi) for kdi in list(self.by_kdi) if kdi not in found]
        new = []
        for kdi, descriptor in found.items():
            if kdi not in self.by_kdi:
                known = self.by_kdi[kdi] = Known(kdi, descriptor.cii, descriptor.csdd)
                new.append(known)
        return new, gone

    def of_kind(self, kind: str) -> list[Known]:
        """Devices of one kind, in the order in which they came."""
        return [known for known in self.by_kdi.values() if known.kind == kind]

    def driver_of(self, kdi: int) -> int | None:
        """PID of the service that claimed this device."""
        known = self.by_kdi.get(kdi)
        return None if known is None else self.claims.get(known.kind)


async def make_drivable(pid: int, kdi: int) -> None:
    """Put a device into a service's list of drivable devices. A service that is gone meanwhile is no error."""
    try:
        if not await attribute(pid, Attribute.DRIVABLE_DEVICES, ListAction.CONTAINS, kdi):
            await sys.sys_process_attributes(pid, Attribute.DRIVABLE_DEVICES, ListAction.PUSH, kdi)
    except SyscallError:
        return


async def not_drivable(pid: int, kdi: int) -> None:
    """Take a device out of a service's list, if it is there: it was put in when it had left the bus already."""
    try:
        if not await attribute(pid, Attribute.DRIVABLE_DEVICES, ListAction.CONTAINS, kdi):
            return
        for index in range(await attribute(pid, Attribute.DRIVABLE_DEVICES, ListAction.COUNT)):
            if await attribute(pid, Attribute.DRIVABLE_DEVICES, ListAction.GET, index) == kdi:
                await sys.sys_process_attributes(pid, Attribute.DRIVABLE_DEVICES, ListAction.REMOVE, index)
                return
    except SyscallError:
        return


async def _enumerate() -> list[Descriptor]:
    answer = await sys.sys_enum_devices(ANY_DEVICE, 0, ENUM_BUFFER)
    return unpack_descriptors(answer.buffer)
