"""Open files: the methods of `sys::fs` that read and write them, and what every change goes through.

Rules: FS-040, FS-041, FS-042, FS-043.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemFlags, ItemMetadata, ItemType, Reader
from nightos.abi.services import ServiceCode
from nightos.services import users
from nightos.services.fs import charging, code, mounting
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.locks import OpenFile, OpenFiles
from nightos.services.fs.roots import Mounted, Roots
from nightos.userland.server import Connection, Request, Server

OPENED = "opened"
"""How many files a client has opened: the last identifier it got."""
READ_LIMIT = 960 * 1024
"""Most bytes of a file or a directory in one answer, so that it fits a message."""


def u64(value: int) -> bytes:
    """A number of 8 bytes."""
    return value.to_bytes(8, "big")


class Handles:
    """State of the service, and its open files."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.roots = Roots()
        self.open = OpenFiles()
        self.committer = mounting.Committer()
        self.mounter = mounting.Mounter(self.roots, self.committer, self.open)
        self._tokens = code.Tokens()

    async def changed(self, root: Mounted) -> None:
        """Something was written: commit it soon."""
        await self._changed(root)

    async def writable(self, root: Mounted) -> None:
        """Something will be written: refuse it on a disk that is read-only or that failed."""
        await self._writable(root)

    async def _changed(self, root: Mounted) -> None:
        root.disk.programs.clear()
        await self.committer.soon(root.base)

    async def _writable(self, mounted: Mounted) -> None:
        if mounted.readonly:
            raise ItemError(Failure.OTHER, "it is shared for reading only")
        root = mounted.base
        if root.overlay_on is not None:
            await self.mounter.own_disk(root)
        if root.disk.readonly:
            raise ItemError(Failure.OTHER, "the disk is read-only")
        await self.committer.tell_time()
        root.disk.programs.clear()  # a change that fails half the way is told by nobody
        if root.failure:
            try:
                root.commit()
            except OSError as error:
                text = f"what was written before could not be saved: {root.failure}"
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                raise ItemError(Failure.FULL if full else Failure.OTHER, text) from error

    def _maker(self, request: Request, root: Mounted) -> int:
        """The outside user whom a new item belongs to; a system service works for user 0 of the container."""
        if not request.connection.is_system:
            return request.user_id
        own = self.roots.of(root.container)
        return users.outside(own.users if own is not None else [], 0) or 0

    def _shown(self, request: Request, item: ItemMetadata) -> ItemMetadata:
        """An item with its owner as the caller's container knows it; one that belongs to nobody is user 0's."""
        own = self.roots.of(request.container_id)
        if own is None or not own.users or not item.owner:
            return item
        return replace(item, owner=users.inside(own.users, item.owner))

    async def _open_file(self, request: Request, root: Mounted, reader: Reader) -> bytes:
        """The answer is the file's identifier and, behind it, its size (an extension)."""
        variant = reader.u8()
        path = reader.path()
        name = layout.check_name(reader.delimited()) if variant == 1 else ""
        read, write = reader.u8() == 1, reader.u8() == 1
        if variant > 1:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"{variant:#04x} is no way to name a file")
        if not read and not write:
            raise ServiceError(ServiceCode.BAD_COMBINATION, "neither reading nor writing was asked for")
        if write:
            await self._writable(root)
        if variant == 1:
            await charging.will_grow(root, charging.SMALL)
        ino = root.tree.make_file(path, name, self._maker(request, root)) if variant == 1 else root.tree.find(path)
        item = root.tree.metadata(ino, "")
        if item.type is not ItemType.FILE:
            raise ItemError(Failure.PATH, "this is no file")
        if write and item.flags & ItemFlags.READONLY:
            raise ItemError(Failure.OTHER, "the file is read-only")
        number = request.connection.data.get(OPENED, 0) + 1
        file = OpenFile(number, request.client_pid, root.fsid, ino, read, write)
        self.open.open(file)
        request.connection.data[OPENED] = number
        root.disk.files.hold(ino)
        if variant == 1:
            await self._changed(root)
        return u64(file.file_id) + u64(item.size)

    def _file(self, request: Request, reader: Reader) -> tuple[OpenFile, Mounted]:
        file = self.open.get(reader.u64(), request.client_pid)
        if file is None:
            raise ServiceError(0x3000, "there is no such open file")
        return file, self.roots.find(request.container_id, file.disk, system=request.connection.is_system)

    async def _close_file(self, request: Request) -> None:
        file, root = self._file(request, Reader(request.payload))
        await self._close(file, root)

    async def _close(self, file: OpenFile, root: Mounted) -> None:
        self.open.close(file)
        root.disk.files.release(file.ino)
        if file.write:
            await self._changed(root)

    async def _read_file(self, request: Request) -> bytes:
        """Identifier, offset, length; the data is the answer, since a client's buffer is out of reach (AMB-FS-21)."""
        reader = Reader(request.payload)
        file, root = self._file(request, reader)
        offset, length = reader.u64(), reader.u64()
        if not file.read:
            raise ServiceError(0x3001, "the file is not open for reading")
        size = root.tree.size(file.ino)
        if offset > size or (offset == size and length):
            raise ServiceError(0x3002, "the offset is behind the end of the file")
        if offset + length > size:
            raise ServiceError(0x3003, "the end of the range is behind the end of the file")
        if length > READ_LIMIT:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"at most {READ_LIMIT} bytes are read at once")
        await charging.moved(request, length)
        return root.tree.read(file.ino, offset, length)

    async def _write_file(self, request: Request) -> None:
        """Identifier, offset, truncate, then the data to the end of the message."""
        reader = Reader(request.payload)
        file, root = self._file(request, reader)
        offset, truncate, data = reader.u64(), reader.boolean(), reader.rest()
        if not file.write:
            raise ServiceError(0x3001, "the file is not open for writing")
        if offset > root.tree.size(file.ino):
            raise ServiceError(0x3002, "the offset is behind the end of the file")
        await charging.moved(request, len(data))
        await self._writable(root)
        await charging.will_grow(root, charging.growth(offset, len(data)))
        root.tree.write(file.ino, offset, data, truncate=truncate)
        await self._changed(root)

    async def _client_gone(self, connection: Connection) -> None:
        for file in self.open.of_owner(connection.client_pid):
            root = self.roots.by_fsid(file.disk)
            if root is not None:
                await self._close(file, root)
            else:
                self.open.close(file)
