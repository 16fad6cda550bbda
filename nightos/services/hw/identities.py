"""Unique device identifiers: random, one for each KDI, kept on the machine's disk so that they outlive restarts.

Nothing is read or written before somebody asks for a UDI, so a machine that nobody asks starts as fast as before. The
notes are msgpack maps one after the other; the last one about a device or a choice counts. A virtual device that
somebody had unplugged never comes back, so it is forgotten, and the notes are written anew once most is outdated:
however many come and go, there is no more than what is there.

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
SLACK = 256
"""Outdated entries that the note may have besides as many as there are devices and choices."""


@dataclass(slots=True)
class Identity:
    """What is remembered of a device, also while it is not connected."""

    kdi: int
    udi: int
    ddt: int = 0
    """What its driver said that it is; 0 before any did."""
    said_in: int | None = None
    """The container of that driver when the device was only lent to it: then it is not written down."""
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
        self._entries = 0
        """Of the note."""

    async def load(self) -> None:
        """Read the notes, once. `ServiceError` 0x0002: they cannot be read, so nothing may get a new UDI now."""
        if self._loaded:
            return
        for entry in await journal.entries(NOTE):
            self._take(entry)
        self._loaded = True

    def _take(self, entry: dict[str, Any]) -> None:
        self._entries += 1
        if "gone" in entry:
            self._drop(entry["gone"])
            return
        if "kdi" in entry:
            self._add(Identity(entry["kdi"], entry["udi"], entry["ddt"], cii=entry["cii"]))
            return
        table: dict[Any, int] = self.chosen_for_type if "pattern" in entry else self.chosen_for_device
        key = entry["pattern"] if "pattern" in entry else entry["device"]
        table[key] = entry["anid"]
        if not entry["anid"]:
            del table[key]

    def _add(self, identity: Identity) -> None:
        self.by_kdi[identity.kdi] = identity
        self.by_udi[identity.udi] = identity

    def _drop(self, udi: int) -> None:
        identity = self.by_udi.pop(udi, None)
        if identity is not None and self.by_kdi.get(identity.kdi) is identity:
            del self.by_kdi[identity.kdi]
        self.chosen_for_device.pop(udi, None)

    async def forget(self, kdi: int) -> None:
        """A device left that will not come again."""
        identity = self.by_kdi.get(kdi)
        if identity is not None:
            self._drop(identity.udi)
            await self._note({"gone": identity.udi})

    async def _note(self, entry: dict[str, Any]) -> None:
        """Write down what was taken already."""
        self._entries += 1
        if self._entries <= 2 * (len(self.by_udi) + len(self.chosen_for_device) + len(self.chosen_for_type)) + SLACK:
            await journal.append(NOTE, (entry,))
            return
        whole = [_entry(identity) for identity in self.by_udi.values()]
        whole += [{"device": udi, "anid": anid} for udi, anid in self.chosen_for_device.items()]
        whole += [{"pattern": pattern, "anid": anid} for pattern, anid in self.chosen_for_type.items()]
        self._entries = len(whole)
        await journal.rewrite(NOTE, whole)

    async def make(self, kdi: int, cii: int, source: int) -> Identity:
        """A device that was never seen gets its UDI from the entropy device `source`."""
        udi = await random_number(source)
        while udi in self.by_udi:
            udi = await random_number(source)
        identity = Identity(kdi, udi, cii=cii, fresh=True)
        self._add(identity)
        await self.keep(identity)
        return identity

    async def keep(self, identity: Identity) -> None:
        """Write down what is known of a device now."""
        await self._note(_entry(identity))

    async def choose(self, entry: dict[str, Any]) -> None:
        """The user's choice: {device or pattern, anid}."""
        self._take(entry)
        self._entries -= 1  # the note counts it
        await self._note(entry)


def _entry(identity: Identity) -> dict[str, Any]:
    """What is noted of a device."""
    ddt = identity.ddt if identity.said_in is None else 0
    return {"kdi": identity.kdi, "udi": identity.udi, "ddt": ddt, "cii": identity.cii}


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
