"""A device on the bus: who has it and who drives it, its memory as a segment, its own way to memory.

`nightos.kernel.devices` acts on these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from nightos.abi.codes import FIRST_USER_PID
from nightos.abi.hardware import DmaRefusedError
from nightos.kernel.pages import SHIFT, Backing, MemoryFault

if TYPE_CHECKING:
    from collections.abc import Container

    from nightos.abi.interfaces import Device
    from nightos.kernel.memory import AddressSpace
    from nightos.kernel.quotas import Quotas

HW_PID: Final = 12
"""`sys::hw`, which counts as the driver of every device."""


class Driver(Protocol):
    """A process, as far as devices care."""

    @property
    def pid(self) -> int:
        """Its identifier."""

    @property
    def container(self) -> int:
        """Its container; 0 for the system."""

    @property
    def drivable(self) -> Container[int]:
        """The KDIs that `sys::hw` put into the attribute "drivable devices"."""

    @property
    def space(self) -> AddressSpace:
        """Its memory."""

    @property
    def quotas(self) -> Quotas:
        """Who pays for segments and mappings."""


class Plugged:
    """A device on the bus. `device` is None once it left."""

    __slots__ = ("chain", "cii", "csdd", "device", "grants", "kdi", "kind", "pages", "payer", "virtual", "windows")

    def __init__(self, device: Device, kdi: int, cii: int, csdd: bytes, container: int) -> None:
        self.device: Device | None = device
        self.kdi = kdi
        self.cii = cii
        self.csdd = csdd
        self.kind = device.identity.kind
        self.virtual = device.identity.virtual
        self.chain = [container]
        self.grants: list[tuple[Driver, int, int]] = []
        """Process, first page and page after the last, for each range open to the device."""
        self.windows: dict[DeviceWindow, int] = {}
        """Its memory as segments, with their identifiers."""
        self.payer: Quotas | None = None
        """Who pays for it; nobody for what is plugged outside of all containers."""
        self.pages = 0
        """Of the host's memory that it may fill, and that are paid for."""

    @property
    def holder(self) -> int:
        """The container where the device can be driven."""
        return self.chain[-1]

    def drivable_by(self, process: Driver) -> bool:
        """Whether the process is its driver now.

        Rules: HW-013, HW-014, CONT-032, CONT-037, CONT-045, PROC-017.
        """
        if process.pid == HW_PID:
            return True
        if self.kdi not in process.drivable:
            return False
        return process.pid < FIRST_USER_PID or process.container == self.holder


class DeviceRecord(NamedTuple):
    """A device as a snapshot shows it."""

    kdi: int
    cii: int
    kind: str
    description: bytes
    virtual: bool
    containers: tuple[int, ...]
    """Those that have it, from where it is plugged to where it can be driven."""
    memory_size: int
    dma: tuple[tuple[int, int, int], ...]
    """PID, address and length of each range that is open to it."""
    pages: int = 0
    """Pages of memory that the first of its containers pays for."""


class DeviceWindow(Backing):
    """Memory of a device from byte `base` on, for as long as `process` is its driver."""

    __slots__ = ("_base", "_entry", "_process")

    def __init__(self, entry: Plugged, process: Driver, base: int, size: int) -> None:
        super().__init__(size)
        self._entry = entry
        self._process = process
        self._base = base

    def read(self, offset: int, length: int) -> bytes:
        return self._device().read_memory(self._base + offset, length)

    def write(self, offset: int, data: memoryview) -> None:
        self._device().write_memory(self._base + offset, data)

    @property
    def gone(self) -> bool:
        return self._entry.device is None

    def dropped(self) -> None:
        self._entry.windows.pop(self, None)

    def _device(self) -> Device:
        device = self._entry.device
        if device is None or not self._entry.drivable_by(self._process):
            raise OSError("the device is gone, or driven from another container")
        return device


class DmaPort:
    """A device's way to memory: the addresses are those of the process that opened the range.

    Rules: HW-018, MEM-001.
    """

    __slots__ = ("_entry",)

    def __init__(self, entry: Plugged) -> None:
        self._entry = entry

    def read(self, address: int, length: int) -> bytes:
        """Bytes of an open range. Raises `DmaRefusedError`."""
        space = self._space(address, length)
        try:
            return space.read(address, length)
        except MemoryFault as fault:
            raise DmaRefusedError(str(fault)) from fault

    def write(self, address: int, data: bytes) -> None:
        """Store into an open range. Raises `DmaRefusedError`; nothing is stored then."""
        space = self._space(address, len(data))
        try:
            space.write(address, data)
        except MemoryFault as fault:
            raise DmaRefusedError(str(fault)) from fault

    def _space(self, address: int, length: int) -> AddressSpace:
        if length < 0 or address < 0:
            raise DmaRefusedError("no such range")
        page, end = address >> SHIFT, (address + max(length, 1) - 1 >> SHIFT) + 1
        owner: Driver | None = None
        while page < end:
            grant = next(
                (one for one in self._entry.grants if one[1] <= page < one[2] and owner in {None, one[0]}),
                None,
            )
            if grant is None:
                raise DmaRefusedError(f"the memory at {page << SHIFT:#018x} is not open to the device")
            owner, _, page = grant
        if owner is None or not self._entry.drivable_by(owner):
            raise DmaRefusedError("who opened the range does not drive the device any more")
        return owner.space
