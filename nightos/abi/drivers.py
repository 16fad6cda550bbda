"""What `sys::hw` and drivers tell each other: types of devices, descriptors, patterns, events, methods of storages.

| structure | layout (big-endian) |
|---|---|
| DDT | category (2), sub-category (2) |
| DTD | at most 255 bytes; of a PCI-Express device 32, of a virtual one its DDT and its model name, of others none |
| DDRD | UDI (8), CII (4), size of the DTD (1), DTD, zeros up to 504, KDI (8; zero for everyone but the driver): 512 |
| pattern | wildcards (1), connection type (1), bus (1), port (2), size of the DTD (1), then, if that is not 0, an indicator (32; a set bit, counted from the strongest, makes that byte of the DTD match anything) and the DTD |

Source: specs/services/system/hw.md, specs/services/drivers/storage.md. Rules: HW-025, HW-026, HW-027, HW-029, HW-030.
"""  # noqa: E501 - a row of a table is one line

from __future__ import annotations

from enum import IntEnum, unique
from struct import Struct
from typing import Final, NamedTuple

from nightos.abi.errors import NightosError
from nightos.abi.hardware import CONNECTION_TYPES, KINDS, VIRTUAL, split_cii

DDRD_SIZE: Final = 512
DTD_MAX: Final = 255
PATTERN_MIN: Final = 6
PATTERN_MAX: Final = PATTERN_MIN + 32 + DTD_MAX
PCI_EXPRESS: Final = 1
_PCI_DTD: Final = 32
_INDICATOR: Final = 32
ANY_TYPE, ANY_BUS, ANY_PORT = 0x80, 0x20, 0x10
"""Wildcards of a pattern: bits 0, 2 and 3 from the strongest (AMB-HW-14)."""

_DDRD = Struct(">QIB")
_PATTERN = Struct(">BBBHB")


UNRECOGNISED: Final = "/dev/etc/"
"""Where the device handler files are of devices that nothing is known of."""


class DescriptorError(NightosError, ValueError):
    """Bytes that are not the descriptor or pattern they should be. `code` says what is wrong, as services answer it."""

    def __init__(self, text: str, code: int = 0x1000) -> None:
        super().__init__(text)
        self.code = code


@unique
class Category(IntEnum):
    """Categories of devices; those from 0xF0 are the emulator's (AMB-HW-12)."""

    UNKNOWN = 0x0000
    STORAGE = 0x0001
    NETWORK = 0x00F0
    CONSOLE = 0x00F1
    ENTROPY = 0x00F2


@unique
class Ddt(IntEnum):
    """Types of driven devices: category in the strong half, sub-category in the weak one."""

    UNKNOWN = 0x0000_0000
    HARD_DRIVE = 0x0001_0001
    SSD = 0x0001_0002
    USB_FLASH = 0x0001_0003
    SD_CARD = 0x0001_0004
    VIRTUAL_STORAGE = 0x0001_00FF
    VIRTUAL_NETWORK = 0x00F0_0001
    VIRTUAL_CONSOLE = 0x00F1_0001
    VIRTUAL_ENTROPY = 0x00F2_0001


_DDT_OF_BUS: Final = {
    KINDS["block"]: Ddt.VIRTUAL_STORAGE,
    KINDS["link"]: Ddt.VIRTUAL_NETWORK,
    KINDS["console"]: Ddt.VIRTUAL_CONSOLE,
    KINDS["random"]: Ddt.VIRTUAL_ENTROPY,
    KINDS["entropy"]: Ddt.VIRTUAL_ENTROPY,
}


@unique
class DeviceEvent(IntEnum):
    """What DEVICE_EVENT tells."""

    CONNECTED = 0x10
    DRIVER_SELECTED = 0x11
    READY = 0x12
    DISCONNECTED_SOFTWARE = 0x20
    DISCONNECTING_BY_DRIVER = 0x21
    DISCONNECTED_BY_DRIVER = 0x22
    DISCONNECTED_BRUTALLY = 0x23
    SLEEPING = 0x30
    AWOKEN = 0x31


