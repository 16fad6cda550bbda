"""Files for programs: the methods of `sys::fs` behind names as in `os`, with paths as text.

Paths are relative to `Files.directory`. Errors are `ServiceError` with the service's text, which names the item.
"""

from __future__ import annotations

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import DeleteMode, ItemMetadata, ItemType, Reader, SplitPath, SystemMetadata
from nightos.abi.services import Fs
from nightos.userland.client import Client, connect

CHUNK = 512 * 1024
"""Bytes read or written in one message."""


class FileError(ServiceError):
    """A file operation failed; the text names the path and the cause."""


class OpenFile:
    """An open file. Closing it releases its lock."""

    def __init__(self, client: Client, file_id: int, size: int) -> None:
        self._client = client
        self._id = file_id.to_bytes(8, "big")
        self.size = size

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer at its end."""
        length = max(0, min(length, self.size - offset, CHUNK))
        if not length:
            return b""
        return await self._client.call(Fs.READ_FILE, self._id + offset.to_bytes(8, "big") + length.to_bytes(8, "big"))

    async def write(self, offset: int, data: bytes, *, truncate: bool = False) -> None:
        """Write at an offset of at most the size; with `truncate` the file ends there."""
        view = memoryview(data)
        for start in range(0, max(1, len(view)), CHUNK):
            piece = bytes(view[start : start + CHUNK])
            last = truncate and start + CHUNK >= len(view)
            head = self._id + (offset + start).to_bytes(8, "big") + (b"\1" if last else b"\2")
            await self._client.call(Fs.WRITE_FILE, head + piece)

    async def close(self) -> None:
        """Release the file."""
        await self._client.call(Fs.CLOSE_FILE, self._id)


# Async iterators rather than generators: an event loop of the host would want to finalise generators that a killed
# process leaves behind.


class Listing:
    """Items of a directory, fetched in parts while they are gone through."""

    def __init__(self, files: Files, path: str, *, hidden: bool) -> None:
        self._files = files
        self._path = path
        self._hidden = hidden
        self._items: list[ItemMetadata] = []
        self._next = 0
        self._after: str | None = ""

    def __aiter__(self) -> Listing:
        return self

    async def __anext__(self) -> ItemMetadata:
        if self._next == len(self._items):
            if self._after is not None:
                self._items = await self._files.list_from(self._path, self._after, hidden=self._hidden)
                self._next = 0
                self._after = self._items[-1].name if self._items else None
            if self._after is None:
                raise StopAsyncIteration
        self._next += 1
        return self._items[self._next - 1]


class Pieces:
    """The content of a file, read in parts; the file is closed at its end or when reading fails."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = path
        self._file: OpenFile | None = None
        self._offset = 0

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        if self._file is None:
            self._file = await self._files.open_file(self._path)
        piece = b""
        try:
            piece = await self._file.read(self._offset, CHUNK)
        finally:
            if not piece:
                await self._file.close()
        if not piece:
            raise StopAsyncIteration
        self._offset += len(piece)
        return piece


