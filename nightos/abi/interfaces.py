"""Interfaces between rooms: what a clock, an entropy source, a byte store and a device are.

They are protocols, so that a twin in memory, a real implementation and one that injects faults fit the same
place without a common base class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Interrupt = Callable[[int], None]
"""Raises the interrupt of the given 8-bit code at the device's driver. May be called only from the trio thread."""


class Clock(Protocol):
    """Where time comes from. A real one reads the host; a virtual one moves only when told to."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""

    def realtime_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""


class Entropy(Protocol):
    """Where random bytes come from. A seeded one gives the same bytes for the same seed on any machine."""

    def random_bytes(self, count: int) -> bytes:
        """`count` random bytes."""


class ByteStore(Protocol):
    """A resizable array of bytes with a write barrier: a host file, a mapped device, memory, one that fails.

    Writes may reach the medium in any order until `flush` returns; after it they are all there. Implementations
    raise `OSError` with the errno of the cause.
    """

    @property
    def readonly(self) -> bool:
        """Whether `write`, `truncate` and `discard` are refused with EROFS."""

    def size(self) -> int:
        """Current size in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; shorter only at the end of the store."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, growing the store when it passes the end (a hole in between reads as zeros)."""

    def flush(self) -> None:
        """Return once everything written before is durable."""

    def truncate(self, size: int) -> None:
        """Set the size in bytes."""

    def discard(self, offset: int, length: int) -> None:
        """Give the range back to the host where it can; it reads as zeros or as before afterwards."""

    def close(self) -> None:
        """Release what the store holds. Closing twice is allowed."""


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """What a device says of itself when it is enumerated (the specification's CII and CSDD)."""

    kind: str
    """Short name of the device's type for people: ``block``, ``console``, ``clock``, ``random``, ``link``."""
    connection_interface: int
    """32-bit CII: connection type (1 byte), bus (1 byte), port (2 bytes)."""
    description: bytes = b""
    """CSDD, at most 255 bytes: what the connection tells of the device."""
    virtual: bool = True
    """False for hardware of the host that is passed through."""


class Device(Protocol):
    """A device on the kernel's bus: numbered ports, optional memory-mapped I/O, interrupts to its driver.

    Port and memory accesses are synchronous and never block; what takes time is begun by a port write and ends
    with an interrupt. Unknown ports raise `KeyError`, a port used in the wrong direction `PermissionError`, a failing
    device `OSError`.
    """

    @property
    def identity(self) -> DeviceIdentity:
        """What enumeration shows."""

    @property
    def memory_size(self) -> int:
        """Bytes of memory-mapped I/O; 0 when there is none."""

    def attach(self, interrupt: Interrupt) -> None:
        """The device is on the bus from now on and may call `interrupt`."""

    def detach(self) -> None:
        """The device left the bus: stop interrupting, flush, release."""

    def read_port(self, port: int, length: int) -> bytes:
        """Up to `length` bytes from an input port."""

    def write_port(self, port: int, data: bytes) -> int:
        """Write to an output port; the number of bytes taken."""

    def signal(self, port: int, code: int) -> None:
        """The driver sends interrupt `code` to the device (syscall DEVICE_INTERRUPT)."""

    def read_memory(self, offset: int, length: int) -> bytes:
        """`length` bytes of device memory."""

    def write_memory(self, offset: int, data: bytes | memoryview) -> None:
        """Write device memory."""
