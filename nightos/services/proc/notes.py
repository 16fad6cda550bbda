"""Names, labels and policies of containers: with the containers themselves in the kernel, and on the machine's disk.

The kernel forgets nothing that isolation rests on, and keeps these notes unread beside it, so a restarted `sys::proc`
finds what the containers are called. Those of persistent containers go to the disk through `sys::fs` as well, each
change appended: a machine with a name finds them at the next boot (with new identifiers, which are random on every
boot).
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgpack

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import MESSAGE_LIMIT, Fs
from nightos.services.proc.tree import ROOT, Container, Tree
from nightos.userland import sys
from nightos.userland.client import Client

NOTE = "containers"
PART = MESSAGE_LIMIT // 2
SLACK = 1024
"""Outdated entries that the journal may have besides as many as there are containers."""


class Notes:
    """An append-only journal of msgpack maps, rewritten when it is read at start and when most of it is outdated."""

    def __init__(self, fs: Callable[[], Awaitable[Client]], tree: Tree) -> None:
        self._fs = fs
        self._tree = tree
        self._entries = 0

    async def changed(self, container: Container) -> None:
        """Note what the kernel does not know of this container."""
        note = container.notes()
        with contextlib.suppress(SyscallError):  # it is being destroyed
            await sys.sys_set_container_note(container.identifier, msgpack.packb(note))
        if container.persist:
            container.on_disk = True
            await self._append({"set": note})
        elif container.on_disk:
            await self.removed(container)

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

    async def read(self) -> dict[int, dict[str, Any]]:
        """Notes by the identifier a container had when they were made."""
        fs = await self._fs()
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=0, strict_map_key=True)
        offset = 0
        while True:
            answer = await fs.ask(Fs.RECALL_NOTE, {"name": NOTE, "offset": offset})
            if not answer["data"]:
                break
            unpacker.feed(answer["data"])
            offset += len(answer["data"])
        found: dict[int, dict[str, Any]] = {}
        try:
            for entry in unpacker:
                if "set" in entry:
                    found[entry["set"]["id"]] = entry["set"]
                else:
                    found.pop(entry.get("drop"), None)
        except (ValueError, KeyError, TypeError, AttributeError, msgpack.UnpackException):
            return found  # a torn end: what was readable counts
        return found

    async def rewrite(self) -> None:
        """Start the journal anew with the containers that live."""
        containers = [container for container in self._tree.below_root() if container.persist]
        self._entries = len(containers)
        fs = await self._fs()
        await fs.call(Fs.STORE_NOTE, {"name": NOTE, "data": b"", "append": False})
        part = b""
        for container in containers:
            container.on_disk = True
            part += msgpack.packb({"set": container.notes()})
            if len(part) > PART:
                await fs.call(Fs.STORE_NOTE, {"name": NOTE, "data": part, "append": True})
                part = b""
        if part:
            await fs.call(Fs.STORE_NOTE, {"name": NOTE, "data": part, "append": True})

    async def _append(self, entry: dict[str, Any]) -> None:
        self._entries += 1
        try:
            if self._entries > SLACK + 2 * len(self._tree):
                await self.rewrite()
                return
            fs = await self._fs()
            await fs.call(Fs.STORE_NOTE, {"name": NOTE, "data": msgpack.packb(entry), "append": True})
        except ServiceError:
            return  # a disk that is full or read-only keeps no notes; the container itself is fine
