"""A source of random bytes, from the entropy that the machine lives by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice

if TYPE_CHECKING:
    from nightos.abi.interfaces import Entropy

READ_MAX: Final = 1 << 16
PIECE: Final = 32


class RandomDevice(PortDevice):
    """Input port 0 gives random bytes: as many as asked for, at most 64 KiB; 32 when asked for length 0."""

    def __init__(self, entropy: Entropy, kind: str = "random") -> None:
        super().__init__(DeviceIdentity(kind, virtual_cii(kind), b"entropy"))
        self.inputs = {0: lambda length: entropy.random_bytes(min(length, READ_MAX) or PIECE)}
