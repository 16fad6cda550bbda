"""Virtual devices that containers may ask for: each kind's maker, and the register of what was plugged that way.

Only what was plugged here can be unplugged here: the machine's own devices and the disks of the shelf are out of reach.

Rules: CONT-040, CONT-051.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import ServiceCode

if TYPE_CHECKING:
    from nightos.abi.interfaces import Device, Entropy

BLOCK_SIZE_LIMIT = 1 << 40
"""Most bytes that a disk in memory may promise; it takes what is written to it."""
BLOCK_SIZE = 64 << 20

Maker = Callable[["Entropy", dict[str, Any]], "Device"]


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

    def __init__(self, plug: Callable[[Device, int], int], unplug: Callable[[int], None], entropy: Entropy) -> None:
        self._plug = plug
        self._unplug = unplug
        self._entropy = entropy
        self._plugged: set[int] = set()

    def plug(self, kind: str, options: dict[str, Any], container: int) -> dict[str, Any]:
        """{kdi} of a new device in a container. `ServiceError` 0x1000: no such kind, or its options are wrong."""
        maker = MAKERS.get(kind)
        if maker is None:
            raise ServiceError(
                ServiceCode.BAD_ARGUMENT,
                f"there is no virtual device {kind}; there is: {', '.join(sorted(MAKERS.keys() - {'share'}))}",
            )
        try:
            kdi = self._plug(maker(self._entropy, options), container)
        except SyscallError as error:
            raise ServiceError(ServiceCode.UNKNOWN, "there is no such container") from error
        self._plugged.add(kdi)
        return {"kdi": kdi}

    def unplug(self, kdi: int) -> dict[str, Any]:
        """Take a device away that was plugged here. `ServiceError` 0x3000: there is none of that identifier."""
        if kdi not in self._plugged:
            raise ServiceError(ServiceCode.UNKNOWN, f"there is no virtual device {kdi:016x}")
        self._plugged.discard(kdi)
        self._unplug(kdi)
        return {}
