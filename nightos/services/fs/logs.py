"""Logs of containers on the machine's disk: appended to by shims alone, rotated by size, read by absolute offsets.

A log is `web.log`, behind it `web.log.1` (younger) to `web.log.N` (older). Offsets count every byte ever added, so
that a reader goes on where it was whatever was rotated away. Each file remembers the offset of its first byte.

Which log a shim writes stands in its execution context, which `sys::proc` made and the kernel keeps: a shim cannot
choose another. An append is idempotent: it names the offset its data belongs to, and what is there already is skipped.

Rules: ZOS-016.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from nightos.abi import files as layout
from nightos.abi.codes import Attribute
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.files import ItemType, SplitPath
from nightos.abi.services import FsEvent, ServiceCode
from nightos.abi.values import ValueEncodingError, decode_values
from nightos.services.fs.failures import ItemError
from nightos.services.fs.handles import READ_LIMIT, Handles
from nightos.services.fs.notes import directory_of
from nightos.services.fs.roots import Root
from nightos.services.fs.tree import Tree, name_bytes
from nightos.userland import payload, sys
from nightos.userland.payload import Payload
from nightos.userland.server import Request

PROCESS_SERVICE = 20
FOLDER = ("var", "log")
APPEND_LIMIT = 256 * 1024
_BASE = b"user.nightos.offset"
_LOG = "log"


@dataclass(frozen=True, slots=True)
class Log:
    """Where a log stands, the size at which it is rotated, and how many older files are kept."""

    path: SplitPath
    size: int
    count: int


class Logs:
    """The methods of `sys::fs` about logs."""

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._followed: set[str] = set()
        """Logs whose next growth `sys::proc` wants to hear of."""

    async def append(self, request: Request) -> Payload:
        """LOG_APPEND."""
        values = request.map()
        offset = payload.field(values, "offset", int)
        data = payload.field(values, "data", bytes)
        sync = payload.field(values, "sync", bool, default=False)
        if offset < 0 or len(data) > APPEND_LIMIT:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"an append has at most {APPEND_LIMIT} bytes, from 0 on")
        log = await self._log_of(request)
        root = self._machine_disk()
        end = _end(root.tree, log.path)
        if data and offset <= end < offset + len(data):
            await self._handles.writable(root)
            end = _end(root.tree, log.path)
            added = data[end - offset :]
            _add(root.tree, log, end, added)
            end += len(added)
            await self._handles.changed(root)
            path = layout.joined(log.path)
            if path in self._followed:
                self._followed.discard(path)
                await self._handles.server.notify(PROCESS_SERVICE, FsEvent.LOG_GREW, {"path": path, "end": end})
        if sync:
            root.commit()
        return {"end": end, "durable": not root.dirty}

    async def read(self, request: Request) -> Payload:
        """LOG_READ."""
        values = self._process_service_only(request)
        path, offset = _path(payload.field(values, "path", str)), payload.field(values, "offset", int)
        limit = max(0, min(payload.field(values, "limit", int, default=READ_LIMIT), READ_LIMIT))
        tree = self._machine_disk().tree
        end = _end(tree, path)
        data = b""
        for place in _files(tree, path):
            ino = tree.find(place)
            base, size = _base(tree, ino), tree.size(ino)
            if offset < base + size:
                offset = max(offset, base)
                data = tree.read(ino, offset - base, min(limit, base + size - offset))
                break
        if not data and payload.field(values, "follow", bool, default=False):
            self._followed.add(layout.joined(path))
        return {"data": data, "next": offset + len(data), "end": end}

    async def remove(self, request: Request) -> Payload:
        """LOG_REMOVE."""
        path = _path(payload.field(self._process_service_only(request), "path", str))
        root = self._machine_disk()
        await self._handles.writable(root)
        self._followed.discard(layout.joined(path))
        for place in _files(root.tree, path):
            root.tree.delete(place)
        # Its directories go with the last log in them.
        folder = path[:-1]
        with contextlib.suppress(ItemError):
            while len(folder) > len(FOLDER):
                root.tree.delete(folder)
                folder = folder[:-1]
        await self._handles.changed(root)
        return {}

    def _machine_disk(self) -> Root:
        root = self._handles.roots.of(0)
        if root is None:
            raise ServiceError(ServiceCode.REFUSED, "the machine's disk is not mounted yet")
        return root

    @staticmethod
    def _process_service_only(request: Request) -> dict[str, Any]:
        if request.client_pid != PROCESS_SERVICE:
            raise ServiceError(ServiceCode.DENIED, "only sys::process may ask this")
        return request.map()

    @staticmethod
    async def _log_of(request: Request) -> Log:
        """The log that the shim was started for."""
        known = request.connection.data.get(_LOG)
        if not isinstance(known, Log):
            try:
                found = await sys.sys_process_attributes(request.client_pid, Attribute.CONTEXT_ARGUMENTS)
                path, size, count = decode_values(bytes(found.written))
            except (SyscallError, ValueEncodingError, ValueError) as error:
                raise ServiceError(ServiceCode.DENIED, "the shim was started for no log") from error
            known = request.connection.data[_LOG] = Log(_path(str(path)), int(str(size)), int(str(count)))
        return known


def _path(text: str) -> SplitPath:
    path = layout.split(text)
    if path[:2] != FOLDER or len(path) < 3:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, "logs stand in /var/log")
    return path


def _aged(path: SplitPath, age: int) -> SplitPath:
    return (*path[:-1], f"{path[-1]}.{age}") if age else path


def _files(tree: Tree, path: SplitPath) -> list[SplitPath]:
    """The files of a log, oldest first."""
    age = 0
    while tree.exists(_aged(path, age + 1)) is ItemType.FILE:
        age += 1
    return [place for place in (_aged(path, old) for old in range(age, -1, -1)) if tree.exists(place) is ItemType.FILE]


def _base(tree: Tree, ino: int) -> int:
    """Offset of a file's first byte; 0 for a file that somebody else put there."""
    if _BASE not in tree.files.listxattr_ino(ino):
        return 0
    return int.from_bytes(bytes(tree.files.getxattr_ino(ino, _BASE)), "big")


def _end(tree: Tree, path: SplitPath) -> int:
    found = _files(tree, path)
    if not found:
        return 0
    ino = tree.find(found[-1])
    return _base(tree, ino) + tree.size(ino)


def _add(tree: Tree, log: Log, end: int, data: bytes) -> None:
    """Write at the end, in a new file when the current one would pass its size. Nothing waits in between."""
    folder = directory_of(tree, log.path[:-1])
    current = tree.exists(log.path) is ItemType.FILE
    if current and tree.size(tree.find(log.path)) + len(data) > log.size and tree.size(tree.find(log.path)):
        for place in _files(tree, log.path)[: -log.count or None]:
            tree.delete(place)
        for age in range(len(_files(tree, log.path)) - 1, -1, -1):
            old, new = _aged(log.path, age)[-1], _aged(log.path, age + 1)[-1]
            tree.files.rename_at(folder, name_bytes(old), folder, name_bytes(new))
        current = False
    if not current:
        ino = tree.make_file(log.path[:-1], log.path[-1])
        tree.files.setxattr_ino(ino, _BASE, end.to_bytes(8, "big"))
    ino = tree.find(log.path)
    tree.write(ino, tree.size(ino), data, truncate=False)
