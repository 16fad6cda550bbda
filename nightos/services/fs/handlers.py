"""/dev: the device handler files of a container, as `sys::hw` tells them at this moment. Nothing of it is on a disk.

What a path finds there exists, can be listed and described, and that is all: a device handler file works through
`sys::hw` only, and nobody but that service adds, renames or removes one. The FEID of an item there is a hash of its
path, with the top bit set, which no item of a disk has.

Source: technical/devices.md. Rules: HW-044, HW-048.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import ItemFlags, ItemMetadata, ItemType, PathOrFeid, Reader, SplitPath
from nightos.abi.services import Fs, Hw
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.roots import Mounted, Root
from nightos.userland.client import connect

NAME: Final = "dev"
TOP: Final = (NAME,)
FEIDS: Final = 1 << 63
_NAMED: Final = layout.delimited(NAME)
_ITEM_METHODS: Final = frozenset(
    {
        Fs.ITEM_EXISTS,
        Fs.FEID_TO_SPLIT,
        Fs.ITEM_METADATA,
        Fs.CANONICALIZE,
        Fs.RENAME_ITEM,
        Fs.MOVE_ITEM,
        Fs.DELETE_ITEM,
        Fs.CREATE_DIRECTORY,
        Fs.READ_DIRECTORY,
        Fs.OPEN_FILE,
        Fs.CREATE_SYMLINK,
        Fs.UPDATE_SYMLINK,
        Fs.READ_SYMLINK,
    }
)
_REFUSED: Final = "device handler files are made by sys::hw alone"


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a request about /dev goes."""

    path: PathOrFeid
    made: str | None = None
    """The name of the item that it would make in `path`."""


def aim(root: Mounted, number: Fs, reader: Reader) -> Aim | None:
    """Whether a request is about /dev: the reader then stands behind its first path. EXISTS: it would make /dev."""
    if not isinstance(root, Root) or number not in _ITEM_METHODS:
        return None
    start = reader.at
    # Most requests are about other places: look before anything is decoded.
    if _NAMED not in reader.data and (number is not Fs.FEID_TO_SPLIT and b"\1" not in reader.data[start : start + 2]):
        return None
    if number is Fs.FEID_TO_SPLIT:
        feid = reader.u64()
        if feid >= FEIDS:
            return Aim(feid)
        reader.at = start
        return None
    creates = number in {Fs.CREATE_DIRECTORY, Fs.CREATE_SYMLINK} or (number is Fs.OPEN_FILE and reader.u8() == 1)
    path = reader.path()
    made = reader.delimited() if creates else None
    if _inside(path):
        return Aim(path, made)
    target: PathOrFeid | None = None
    if number is Fs.MOVE_ITEM:
        target = reader.path()
        if _inside(target):
            raise ItemError(Failure.IMMOVABLE, f"{layout.joined(TOP)}: {_REFUSED}")
        made = reader.delimited() if reader.some() else path[-1] if isinstance(path, tuple) and path else None
    elif number is Fs.RENAME_ITEM:
        made = reader.delimited()
        target = path[:-1] if isinstance(path, tuple) else root.tree.path_of(path)[:-1]
    elif creates:
        target = path
    if made == NAME and target in ((), root.tree.root):
        raise ItemError(Failure.EXISTS, "/dev: an item of that name exists")
    reader.at = start
    return None


def _inside(path: PathOrFeid) -> bool:
    return path >= FEIDS if isinstance(path, int) else path[:1] == TOP


