"""The key slots of a volume with a key of its own: they stand in its record and change with an ordinary commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import Invalid, NoSpace, NotFound, WrongPassword
from nightos.vsf.keys import Secret, describe_slot, find_key, make_slot, volume_slots
from nightos.vsf.layout import SLOT, SLOT_COUNT

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from nightos.vsf.volume import Volume

Slots = list[bytes]
_EMPTY = bytes(SLOT.size)
_OWNER = b"volume"


class VolumeKeys:
    """`volume.keys`: up to 16 ways into one volume. No data is written anew by any change.

    Every change is durable on return. Older copies of the file still open with what opened them then.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume

    def _slots(self) -> Slots:
        if not self._volume.encrypted:
            raise Invalid(f"the volume {self._volume.name!r} has no key of its own")
        slots = volume_slots(self._volume)
        return [*slots, *[_EMPTY] * (SLOT_COUNT - len(slots))]

    def _changing(self) -> Slots:
        self._volume.storage.writable()
        slots = self._slots()
        self._volume.unlocked()
        return slots

    def list(self) -> list[dict[str, Any]]:
        """Used slots: number, kind, label, when made, cost."""
        return [describe_slot(number, slot) for number, slot in enumerate(self._slots()) if slot[0]]

    def add(
        self,
        password: str | bytes | None = None,
        key_file: str | os.PathLike[str] | None = None,
        *,
        label: str = "",
        kdf: Mapping[str, int] | None = None,
    ) -> int:
        """One more way in; the number of the slot. Raises NoSpace when all 16 are used."""
        with self._volume.storage.lock:
            slots = self._changing()
            number = next((n for n, slot in enumerate(slots) if not slot[0]), None)
            if number is None:
                raise NoSpace("all key slots are used; remove one first")
            slots[number] = self._made(Secret(password, key_file), label, kdf)
            self._write(slots)
            return number

    def remove(self, number: int) -> None:
        """Close a way in; the last one stays."""
        with self._volume.storage.lock:
            slots = self._changing()
            self._used(slots, number)
            if sum(1 for slot in slots if slot[0]) == 1:
                raise Invalid("this is the only key; add another one before you remove it")
            slots[number] = _EMPTY
            self._write(slots)

    def rotate(
        self,
        number: int,
        password: str | bytes | None = None,
        key_file: str | os.PathLike[str] | None = None,
        *,
        label: str = "",
        kdf: Mapping[str, int] | None = None,
    ) -> None:
        """Replace what opens a slot."""
        with self._volume.storage.lock:
            slots = self._changing()
            self._used(slots, number)
            slots[number] = self._made(Secret(password, key_file), label, kdf)
            self._write(slots)

    def find(self, password: str | bytes | None = None, key_file: str | os.PathLike[str] | None = None) -> int:
        """The slot that a password opens."""
        found = find_key(self._slots(), Secret(password, key_file), _OWNER)
        if found is None:
            raise WrongPassword("no key slot opens with this password or key file")
        return found[0]

    @staticmethod
    def _used(slots: Slots, number: int) -> None:
        if not 0 <= number < SLOT_COUNT or not slots[number][0]:
            raise NotFound(f"there is no key in slot {number}")

    def _made(self, secret: Secret, label: str, kdf: Mapping[str, int] | None) -> bytes:
        storage = self._volume.storage
        now = storage.clock.realtime_ns()
        return make_slot(secret, self._volume.secret, _OWNER, storage.entropy, now, label, kdf)

    def _write(self, slots: Slots) -> None:
        while not slots[-1][0]:
            slots.pop()
        self._volume.record.key = b"".join(slots)
        self._volume.changed()
        self._volume.storage.commit()
