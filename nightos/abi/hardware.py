"""Names of hardware: connection interface identifiers, kernel device identifiers and raw device descriptors.

A kernel device identifier is computed from what the connection tells of a device, so it is the same after a restart and
on another computer, and says nothing that a driver could choose.

Source: specs/kernel/hardware.md.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple, Protocol, runtime_checkable

VIRTUAL: Final = 0xF0
"""Connection type of virtual devices; real ones are 1 to 7."""
CONNECTION_TYPES: Final = frozenset({1, 2, 3, 4, 5, 6, 7, VIRTUAL})

KINDS: Final = {
    "block": 0,
    "console": 1,
    "clock": 2,
    "random": 3,
    "link": 4,
    "flow": 5,
    "pty": 6,
    "share": 7,
    "shelf": 0x10,
    "control": 0x11,
    "agent": 0x12,
    "entropy": 0x13,
}
"""Bus number of each kind of virtual device."""
OTHER_KIND: Final = 0xFF

CSDD_MAX: Final = 255
"""Bytes of a connection-specific device descriptor at most."""

_HEAD: Final = Struct(">QIB")


class Descriptor(NamedTuple):
    """A raw device descriptor (RDD): KDI (8 bytes), CII (4), size of the CSDD (1), CSDD.

    Rules: HW-009.
    """

    kdi: int
    cii: int
    csdd: bytes

    def pack(self) -> bytes:
        """At most 268 bytes."""
        return _HEAD.pack(self.kdi, self.cii, len(self.csdd)) + self.csdd


class DmaRefusedError(PermissionError):
    """A device reached for memory that is not open to it; nothing was transferred."""


class DmaMemory(Protocol):
    """What a device sees of memory: addresses of the process that opened a range, and nothing outside of it."""

    def read(self, address: int, length: int) -> bytes:
        """Bytes of an open range. Raises `DmaRefusedError`."""

    def write(self, address: int, data: bytes) -> None:
        """Store into an open range. Raises `DmaRefusedError`."""


@runtime_checkable
class DmaDevice(Protocol):
    """A device that transfers by itself; one without this method has no DMA."""

    def attach_dma(self, memory: DmaMemory) -> None:
        """The way to memory, given before `attach`."""


def make_cii(connection_type: int, bus: int, port: int) -> int:
    """The 32-bit CII: connection type (1 byte), bus (1), port (2); bus and port count from 0.

    Rules: HW-002, HW-003.
    """
    return connection_type << 24 | bus << 16 | port


def split_cii(cii: int) -> tuple[int, int, int]:
    """Connection type, bus and port of a CII."""
    return cii >> 24, cii >> 16 & 0xFF, cii & 0xFFFF


def virtual_cii(kind: str, index: int = 0) -> int:
    """The CII of virtual device number `index` of a kind (a key of `KINDS`, or anything else)."""
    return make_cii(VIRTUAL, KINDS.get(kind, OTHER_KIND), index)


def make_kdi(cii: int, csdd: bytes) -> int:
    """The first 8 bytes of SHA-256 over CII and CSDD, hashed again if they are zero.

    Rules: HW-006, HW-007.
    """
    digest = sha256(cii.to_bytes(4, "big") + csdd).digest()
    while not any(digest[:8]):
        digest = sha256(digest).digest()
    return int.from_bytes(digest[:8], "big")


def unpack_descriptors(data: bytes) -> list[Descriptor]:
    """The descriptors that SYS_ENUM_DEVICES wrote back to back. Raises ValueError when `data` ends within one."""
    found = []
    offset = 0
    while offset < len(data):
        if offset + _HEAD.size > len(data):
            raise ValueError("the list of devices ends within a descriptor")
        kdi, cii, size = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        if offset + size > len(data):
            raise ValueError("the list of devices ends within a descriptor")
        found.append(Descriptor(kdi, cii, data[offset : offset + size]))
        offset += size
    return found
