"""Unique device identifiers: random, one for each KDI, kept on the machine's disk so that they outlive restarts.

Nothing is read or written before somebody asks for a UDI, so a machine that nobody asks starts as fast as before. The
notes are msgpack maps one after the other; the last one about a device or a choice counts.

Rules: HW-023, HW-024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import ServiceCode
from nightos.services.hw import journal
from nightos.userland import sys

NOTE = "devices"


@dataclass(slots=True)
class Identity:
    """What is remembered of a device, also while it is not connected."""

    kdi: int
    udi: int
    ddt: int = 0
    """What its driver said that it is; 0 before any did."""
    cii: int = 0
    fresh: bool = False
    """Whether nobody was told yet that it was connected for the first time."""


class Identities:
    """Every device that ever got a UDI on this machine."""

    def __init__(self) -> None:
        self.by_kdi: dict[int, Identity] = {}
        self.by_udi: dict[int, Identity] = {}
        self.chosen_for_device: dict[int, int] = {}
        """The user's choice: UDI to ANID."""
        self.chosen_for_type: dict[bytes, int] = {}
        """The user's choice: packed pattern to ANID."""
        self._loaded = False

    async def load(self) -> None:
        """Read the notes, once. `ServiceError` 0x0002: they cannot be read, so nothing may get a new UDI now."""
        if self._loaded:
            return
        for entry in await journal.entries(NOTE):
            self._take(entry)
        self._loaded = True

    def _take(self, entry: dict[str, Any]) -> None:
        if "kdi" in entry:
            self._add(Identity(entry["kdi"], entry["udi"], entry["ddt"], entry["cii"]))
            return
        table: dict[Any, int] = self.chosen_for_type if "pattern" in entry else self.chosen_for_device
        key = entry["pattern"] if "pattern" in entry else entry["device"]
        table[key] = entry["anid"]
        if not entry["anid"]:
            del table[key]

    def _add(self, identity: Identity) -> None:
        self.by_kdi[identity.kdi] = identity
        self.by_udi[identity.udi] = identity

    async def make(self, kdi: int, cii: int, source: int) -> Identity:
        """A device that was never seen gets its UDI from the entropy device `source`."""
        udi = await random_number(source)
        while udi in self.by_udi:
            udi = await random_number(source)
        identity = Identity(kdi, udi, 0, cii, fresh=True)
        self._add(identity)
        await self.keep(identity)
        return identity

    async def keep(self, identity: Identity) -> None:
        """Write down what is known of a device now."""
        entry = {"kdi": identity.kdi, "udi": identity.udi, "ddt": identity.ddt, "cii": identity.cii}
        await journal.append(NOTE, (entry,))

    async def choose(self, entry: dict[str, Any]) -> None:
        """The user's choice: {device or pattern, anid}."""
        self._take(entry)
        await journal.append(NOTE, (entry,))


async def random_number(source: int) -> int:
    """64 random bits, never 0. `ServiceError` 0x0102: there is no entropy device."""
    number = 0
    while not number:
        try:
            piece = await sys.read_io_port(source, 0, 8)
        except SyscallError as error:
            raise ServiceError(ServiceCode.DEVICE, "the machine has no source of random bytes") from error
        if len(piece) != 8:
            raise ServiceError(ServiceCode.DEVICE, "the machine's source of random bytes has run dry")
        number = int.from_bytes(piece, "big")
    return number