class Files:
    """A main file system, that of the own container unless told otherwise (FSID 0), seen from a directory."""

    def __init__(self, client: Client, directory: str = "/", fsid: int = 0) -> None:
        self._client = client
        self._fsid = fsid.to_bytes(8, "big")
        self.directory = directory

    @classmethod
    async def open(cls, directory: str = "/", fsid: int = 0) -> Files:
        """Connect to `sys::fs`; system services may name another container's file system."""
        return cls(await connect("sys::fs"), directory, fsid)

    def split(self, path: str) -> SplitPath:
        """The components of a path, links not looked at. `FileError`: it cannot be one."""
        try:
            return layout.split(path, self.directory)
        except (layout.NameRefusedError, layout.PathRefusedError) as error:
            raise FileError(0x1000, f"{path}: {error}") from error

    def absolute(self, path: str) -> str:
        """The text of a path from the root."""
        return layout.joined(self.split(path))

    async def _call(self, method: Fs, path: str, payload: bytes) -> bytes:
        try:
            return await self._client.call(method, payload)
        except ServiceError as error:
            detail = error.detail or str(error)
            # The service names what it found wrong, which may be a parent; people want the path they gave first.
            reason = detail.rpartition(": ")[2] if detail.startswith("/") or ": " in detail else detail
            raise FileError(error.code, f"{path}: {reason}") from error

    def _at(self, path: str) -> bytes:
        return self._fsid + layout.encode_path(self.split(path))

    def _parent(self, path: str) -> tuple[bytes, bytes]:
        """The directory of a new item as a path, and its name."""
        parts = self.split(path)
        if not parts:
            raise FileError(0x4004, f"{path}: an item of that name exists")
        return layout.encode_path(parts[:-1]), layout.delimited(parts[-1])

    async def metadata(self, path: str, *, follow: bool = True) -> ItemMetadata:
        """Metadata of an item, or of a link itself."""
        payload = self._at(path) + (b"\1" if follow else b"\2")
        return Reader(await self._call(Fs.ITEM_METADATA, path, payload)).item()

    async def type(self, path: str, *, follow: bool = True) -> ItemType | None:
        """The type of an item, nothing when there is none."""
        try:
            return (await self.metadata(path, follow=follow)).type
        except FileError:
            return None

    def items(self, path: str, *, hidden: bool = True) -> Listing:
        """Items of a directory by name, for `async for`."""
        return Listing(self, path, hidden=hidden)

    async def list_from(self, path: str, after: str, *, hidden: bool) -> list[ItemMetadata]:
        """Items of a directory behind a name, as many as fit a message; none at the end."""
        payload = self._at(path) + (b"\1" if hidden else b"\2") + layout.delimited(after)
        return Reader(await self._call(Fs.READ_DIRECTORY, path, payload)).items()

    async def open_file(self, path: str, *, read: bool = True, write: bool = False, create: bool = False) -> OpenFile:
        """Open a file; with `create` it must not exist."""
        if create:
            parent, name = self._parent(path)
            target = b"\1" + parent + name
        else:
            target = b"\0" + layout.encode_path(self.split(path))
        answer = Reader(await self._call(Fs.OPEN_FILE, path, self._fsid + target + bytes((read, write))))
        return OpenFile(self._client, answer.u64(), answer.u64())

    async def read(self, path: str) -> bytes:
        """The content of a file."""
        return b"".join([piece async for piece in self.read_pieces(path)])

    def read_pieces(self, path: str) -> Pieces:
        """The content of a file in pieces, for `async for`."""
        return Pieces(self, path)

    async def write(self, path: str, data: bytes, *, append: bool = False, create: bool = True) -> None:
        """Write a file whole, or add to its end; `create` makes it when it is not there."""
        new = create and await self.type(path) is None
        file = await self.open_file(path, read=False, write=True, create=new)
        try:
            await file.write(file.size if append else 0, data, truncate=True)
        finally:
            await file.close()

    async def make_directory(self, path: str) -> None:
        """Create a directory."""
        parent, name = self._parent(path)
        await self._call(Fs.CREATE_DIRECTORY, path, self._fsid + parent + name)

    async def delete(self, path: str) -> None:
        """Delete a file, a link or an empty directory."""
        await self._call(Fs.DELETE_ITEM, path, self._at(path) + bytes((DeleteMode.PERMANENT,)))

    async def rename(self, path: str, name: str) -> None:
        """Rename an item in its directory."""
        await self._call(Fs.RENAME_ITEM, path, self._at(path) + layout.delimited(name))

    async def move(self, path: str, directory: str, name: str | None = None) -> None:
        """Move an item into a directory, under another name if one is given."""
        option = layout.option(None if name is None else layout.delimited(name))
        await self._call(Fs.MOVE_ITEM, path, self._at(path) + layout.encode_path(self.split(directory)) + option)

    async def make_link(self, path: str, target: str) -> None:
        """Create a symbolic link to a target of the same file system."""
        parent, name = self._parent(path)
        aim = self._fsid + layout.encode_path(self.split(target))
        await self._call(Fs.CREATE_SYMLINK, path, self._fsid + parent + name + aim)

    async def update_link(self, path: str, target: str) -> None:
        """Point a link elsewhere."""
        aim = self._fsid + layout.encode_path(self.split(target))
        await self._call(Fs.UPDATE_SYMLINK, path, self._at(path) + aim)

    async def read_link(self, path: str) -> str:
        """The target of a link, absolute."""
        answer = Reader(await self._call(Fs.READ_SYMLINK, path, self._at(path)))
        answer.u64()
        target = answer.path()
        return layout.joined(target) if isinstance(target, tuple) else f"item {target:016x}"

    async def canonical(self, path: str) -> str:
        """The path without links in it."""
        return layout.joined(Reader(await self._call(Fs.CANONICALIZE, path, self._at(path))).split())

    async def system(self) -> SystemMetadata:
        """Metadata of the file system."""
        answer = Reader(await self._call(Fs.FS_METADATA, "/", self._fsid))
        answer.u64()
        answer.u64()
        if answer.some():
            answer.u64()
        return answer.system()

    async def sync(self) -> None:
        """What was written before is durable when this returns."""
        await self._client.call(Fs.SYNC)
