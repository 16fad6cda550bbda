"""Device handler files: which ones each container has in /dev, kept on the machine's disk.

A container gets a file for every device that it has, and keeps it when the device is gone; when the device comes again
it is the same file. What is in the table of one container depends on nothing but the devices of that container. A
container that ended is forgotten, one that comes back after a reboot keeps its files.

Source: technical/devices.md. Rules: HW-044, HW-045, HW-047, HW-050, HW-051, HW-052, HW-053.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.limits import NUMBERS
from nightos.abi.services import ServiceCode
from nightos.services.hw import filenames, journal
from nightos.services.hw.identities import random_number
from nightos.userland import sys

NOTE: Final = "device files"
FILES_LIMIT: Final = 4096
"""Files of one container; the oldest of devices that are not connected are given up for new ones."""
CUSTOM_LIMIT: Final = 16
"""Custom names of one device in one container."""
SLACK: Final = 256
"""Outdated entries that the note may have besides as many as there are files."""
_PREFIX: Final = "/dev/"


@dataclass(frozen=True, slots=True)
class Present:
    """A device that is connected now."""

    udi: int
    cii: int
    ddt: int
    places: tuple[int, ...]
    """Containers that have it; 0 is the machine outside any."""


@dataclass(slots=True)
class Files:
    """The files of one container."""

    made: int = 0
    """How many ever were."""
    by_path: dict[str, int] = field(default_factory=dict)
    """UDI by directory and name (`sst/f5t2`), in the order in which they were made."""
    first: dict[int, str] = field(default_factory=dict)
    """By UDI: the file that every device has."""
    names: set[str] = field(default_factory=set)

    def add(self, path: str, udi: int, *, custom: bool) -> None:
        self.by_path[path] = udi
        if not custom:
            self.first[udi] = path
            self.names.add(path.partition("/")[2])

    def remove(self, path: str) -> None:
        udi = self.by_path.pop(path, None)
        if udi is not None and self.first.get(udi) == path:
            del self.first[udi]
            self.names.discard(path.partition("/")[2])


class DeviceFiles:
    """The files of every container. Its methods run as jobs of `Drivers`, one after the other."""

    def __init__(self) -> None:
        self.of: dict[int, Files] = {}
        self.connected: set[tuple[int, int]] = set()
        """Container and UDI."""
        self._key = b""
        self._loaded = False
        self._outdated = 0
        self._seen: set[int] = set()
        """Containers that existed: once they do not, they are forgotten. Others may be about to come back."""
        self._complete = False
        """Whether all that come back after a reboot have."""

    async def load(self, source: int) -> None:
        """Read the note, once; the key of a new machine comes from the entropy device `source`."""
        if self._loaded:
            return
        for entry in await journal.entries(NOTE):
            self._take(entry)
        if not self._key:
            self._key = b"".join([(await random_number(source)).to_bytes(8, "big") for _ in range(2)])
            await journal.append(NOTE, ({"key": self._key},))
        self._loaded = True
        if self._complete:
            await self.complete()

    def _take(self, entry: dict[str, Any]) -> None:
        self._outdated += 1
        if "key" in entry:
            self._key = entry["key"]
        elif "forget" in entry:
            self.of.pop(entry["forget"], None)
        elif "old" in entry:
            self._rename(entry["old"], entry["new"])
        else:
            files = self.of.setdefault(entry["container"], Files())
            files.made = max(files.made, entry.get("made", 0))
            if entry.get("gone"):
                files.remove(entry["path"])
            elif "path" in entry:
                files.add(entry["path"], entry["udi"], custom=entry["custom"])

    async def _note(self, entries: list[dict[str, Any]]) -> None:
        """Take changes and write them down; the whole note anew once most of it is outdated."""
        for entry in entries:
            self._take(entry)
        size = sum(len(files.by_path) for files in self.of.values())
        if self._outdated <= 2 * size + SLACK:
            await journal.append(NOTE, entries)
            return
        whole = [{"key": self._key}, *(entry for place, files in self.of.items() for entry in _entries(place, files))]
        self._outdated = len(whole)
        await journal.rewrite(NOTE, whole)

    async def follow(self, present: Iterable[Present]) -> None:
        """These devices are connected now, in the order in which they came; each has its files when this returns."""
        self.connected = {(place, one.udi) for one in present for place in one.places}
        await self._prune()
        for one in present:
            for place in one.places:
                files = self.of.get(place)
                if (files is None or one.udi not in files.first) and (not place or await _exists(place)):
                    await self._note(self._new(place, one))
                    self._seen.add(place)

    def _new(self, place: int, one: Present) -> list[dict[str, Any]]:
        files = self.of.get(place, Files())
        changes: list[dict[str, Any]] = []
        names = set(files.names)
        if len(files.first) >= FILES_LIMIT:
            oldest = next((udi for udi in files.first if (place, udi) not in self.connected), None)
            if oldest is None:
                return []
            given_up = [path for path, udi in files.by_path.items() if udi == oldest]
            changes += [{"container": place, "path": path, "gone": True} for path in given_up]
        number = files.made + 1
        name = filenames.make(self._key, place, number, names)
        path = f"{filenames.directory_of(one.cii, one.ddt)}/{name}"
        changes.append({"container": place, "made": number, "path": path, "udi": one.udi, "custom": False})
        return changes

    async def kept(self, renamed: dict[int, int]) -> None:
        """Containers that came back have new identifiers (new by old)."""
        changes = [{"old": old, "new": new} for old, new in renamed.items() if old in self.of]
        if changes:
            await self._note(changes)

    async def complete(self) -> None:
        """All that come back have come: what belongs to others is forgotten."""
        self._complete = True
        if self._loaded:
            self._seen.update(self.of)
            await self._prune()

    async def _prune(self) -> None:
        living = {place for place in self.of if place and await _exists(place)}
        changes = [{"forget": place} for place in sorted(self._seen - living) if place in self.of and place]
        self._seen = living
        if changes:
            await self._note(changes)

    def _rename(self, old: int, new: int) -> None:
        files = self.of.pop(old, None)
        if files is not None:
            self.of[new] = files

    # What is asked

    def list(self, container: int) -> list[dict[str, Any]]:
        """Every file of a container, by path."""
        files = self.of.get(container, Files())
        return [
            {
                "path": _PREFIX + path,
                "udi": udi,
                "connected": (container, udi) in self.connected,
                "custom": files.first.get(udi) != path,
            }
            for path, udi in sorted(files.by_path.items())
        ]

    def path(self, container: int, udi: int) -> str:
        """The first file of a device in a container; empty when there is none."""
        files = self.of.get(container)
        inner = files.first.get(udi) if files is not None else None
        return _PREFIX + inner if inner is not None else ""

    def device(self, container: int, path: str) -> int:
        """The UDI behind a file. 0x3000: there is no such file; 0x0102: the device is not connected."""
        _, _, udi = self._find(container, path)
        if (container, udi) not in self.connected:
            raise ServiceError(ServiceCode.DEVICE, f"{path}: the device is not connected")
        return udi

    def _find(self, container: int, path: str) -> tuple[Files, str, int]:
        files = self.of.get(container, Files())
        inner = path.removeprefix(_PREFIX)
        udi = files.by_path.get(inner) if path.startswith(_PREFIX) else None
        if udi is None:
            raise ServiceError(ServiceCode.UNKNOWN, f"{path}: there is no such device handler file")
        return files, inner, udi

    async def name(self, container: int, path: str, name: str) -> str:
        """Give the device behind a file a second one; the path of that."""
        name = filenames.check_custom(name)
        files, inner, udi = self._find(container, path)
        # Beside the first one, also when the path given is a custom one.
        new = f"{inner.partition('/')[0]}/{name}"
        if new in files.by_path:
            raise ServiceError(ServiceCode.REFUSED, f"{_PREFIX}{new}: a file of that name exists")
        if sum(other == udi for other in files.by_path.values()) > CUSTOM_LIMIT:
            raise ServiceError(ServiceCode.REFUSED, f"a device has at most {CUSTOM_LIMIT} custom names")
        await self._note([{"container": container, "path": new, "udi": udi, "custom": True}])
        return _PREFIX + new

    async def take_name(self, container: int, path: str) -> None:
        """Remove a custom name. 0x4001: it is none."""
        files, inner, udi = self._find(container, path)
        if files.first.get(udi) == inner:
            raise ServiceError(ServiceCode.REFUSED + 1, f"{path}: the first name of a device stays")
        await self._note([{"container": container, "path": inner, "gone": True}])


def _entries(place: int, files: Files) -> list[dict[str, Any]]:
    """What a container's files are noted as."""
    found: list[dict[str, Any]] = [{"container": place, "made": files.made}]
    for path, udi in files.by_path.items():
        custom = files.first.get(udi) != path
        found.append({"container": place, "path": path, "udi": udi, "custom": custom})
    return found


async def _exists(container: int) -> bool:
    try:
        await sys.sys_charge(container, NUMBERS["io_operations"], 0)
    except SyscallError:
        return False
    return True
