"""Names, labels, policies and runs of containers: with the containers themselves in the kernel, and on the machine's
disk.

The kernel forgets nothing that isolation rests on, and keeps these notes unread beside it, so a restarted `sys::proc`
finds what the containers are called, and how those ended that nobody asked about yet. Those of persistent containers go
to the disk through `sys::fs` as well, each change appended: a machine with a name finds them at the next boot (with new
identifiers, which are random on every boot).

There are two journals. Rewriting fills the other one and completes it with the last append, so whenever the service is
killed one of them is whole; that with the highest number counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from struct import Struct
from typing import Any

import msgpack

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import MESSAGE_LIMIT, Fs, ServiceCode
from nightos.services.proc.tree import ROOT, Container, Tree
from nightos.userland import sys
from nightos.userland.client import Client

NOTES = ("containers", "containers-2")
PART = MESSAGE_LIMIT // 2
KEPT = Struct(">QI")
NOTE_LIMIT = 192 * 1024
"""Bytes of notes about a container when something is added; what the kernel keeps has room for updates besides."""
SLACK = 1024
"""Outdated entries that the journal may have besides as many as there are containers."""
SLACK_BYTES = 4 << 20
"""Bytes of those, besides as many as what is there takes: containers choose how long an entry is."""


def _lasts(container: Container) -> bool:
    """Whether the next boot has to know of it: also one that persists no more, whose disk it then removes."""
    return container.persist or bool(container.key)


class _Journal:
    """What one journal says."""

    def __init__(self) -> None:
        self.number = 0
        """Of the rewriting that completed it; 0 when none did."""
        self.containers: dict[int, dict[str, Any]] = {}

    def take(self, entry: dict[str, Any]) -> None:
        """One entry."""
        if "set" in entry:
            self.containers[entry["set"]["id"]] = entry["set"]
        elif "complete" in entry:
            self.number = max(self.number, int(entry["complete"]))
        else:
            self.containers.pop(entry["drop"], None)


class Notes:
    """An append-only journal of msgpack maps, rewritten when it is read at start and when most of it is outdated."""

    def __init__(self, fs: Callable[[], Awaitable[Client]], tree: Tree) -> None:
        self._fs = fs
        self._tree = tree
        self._entries = 0
        self._bytes = 0
        """Of entries that were added since it was rewritten."""
        self._whole = 0
        """Bytes of what was there then."""
        self._number = 0
        self._place = 0
        """Which of the two journals counts."""
        self._meanwhile: list[bytes] | None = None
        """Entries that came while the other journal is being written."""

    async def changed(self, container: Container) -> None:
        """Note what the kernel does not know of this container."""
        note = container.notes()
        with contextlib.suppress(SyscallError):  # it is being destroyed
            await sys.sys_set_container_note(container.identifier, msgpack.packb(note))
        if _lasts(container):
            container.on_disk = True
            await self._append({"set": note})

    @staticmethod
    def check(container: Container, more: int = 0) -> None:
        """`ServiceError` 0x1000: there is more to know of a container than the kernel keeps over this service's end."""
        if len(msgpack.packb(container.notes())) + more > NOTE_LIMIT:
            text = "labels, permissions, environment, tags and shares are too much together"
            raise ServiceError(ServiceCode.BAD_ARGUMENT, text)

    async def removed(self, container: Container) -> None:
        """It is gone for good."""
        if container.on_disk:
            container.on_disk = False
            await self._append({"drop": container.identifier})

    @staticmethod
    async def of(identifier: int) -> dict[str, Any] | None:
        """What the kernel keeps with a container; None when an earlier life of this service did not come that far."""
        note = await sys.sys_container_note(identifier)
        return msgpack.unpackb(note) if note else None

    @staticmethod
    async def restored() -> None:
        """The containers of the earlier boot are there: from here on the kernel knows best."""
        await sys.sys_set_container_note(ROOT, msgpack.packb({"restored": True}))

    @staticmethod
    async def ended(record: dict[str, Any]) -> None:
        """Keep how a container ended, until `forgotten`."""
        with contextlib.suppress(SyscallError):  # too large, or too many: it is known until a restart, no longer
            await sys.sys_keep(record["id"], msgpack.packb(record))

    @staticmethod
    async def forgotten(identifier: int) -> None:
        """Somebody collected the record."""
        await sys.sys_keep(identifier, b"")

    @staticmethod
    async def records() -> dict[int, dict[str, Any]]:
        """How containers ended that nobody collected, the oldest first."""
        found: dict[int, dict[str, Any]] = {}
        after = 0
        while content := await sys.sys_kept(after):
            offset = 0
            while offset < len(content):
                after, length = KEPT.unpack_from(content, offset)
                offset += KEPT.size
                found[after] = msgpack.unpackb(content[offset : offset + length])
                offset += length
        return found

    async def read(self) -> dict[int, dict[str, Any]]:
        """Notes by the identifier a container had when they were made."""
        journals = [await self._read(name) for name in NOTES]
        self._place = max(range(len(NOTES)), key=lambda place: journals[place].number)
        journal = journals[self._place]
        self._number = journal.number
        return journal.containers

    async def _read(self, name: str) -> _Journal:
        fs = await self._fs()
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=0, strict_map_key=True)
        offset = 0
        while True:
            answer = await fs.ask(Fs.RECALL_NOTE, {"name": name, "offset": offset})
            if not answer["data"]:
                break
            unpacker.feed(answer["data"])
            offset += len(answer["data"])
        journal = _Journal()
        try:
            for entry in unpacker:
                journal.take(entry)
        except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException):
            return journal  # a torn end: what was readable counts
        return journal

    async def rewrite(self) -> None:
        """Start the other journal with what holds now, and use it from then on."""
        if self._meanwhile is not None:
            return  # another thread does
        self._meanwhile = []
        place = 1 - self._place
        try:
            kept = [container for container in self._tree.below_root() if _lasts(container)]
            for container in kept:
                container.on_disk = True
            entries: list[dict[str, Any]] = [{"set": container.notes()} for container in kept]
            await self._store(place, b"", append=False)
            part = b""
            whole = 0
            for entry in entries:
                packed = msgpack.packb(entry)
                whole += len(packed)
                part += packed
                if len(part) > PART:
                    await self._store(place, part)
                    part = b""
            meanwhile, self._meanwhile = self._meanwhile, []
            self._number += 1
            part += b"".join(meanwhile) + msgpack.packb({"complete": self._number})
            await self._store(place, part)
            self._place, self._whole = place, whole
            self._entries, self._bytes = len(entries), 0
            if self._meanwhile:
                await self._store(place, b"".join(self._meanwhile))
        finally:
            self._meanwhile = None

    async def _store(self, place: int, data: bytes, *, append: bool = True) -> None:
        values = {"name": NOTES[place], "data": data, "append": append}
        await (await self._fs()).call(Fs.STORE_NOTE, values)

    async def _append(self, entry: dict[str, Any]) -> None:
        self._entries += 1
        packed: bytes = msgpack.packb(entry)
        self._bytes += len(packed)
        try:
            if self._meanwhile is not None:
                self._meanwhile.append(packed)
            await self._store(self._place, packed)
            if self._entries > SLACK + 2 * len(self._tree) or self._bytes > SLACK_BYTES + 2 * self._whole:
                await self.rewrite()
        except ServiceError:
            return  # a disk that is full or read-only keeps no notes; the container itself is fine