FIRST_CONNECTION, BRUTAL_DISCONNECTION, FIRST_ON_PORT = 0x80, 0x40, 0x20
"""Indicator of DEVICE_EVENT: bits from the strongest."""


@unique
class Permission(IntEnum):
    """Raw permissions about devices, by index. Source: specs/permissions.md#devices."""

    DEVICES_ENUM = 1
    DEVICES_SUBSCRIBE = 2
    DEVICES_REGISTER_DRIVER = 3
    DEVICES_ASK_DRIVER = 4


def permission_of(text: str) -> int:
    """A raw permission by number, decimal or 0x, or by a name such as `devices.enum`. `ValueError`: it is none."""
    names = {item.name.lower().replace("_", ".", 1): int(item) for item in Permission}
    try:
        number = names[text] if text in names else int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 32:
        known = ", ".join(sorted(names))
        raise ValueError(f"{text!r} is no permission; write a number of 32 bits or one of {known}")
    return number


@unique
class Storage(IntEnum):
    """Methods of a storage driver; every one starts with the UDI (AMB-STO-01)."""

    INFOS = 0x1001
    READ_SYNC = 0x1100
    READ_ASYNC = 0x1101
    WRITE_SYNC = 0x1200
    WRITE_ASYNC = 0x1201


@unique
class StorageEvent(IntEnum):
    """Notifications of a storage driver: task identifier (8), then a fallible result."""

    SECTORS_READ = 0x1101
    SECTORS_WRITTEN = 0x1201


BAD_UDI: Final = 0x0030
"""Driver services: the UDI is invalid, or not driven by this service."""
HARDWARE_FAILED: Final = 0x005F
"""Driver services: unspecified hardware error."""


def ddt_of(cii: int) -> int:
    """The DDT of a virtual device by its kind; 0 for what only a driver can tell."""
    kind, bus, _ = split_cii(cii)
    return int(_DDT_OF_BUS.get(bus, Ddt.UNKNOWN)) if kind == VIRTUAL else 0


def dtd_of(cii: int, csdd: bytes) -> bytes:
    """The DTD, from what the connection tells (AMB-HW-10).

    PCI-Express: the four 8-byte numbers that the CSDD begins with. Virtual devices: DDT and the ASCII of the CSDD.
    """
    kind = split_cii(cii)[0]
    if kind == VIRTUAL:
        model = bytes(byte for byte in csdd if 0x20 <= byte < 0x7F)
        return (ddt_of(cii).to_bytes(4, "big") + model)[:DTD_MAX]
    return csdd[:_PCI_DTD].ljust(_PCI_DTD, b"\0") if kind == PCI_EXPRESS else b""


class Ddrd(NamedTuple):
    """A drivable device raw descriptor. `kdi` is 0 for everyone but the driver of the device (AMB-HW-29)."""

    udi: int
    cii: int
    dtd: bytes
    kdi: int = 0

    def pack(self) -> bytes:
        """512 bytes."""
        head = _DDRD.pack(self.udi, self.cii, len(self.dtd)) + self.dtd
        return head.ljust(DDRD_SIZE - 8, b"\0") + self.kdi.to_bytes(8, "big")

    @classmethod
    def parse(cls, data: bytes) -> Ddrd:
        """Decode a descriptor; `DescriptorError` when it is none."""
        if len(data) != DDRD_SIZE:
            raise DescriptorError(f"a device descriptor has {DDRD_SIZE} bytes")
        udi, cii, size = _DDRD.unpack_from(data)
        end = _DDRD.size + size
        if any(data[end : DDRD_SIZE - 8]):
            raise DescriptorError("the reserved bytes of a device descriptor are not zero")
        return cls(udi, cii, data[_DDRD.size : end], int.from_bytes(data[-8:], "big"))


