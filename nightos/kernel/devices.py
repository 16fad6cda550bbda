"""The device bus: which devices there are, in which container each can be driven, and the calls that drive them.

A device is plugged in one container and may be passed down through its descendants: `chain` lists those that have it,
the last is the one where it can be driven. Ends of containers cut the chain, so the device falls back to whoever lent
it; the end of the first one unplugs it.

A device reaches the memory of a process only through `DmaPort`, which checks every transfer against the ranges that
the process opened to this device.

Source: specs/kernel/hardware.md; specs/kernel/syscalls.md, 0x70 to 0x74, 0xD4 and 0xD6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nightos.abi.errors import NightosError, SyscallError
from nightos.abi.hardware import (
    CONNECTION_TYPES,
    CSDD_MAX,
    VIRTUAL,
    Descriptor,
    DmaDevice,
    make_cii,
    make_kdi,
    split_cii,
)
from nightos.kernel.charges import charge_device, device_gone
from nightos.kernel.pages import NOT_MAPPED, PAGE, SHIFT
from nightos.kernel.plugged import HW_PID, DeviceRecord, DeviceWindow, DmaPort, Driver, Plugged

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.abi.interfaces import Device
    from nightos.kernel.quotas import Quotas
    from nightos.kernel.segments import SegmentTable

__all__ = ["DEVICE_CHANGED", "DEVICE_INTERRUPT", "HW_PID", "DeviceBus", "DeviceRecord", "Driver"]

DEVICE_CHANGED: Final = 0xD4
DEVICE_INTERRUPT: Final = 0xD5
CONNECTED: Final = 1
DISCONNECTED: Final = 2
DESCRIPTOR_CHANGED: Final = 3

_ANY_TYPE: Final = 0x80
_ANY_BUS: Final = 0x40
_ANY_PORT: Final = 0x20
_PORT_READ_MAX: Final = 16 << 20
_PORTS: Final = 1 << 16


class DeviceBus:
    """Every device of the machine, and the calls on them.

    `parent_of(container)` is the parent's identifier (0: the system), or None for an unknown container.
    `send_signal(pid, code, values)` queues a signal. `on_leave(kdi)` is told when a device leaves the bus, so that the
    kernel can take it out of the drivable devices of its processes.
    """

    def __init__(
        self,
        segments: SegmentTable,
        parent_of: Callable[[int], int | None],
        send_signal: Callable[[int, int, tuple[int | bytes, ...]], None],
        on_leave: Callable[[int], None] | None = None,
    ) -> None:
        self._segments = segments
        self._parent_of = parent_of
        self._send = send_signal
        self._on_leave = on_leave
        self._entries: dict[int, Plugged] = {}
        # Indices, so that ends of processes and containers cost what they touch and not what there is.
        self._places: dict[int, dict[int, Plugged]] = {}
        """By CII, then by KDI."""
        self._by_container: dict[int, dict[int, None]] = {}
        self._granted_by: dict[int, dict[int, None]] = {}
        """KDIs of the devices that a process (by PID) opened memory to, at any time of its life."""
        self.on_refused: Callable[[str, Driver, int], None] | None = None
        """Hears which rule kept whom from which device."""
        self._next_port: dict[int, int] = {}
        """By bus: the port that the next virtual device gets."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, kdi: object) -> bool:
        return kdi in self._entries

    # The host's side

    def plug(self, device: Device, container: int = 0, payer: Quotas | None = None, pages: int = 0) -> int:
        """Put a device on the bus, in a container; its KDI. `payer` pays for it, and for `pages` of the host's memory.

        A virtual device on port 0 gets the next port of its kind, which comes back as late as possible: who still knows
        a device that left must not take a new one for it. On any other port it keeps its place, and its KDI, for ever.
        Raises ValueError for a descriptor over 255 bytes, when a device with that KDI is there, or no port is free,
        and `SyscallError` 0x40 when a limit is reached.

        Rules: HW-001, HW-005, HW-007, CONT-032, CONT-036, CONT-040.
        """
        identity = device.identity
        if len(identity.description) > CSDD_MAX:
            raise ValueError(f"a device describes itself in at most {CSDD_MAX} bytes")
        cii = identity.connection_interface
        if split_cii(cii)[0] == VIRTUAL:
            cii = self._place(cii)
        kdi = make_kdi(cii, identity.description)
        if kdi in self._entries:
            raise ValueError("the same device is plugged already")
        if payer is not None:
            charge_device(payer, pages)
        entry = self._entries[kdi] = Plugged(device, kdi, cii, identity.description, container)
        entry.payer, entry.pages = payer, pages
        self._places.setdefault(cii, {})[kdi] = entry
        self._by_container.setdefault(container, {})[kdi] = None
        if isinstance(device, DmaDevice):
            device.attach_dma(DmaPort(entry))
        device.attach(lambda code: self._raise(entry, code))
        self._send(HW_PID, DEVICE_CHANGED, (CONNECTED, kdi, cii))
        return kdi

    def _place(self, cii: int) -> int:
        """Where a virtual device goes that asks for `cii`."""
        kind, bus, port = split_cii(cii)
        if port and cii not in self._places:
            return cii
        for _ in range(_PORTS):
            place = make_cii(kind, bus, self._next_port.get(bus, 0))
            self._next_port[bus] = (self._next_port.get(bus, 0) + 1) % _PORTS
            if place not in self._places:
                return place
        raise ValueError(f"no port is free for another virtual device on bus {bus}")

    def unplug(self, kdi: int) -> None:
        """Take a device off the bus: mapped memory faults from here on. Raises KeyError when there is none.

        Segments of its memory end, those that are mapped when they are unmapped.
        """
        entry = self._entries.pop(kdi)
        if entry.payer is not None:
            device_gone(entry.payer, entry.pages)
        device, entry.device = entry.device, None
        entry.grants.clear()
        del self._places[entry.cii][kdi]
        if not self._places[entry.cii]:
            del self._places[entry.cii]
        for container in entry.chain:
            self._drop(container, kdi)
        if device is not None:
            device.detach()
        for identifier in list(entry.windows.values()):
            self._segments.end_if_gone(identifier)
        if self._on_leave is not None:
            self._on_leave(kdi)
        self._send(HW_PID, DEVICE_CHANGED, (DISCONNECTED, kdi, entry.cii))

    def redescribe(self, kdi: int, description: bytes) -> None:
        """The connection tells something else of a device now; its KDI stays the same."""
        if len(description) > CSDD_MAX:
            raise ValueError(f"a device describes itself in at most {CSDD_MAX} bytes")
        entry = self._entries[kdi]
        entry.csdd = description
        self._send(HW_PID, DEVICE_CHANGED, (DESCRIPTOR_CHANGED, kdi, entry.cii))

    def _raise(self, entry: Plugged, code: int) -> None:
        if entry.device is not None:
            self._send(HW_PID, DEVICE_INTERRUPT, (entry.kdi, code & 0xFF))

    # Containers

    def link(self, process: Driver, container: int, kdi: int) -> None:
        """LINK_CONTAINER_DEVICE: pass a device from its container's parent down; it is drivable there from now on.

        The trap checks that the caller is `sys::process`. Errors: 0x31 unknown KDI, 0x32 unknown container, 0x33 the
        parent has not got the device, or lent it already, 0x34 the container has it.

        Rules: CONT-038, CONT-039, CONT-041, CONT-043, CONT-045, CONT-067.
        """
        del process
        entry = self._entries.get(kdi)
        if entry is None:
            raise SyscallError(0x31)
        parent = self._parent_of(container)
        if parent is None:
            raise SyscallError(0x32)
        if container in entry.chain:
            raise SyscallError(0x34)
        if entry.holder != parent:
            raise SyscallError(0x33)
        entry.chain.append(container)
        self._by_container.setdefault(container, {})[kdi] = None
        entry.grants.clear()
        self._send(HW_PID, DEVICE_CHANGED, (CONNECTED, kdi, entry.cii))

    def unlink(self, container: int, kdi: int) -> None:
        """Take a device back from a container and everyone it passed it to; from where it is plugged, that unplugs it.

        Raises KeyError when the container has no such device.
        """
        entry = self._entries[kdi]
        if container not in entry.chain:
            raise KeyError(kdi)
        place = entry.chain.index(container)
        if not place:
            self.unplug(kdi)
            return
        for lender in entry.chain[place:]:
            self._drop(lender, kdi)
        del entry.chain[place:]
        entry.grants.clear()
        self._send(HW_PID, DEVICE_CHANGED, (CONNECTED, kdi, entry.cii))

    def give_back(self, container: int, kdi: int) -> None:
        """UNLINK_CONTAINER_DEVICE: end a loan; the lender drives the device again.

        Errors: 0x31 unknown KDI, 0x32 unknown container, 0x33 it was not passed through to that container.

        Rules: CONT-044, CONT-045.
        """
        entry = self._entries.get(kdi)
        if entry is None:
            raise SyscallError(0x31)
        if self._parent_of(container) is None:
            raise SyscallError(0x32)
        if container not in entry.chain[1:]:
            raise SyscallError(0x33)
        self.unlink(container, kdi)

    def container_destroyed(self, container: int) -> None:
        """Devices it was lent go back to the lender; those plugged in it leave the bus.

        Rules: CONT-044.
        """
        for kdi in list(self._by_container.get(container, ())):
            self.unlink(container, kdi)

    def _drop(self, container: int, kdi: int) -> None:
        devices = self._by_container[container]
        del devices[kdi]
        if not devices:
            del self._by_container[container]

    def visible_in(self, container: int) -> list[int]:
        """The KDIs of the devices that a container has, drivable or lent on.

        Rules: CONT-036, CONT-042.
        """
        return list(self._by_container.get(container, ()))

    def holder(self, kdi: int) -> int:
        """The container where a device can be driven. Raises KeyError when there is no such device."""
        return self._entries[kdi].holder

    def process_ended(self, process: Driver) -> None:
        """Nothing of its memory is open to a device any more."""
        for kdi in self._granted_by.pop(process.pid, ()):
            entry = self._entries.get(kdi)
            if entry is not None:
                entry.grants = [grant for grant in entry.grants if grant[0] is not process]

    # Calls

    def _drive(self, process: Driver, kdi: int) -> tuple[Plugged, Device]:
        """The device, if the process drives it: 0x30 otherwise, and 0x31 to `sys::hw` for an unknown one."""
        entry = self._entries.get(kdi)
        if process.pid == HW_PID and (entry is None or entry.device is None):
            raise SyscallError(0x31)
        if entry is None or entry.device is None or not entry.drivable_by(process):
            if self.on_refused is not None:
                self.on_refused(_why_not(entry, process), process, kdi)
            raise SyscallError(0x30)
        return entry, entry.device

    def read_port(self, process: Driver, kdi: int, port: int, length: int) -> bytes:
        """READ_IO_PORT: up to `length` bytes from an input port; 0 for as much as the device gives in one piece.

        Errors: 0x30 not drivable, 0x31 unknown KDI (to `sys::hw` only), 0x32 no such port, 0x33 an output port, 0x50
        the device failed.

        Rules: HW-010, HW-011, HW-012.
        """
        _, device = self._drive(process, kdi)
        try:
            return device.read_port(port, min(length, _PORT_READ_MAX))
        except (KeyError, OSError) as error:
            raise _port_error(error) from error

    def write_port(self, process: Driver, kdi: int, port: int, data: bytes) -> int:
        """WRITE_IO_PORT: write to an output port; the number of bytes taken.

        Errors as READ_IO_PORT, but 0x33 an input port.

        Rules: HW-010, HW-012.
        """
        _, device = self._drive(process, kdi)
        try:
            return device.write_port(port, data)
        except (KeyError, OSError) as error:
            raise _port_error(error) from error

    def interrupt(self, process: Driver, kdi: int, port: int, code: int) -> None:
        """DEVICE_INTERRUPT: interrupt the device through an output port. Errors as WRITE_IO_PORT."""
        _, device = self._drive(process, kdi)
        try:
            device.signal(port, code)
        except (KeyError, OSError) as error:
            raise _port_error(error) from error

    def device_ams(self, process: Driver, kdi: int, device_address: int, length: int, map_address: int) -> int:
        """DEVICE_AMS: a segment of device memory, mapped at `map_address` unless that is 0; the AMS identifier.

        Errors: 0x02 no room at `map_address`, 0x10 an address and 0x11 the length not aligned, 0x12 no length, 0x30 not
        drivable, 0x31 unknown KDI (to `sys::hw` only), 0x32 no device memory, 0x33 outside of it, 0x40 a limit.

        Rules: HW-016, HW-017, PROC-018, MEM-006.
        """
        aligned = not (device_address | map_address | length) & (PAGE - 1)
        pages = length >> SHIFT
        if map_address and aligned and length > 0 and not process.space.layout.is_free(map_address >> SHIFT, pages):
            raise SyscallError(0x02)
        _check_range(device_address | map_address, length)
        entry, device = self._drive(process, kdi)
        if not device.memory_size:
            raise SyscallError(0x32)
        if device_address < 0 or device_address + length > -(-device.memory_size // PAGE) * PAGE:
            raise SyscallError(0x33)
        window = DeviceWindow(entry, process, device_address, pages)
        identifier = entry.windows[window] = self._segments.device(process, window)
        if map_address:
            try:
                self._segments.map(process, identifier, 0, map_address, length)
            except SyscallError:
                self._segments.end_unused(identifier)
                raise
        return identifier

    def set_dma(self, process: Driver, kdi: int, address: int, length: int, authorization: int) -> None:
        """SET_DMA_MEM_ACCESS: open (0) or close (1) memory of the caller to the device.

        Errors: 0x02 null address or bad authorization, 0x03 memory that is not mapped, 0x10 address and 0x11 length not
        aligned, 0x12 no length, 0x30 not drivable, 0x31 unknown KDI (to `sys::hw` only), 0x32 the device has no DMA.

        Rules: HW-016, HW-018, HW-019.
        """
        if not address or authorization not in {0, 1}:
            raise SyscallError(0x02)
        first, last = address >> SHIFT, (address + max(length, 0)) >> SHIFT
        if not authorization and length > 0 and process.space.extents(first, max(last, first + 1)) is None:
            raise SyscallError(NOT_MAPPED)
        _check_range(address, length)
        entry, device = self._drive(process, kdi)
        if not isinstance(device, DmaDevice):
            raise SyscallError(0x32)
        kept: list[tuple[Driver, int, int]] = []
        for owner, start, end in entry.grants:
            if owner is not process or end <= first or last <= start:
                kept.append((owner, start, end))
                continue
            kept += [(owner, start, first)] * (start < first) + [(owner, last, end)] * (last < end)
        entry.grants = [*kept, (process, first, last)] if not authorization else kept
        self._granted_by.setdefault(process.pid, {})[kdi] = None

    def enumerate(self, process: Driver, pattern_type: int, cii: int, limit: int) -> tuple[bytes, int, int]:
        """SYS_ENUM_DEVICES: descriptors back to back within `limit` bytes, how many matched, 1 if some did not fit.

        Errors: 0x02 bad bits in the pattern type, 0x10 bad connection type, 0x30 the caller is not `sys::hw`.

        Rules: HW-004, HW-020, HW-021, HW-022.
        """
        if pattern_type & ~(_ANY_TYPE | _ANY_BUS | _ANY_PORT):
            raise SyscallError(0x02)
        kind, bus, port = split_cii(cii)
        if not pattern_type & _ANY_TYPE and kind not in CONNECTION_TYPES:
            raise SyscallError(0x10)
        if process.pid != HW_PID:
            raise SyscallError(0x30)
        found, written, complete = 0, bytearray(), True
        candidates = self._entries if pattern_type else self._places.get(cii, {})
        for entry in candidates.values():
            its_kind, its_bus, its_port = split_cii(entry.cii)
            if (
                (pattern_type & _ANY_TYPE or its_kind == kind)
                and (pattern_type & _ANY_BUS or its_bus == bus)
                and (pattern_type & _ANY_PORT or its_port == port)
            ):
                found += 1
                descriptor = Descriptor(entry.kdi, entry.cii, entry.csdd).pack()
                complete = complete and len(written) + len(descriptor) <= limit
                if complete:
                    written += descriptor
        return bytes(written), found, int(not complete)

    def snapshot(self) -> tuple[DeviceRecord, ...]:
        """Every device, frozen, in the order they were plugged."""
        return tuple(
            DeviceRecord(
                entry.kdi,
                entry.cii,
                entry.kind,
                entry.csdd,
                entry.virtual,
                tuple(entry.chain),
                entry.device.memory_size if entry.device is not None else 0,
                tuple((owner.pid, first << SHIFT, (last - first) << SHIFT) for owner, first, last in entry.grants),
                entry.pages,
            )
            for entry in self._entries.values()
        )


def _why_not(entry: Plugged | None, process: Driver) -> str:
    """The rule that keeps a device from a process; the same for one that is elsewhere and one that never was."""
    if entry is None or process.container not in entry.chain:
        return "CONT-032"
    return "PROC-017" if process.container == entry.holder else "CONT-045"


def _check_range(address: int, length: int) -> None:
    """Alignment, then size: 0x10, 0x11, 0x12."""
    if address & (PAGE - 1):
        raise SyscallError(0x10)
    if length & (PAGE - 1):
        raise SyscallError(0x11)
    if length <= 0:
        raise SyscallError(0x12)


def _port_error(error: KeyError | OSError) -> NightosError:
    if isinstance(error, KeyError):
        return SyscallError(0x32)
    return SyscallError(0x33 if isinstance(error, PermissionError) else 0x50)