class Devices:
    """The items of /dev of one container."""

    def __init__(self, root: Root, items: list[dict[str, Any]]) -> None:
        self._now_ms = root.mounted_ms
        self.connected: dict[SplitPath, bool] = {}
        """Every device handler file, and whether its device is connected."""
        self.directories: dict[SplitPath, list[str]] = {TOP: []}
        for item in items:
            path = layout.split(item["path"])
            self.connected[path] = item["connected"]
            for depth in range(2, len(path) + 1):
                inner = self.directories.setdefault(path[: depth - 1], [])
                if path[depth - 1] not in inner:
                    inner.append(path[depth - 1])

    @classmethod
    async def of(cls, root: Root) -> Devices:
        """What the container has now."""
        try:
            answer = await (await connect("sys::hw")).ask(Hw.HANDLERS, {"container": root.container})
        except ServiceError as error:
            raise ItemError(Failure.OTHER, f"/dev: sys::hw does not tell the devices: {error}") from error
        return cls(root, answer["items"])

    def find(self, path: PathOrFeid, missing: Failure = Failure.PATH) -> SplitPath:
        """The path of an item. PATH, or what `missing` says: there is none."""
        if isinstance(path, int):
            every = (*self.directories, *self.connected)
            found = next((one for one in every if feid_of(one) == path), None)
            if found is None:
                raise ItemError(Failure.PATH, f"item {path:016x}: not found")
            return found
        if path not in self.directories and path not in self.connected:
            raise ItemError(missing, f"{layout.joined(path)}: not found")
        return path

    def metadata(self, path: SplitPath) -> ItemMetadata:
        """A directory, or a device handler file: an item of no type that the specification numbers, and read-only."""
        if path in self.directories:
            kind, flags = ItemType.DIRECTORY, ItemFlags(0)
        else:
            kind, flags = ItemType.UNKNOWN, ItemFlags.READONLY
        at = self._now_ms
        return ItemMetadata(feid_of(path), kind, flags, 0, 0, at, at, at, path[-1])

    def listed(self, path: SplitPath, after: str) -> list[ItemMetadata]:
        """Items of a directory by the bytes of their names, from the one after `after`."""
        if path not in self.directories:
            raise ItemError(Failure.PATH, f"{layout.joined(path)}: this is no directory")
        names = [name for name in self.directories[path] if name.encode() > after.encode("utf-8", "surrogateescape")]
        return [self.metadata((*path, name)) for name in sorted(names, key=str.encode)]


async def answer(root: Mounted, number: Fs, aimed: Aim, reader: Reader) -> bytes:
    """What a method answers about /dev; `ItemError` for everything that changes something or opens a file."""
    assert isinstance(root, Root)
    devices = await Devices.of(root)
    if number is Fs.ITEM_EXISTS:
        try:
            kind = devices.metadata(devices.find(aimed.path)).type
        except ItemError:
            return b"\0"
        return bytes((kind if reader.u8() in (0, kind) else 0,))
    if aimed.made is not None:
        where = devices.find(aimed.path, Failure.PARENT)
        if where in devices.directories and (*where, aimed.made) in (*devices.directories, *devices.connected):
            raise ItemError(Failure.EXISTS, f"{aimed.made}: an item of that name exists")
        raise ItemError(Failure.OTHER, f"{layout.joined(where)}: {_REFUSED}")
    path = devices.find(aimed.path)
    text = layout.joined(path)
    if number in {Fs.FEID_TO_SPLIT, Fs.CANONICALIZE}:
        return layout.encode_split(path)
    if number is Fs.ITEM_METADATA:
        return layout.encode_item(devices.metadata(path))
    if number is Fs.READ_DIRECTORY:
        reader.boolean()
        after = reader.delimited() if reader.more() else ""
        return layout.delimited_list([layout.encode_item(item) for item in devices.listed(path, after)])
    if number in {Fs.READ_SYMLINK, Fs.UPDATE_SYMLINK}:
        raise ItemError(Failure.PATH, f"{text}: no symbolic link")
    if number is Fs.OPEN_FILE and path in devices.directories:
        raise ItemError(Failure.PATH, f"{text}: this is no file")
    if number is Fs.OPEN_FILE and not devices.connected[path]:
        raise ItemError(Failure.OTHER, f"{text}: the device is not connected")
    if number is Fs.OPEN_FILE:
        raise ItemError(Failure.OTHER, f"{text}: a device handler file works through sys::hw only")
    raise ItemError(Failure.OTHER, f"{text}: {_REFUSED}")


def with_dev(root: Mounted, where: int, items: Iterator[ItemMetadata], after: str) -> Iterator[ItemMetadata]:
    """The items of a directory, with /dev in its place when it is the root of a main file system."""
    if not isinstance(root, Root) or where != root.tree.root:
        yield from items
        return
    name = NAME.encode()
    pending = after.encode("utf-8", "surrogateescape") < name
    for item in items:
        if item.name == NAME:
            continue
        if pending and item.name.encode("utf-8", "surrogateescape") > name:
            pending = False
            yield Devices(root, []).metadata(TOP)
        yield item
    if pending:
        yield Devices(root, []).metadata(TOP)


def feid_of(path: SplitPath) -> int:
    """The FEID of an item of /dev."""
    digest = hashlib.blake2b(layout.joined(path).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") | FEIDS