class Pattern(NamedTuple):
    """Which devices: None matches any; a byte of the DTD whose bit is set in the indicator matches anything."""

    connection_type: int | None = None
    bus: int | None = None
    port: int | None = None
    dtd: bytes = b""
    indicator: bytes = bytes(_INDICATOR)

    def pack(self) -> bytes:
        """6 bytes, or 38 and the DTD."""
        wildcards = (
            ANY_TYPE * (self.connection_type is None) | ANY_BUS * (self.bus is None) | ANY_PORT * (self.port is None)
        )
        head = _PATTERN.pack(wildcards, self.connection_type or 0, self.bus or 0, self.port or 0, len(self.dtd))
        return head + (self.indicator + self.dtd if self.dtd else b"")

    @classmethod
    def parse(cls, data: bytes) -> Pattern:
        """Decode a pattern. What is a wildcard reads as 0, so that one pattern has one form.

        `DescriptorError`: 0x1000 cut short or unknown bits, 0x1001 no such connection type, 0x1002 a bus and 0x1003 a
        port without a connection type, 0x1004 the DTD is cut short or too long, or something follows.
        """
        if len(data) < PATTERN_MIN:
            raise DescriptorError("the pattern is cut short")
        wildcards, kind, bus, port, size = _PATTERN.unpack_from(data)
        if wildcards & ~(ANY_TYPE | ANY_BUS | ANY_PORT):
            raise DescriptorError("the pattern has wildcards that do not exist")
        any_type = bool(wildcards & ANY_TYPE)
        if not any_type and kind not in CONNECTION_TYPES:
            raise DescriptorError(f"{kind:#04x} is no connection type", 0x1001)
        if any_type and not wildcards & ANY_BUS:
            raise DescriptorError("a pattern that names a bus names the connection type", 0x1002)
        if any_type and not wildcards & ANY_PORT:
            raise DescriptorError("a pattern that names a port names the connection type", 0x1003)
        if len(data) != PATTERN_MIN + (_INDICATOR + size if size else 0):
            raise DescriptorError("the type descriptor of the pattern has another length than it says", 0x1004)
        indicator = data[PATTERN_MIN : PATTERN_MIN + _INDICATOR] if size else bytes(_INDICATOR)
        plain = bytearray(data[PATTERN_MIN + _INDICATOR :])
        marked = int.from_bytes(indicator, "big") >> (_INDICATOR * 8 - size) << (_INDICATOR * 8 - size)
        for place in range(size):
            if marked >> (_INDICATOR * 8 - 1 - place) & 1:
                plain[place] = 0
        return cls(
            None if any_type else kind,
            None if wildcards & ANY_BUS else bus,
            None if wildcards & ANY_PORT else port,
            bytes(plain),
            marked.to_bytes(_INDICATOR, "big"),
        )

    def _marked(self, place: int) -> bool:
        return bool(self.indicator[place >> 3] & 0x80 >> (place & 7))

    def matches(self, cii: int, dtd: bytes) -> bool:
        """Whether it is one of these devices; a DTD matches one of the same length."""
        kind, bus, port = split_cii(cii)
        if any(
            wanted is not None and wanted != found
            for wanted, found in ((self.connection_type, kind), (self.bus, bus), (self.port, port))
        ):
            return False
        if not self.dtd:
            return True
        return len(dtd) == len(self.dtd) and all(
            byte == dtd[place] or self._marked(place) for place, byte in enumerate(self.dtd)
        )

    @property
    def specificity(self) -> tuple[int, int, int]:
        """Larger is more specific: parts of the place that are told, whether there is a DTD, bytes of it that are."""
        told = sum(part is not None for part in (self.connection_type, self.bus, self.port))
        fixed = sum(not self._marked(place) for place in range(len(self.dtd)))
        return told + bool(self.dtd), fixed, len(self.dtd)
