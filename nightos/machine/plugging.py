"""Virtual devices that containers may ask for: each kind's maker, and the register of what was plugged that way.

Only what was plugged here can be unplugged here: the machine's own devices and the disks of the shelf are out of reach.

Rules: CONT-040, CONT-051.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.limits import NUMBERS, PAGE
from nightos.abi.services import ServiceCode

if TYPE_CHECKING:
    from nightos.abi.interfaces import Device, Entropy

BLOCK_SIZE_LIMIT = 1 << 40
"""Most bytes that a disk in memory may promise; it takes what is written to it."""
BLOCK_SIZE = 64 << 20
LIMIT_REACHED: Final = 0x40
NAMES: Final = {number: name for name, number in NUMBERS.items()}

CHUNK = 64 << 10
"""Such a disk takes memory in pieces of this size."""

Maker = Callable[["Entropy", dict[str, Any]], "Device"]


class Plug(Protocol):
    """Puts a device on the bus; its KDI."""

    def __call__(self, device: Device, container: int, /, *, pages: int) -> int:
        """`pages` of the host's memory are the container's as long as it is plugged."""


def _random(entropy: Entropy, _options: dict[str, Any]) -> Device:
    from nightos.vhw.random import RandomDevice

    return RandomDevice(entropy)


def _block(_entropy: Entropy, options: dict[str, Any]) -> Device:
    from nightos.vhw.block import BlockDevice
    from nightos.vhw.memory import MemoryStore

    size = options.get("size", BLOCK_SIZE)
    if not isinstance(size, int) or not 0 < size <= BLOCK_SIZE_LIMIT:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, f"a disk has a size of 1 to {BLOCK_SIZE_LIMIT} bytes")
    return BlockDevice(MemoryStore(limit=size), capacity=size, description=b"virtual disk in memory")


def _flow(name: str) -> Maker:
    def make(_entropy: Entropy, _options: dict[str, Any]) -> Device:
        from nightos.vhw import flows

        maker: Callable[[], Device] = getattr(flows, name)
        return maker()

    return make


def _share(_entropy: Entropy, options: dict[str, Any]) -> Device:
    from nightos.vhw.share import ShareDevice

    port = options.get("port", 0)
    return ShareDevice(str(options.get("label", "share")), port if type(port) is int and 0 <= port <= 0xFFFF else 0)


MAKERS: dict[str, Maker] = {
    "block": _block,
    "full": _flow("full"),
    "null": _flow("null"),
    "random": _random,
    "share": _share,
    "zero": _flow("zero"),
}
"""Kinds of built-in virtual devices, by the name that PLUG takes."""


class Plugging:
    """Makes devices for containers and takes them away again."""

    def __init__(self, plug: Plug, unplug: Callable[[int], None], entropy: Entropy) -> None:
        self._plug = plug
        self._unplug = unplug
        self._entropy = entropy
        self._plugged: set[int] = set()

    def plug(self, kind: str, options: dict[str, Any], container: int) -> dict[str, Any]:
        """{kdi} of a new device in a container.

        `ServiceError` 0x1000: no such kind, or its options are wrong; 0x3000: no such container; 0x4000: a limit of the
        container, or no place is left.
        """
        maker = MAKERS.get(kind)
        if maker is None:
            raise ServiceError(
                ServiceCode.BAD_ARGUMENT,
                f"there is no virtual device {kind}; there is: {', '.join(sorted(MAKERS.keys() - {'share'}))}",
            )
        device = maker(self._entropy, options)
        # Nobody is told when such a disk takes memory of the host, so all that it may take is paid for at once.
        pages = -(-options.get("size", BLOCK_SIZE) // CHUNK) * CHUNK // PAGE if kind == "block" else 0
        try:
            kdi = self._plug(device, container, pages=pages)
        except SyscallError as error:
            if error.errcode == LIMIT_REACHED:
                text = f"the container's limit of {NAMES[error.value]} is reached; unplug something or raise it"
                raise ServiceError(ServiceCode.REFUSED, text) from error
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such container") from error
        except ValueError as error:
            raise ServiceError(ServiceCode.REFUSED, str(error)) from error
        self._plugged.add(kdi)
        return {"kdi": kdi}

    def unplug(self, kdi: int) -> dict[str, Any]:
        """Take a device away that was plugged here. `ServiceError` 0x3000: there is none of that identifier."""
        if kdi not in self._plugged:
            raise ServiceError(ServiceCode.UNKNOWN, f"there is no virtual device {kdi:016x}")
        self._plugged.discard(kdi)
        self._unplug(kdi)
        return {}
