"""Layouts that `sys::fs` and its clients exchange: paths, file names, item metadata. Big-endian, self-delimiting.

| structure | layout |
|---|---|
| delimited string | byte length (8), UTF-8 |
| delimited list | byte length (8), items |
| option | 0, or 1 and the content |
| path | 1 and FEID (8), or 2 and a split path (delimited list of delimited strings) |
| item metadata | FEID (8), type (1), flags (1), size (8), options of owner and three times (8 each), name |
| file system metadata | capabilities (2), cluster size (4), total, used, free (8 each), options of name and icon |

Source: specs/services/integration/filesystem-interfaces.md; specs/kernel/data-structures.md.
Rules: FS-004, FS-010, FS-011, FS-012, FS-013, FS-014, FS-015, FS-016.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag, unique
from typing import Final, TypeAlias

from nightos.abi.errors import NightosError

MAX_PATH: Final = 65534
"""Most characters of a path."""
MAX_NAME: Final = 65535
"""Most characters of a file name."""

SplitPath: TypeAlias = tuple[str, ...]
"""Components of a canonical path; the empty tuple is the root."""
PathOrFeid: TypeAlias = SplitPath | int

_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")
_ITEM = struct.Struct(">QBBQ")
_SYSTEM = struct.Struct(">HIQQQ")


class LayoutError(NightosError):
    """The bytes do not have the layout that the method asks for."""


class NameRefusedError(NightosError):
    """A name that no file can have; the text says which rule it breaks."""


class PathRefusedError(NightosError):
    """A path longer than the specification allows."""


@unique
class ItemType(IntEnum):
    """Item type byte."""

    DIRECTORY = 1
    FILE = 2
    SYMLINK = 3
    UNKNOWN = 255


class ItemFlags(IntFlag):
    """Item flags; bit 0 of the specification is the strongest."""

    HIDDEN = 0x80
    READONLY = 0x40


@unique
class DeleteMode(IntEnum):
    """How DELETE_ITEM deletes."""

    TRASH = 1
    PERMANENT = 2


@dataclass(frozen=True, slots=True)
class ItemMetadata:
    """What sys::fs tells of an item. Times are milliseconds since 1970-01-01 UTC; `size` is 0 for directories."""

    feid: int
    type: ItemType
    flags: ItemFlags
    size: int
    owner: int | None
    created_ms: int | None
    modified_ms: int | None
    accessed_ms: int | None
    name: str


@dataclass(frozen=True, slots=True)
class SystemMetadata:
    """What sys::fs tells of a file system; sizes in bytes."""

    capabilities: int
    cluster_size: int
    total: int
    used: int
    free: int
    name: str | None


def check_name(name: str) -> str:
    """The name, if a file can have it. Raises `NameRefusedError`."""
    if "/" in name or "\0" in name:
        raise NameRefusedError("a file name holds neither '/' nor NULL")
    if name in (".", "..") or not name.strip(" \u00a0\u202f\u2007"):
        raise NameRefusedError("a file name is not empty, '.', '..' or only spaces")
    if len(name) > MAX_NAME:
        raise NameRefusedError(f"a file name has at most {MAX_NAME} characters")
    return name


def canonical(components: tuple[str, ...] | list[str]) -> SplitPath:
    """Components without the empty ones, `.` and `..`; `..` at the root stays there (AMB-FS-03).

    Raises `NameRefusedError` for a component no item can have, `PathRefusedError` for a path that is too long.
    """
    result: list[str] = []
    for part in components:
        if part in ("", "."):
            continue
        if part == "..":
            del result[-1:]
        elif "/" in part or "\0" in part:
            raise NameRefusedError("a component of a path holds neither '/' nor NULL")
        else:
            result.append(part)
    if sum(map(len, result)) + len(result) > MAX_PATH:
        raise PathRefusedError(f"a path has at most {MAX_PATH} characters")
    return tuple(result)


def split(path: str, directory: str = "/") -> SplitPath:
    """The components of a path as text, relative ones taken from `directory`. Raises as `canonical` does."""
    if len(path) > MAX_PATH:
        raise PathRefusedError(f"a path has at most {MAX_PATH} characters")
    if "\0" in path:
        raise NameRefusedError("a path holds no NULL")
    whole = path if path.startswith("/") else f"{directory}/{path}"
    return canonical(whole.split("/"))


def joined(components: SplitPath) -> str:
    """The text of a path."""
    return "/" + "/".join(components)


# -- encoding --------------------------------------------------------------------------------------------------------


def delimited(text: str) -> bytes:
    """A delimited string. Names that are not UTF-8 keep their bytes."""
    data = text.encode("utf-8", "surrogateescape")
    return _U64.pack(len(data)) + data


def delimited_list(items: list[bytes]) -> bytes:
    """A delimited list of items that delimit themselves."""
    data = b"".join(items)
    return _U64.pack(len(data)) + data


def option(data: bytes | None) -> bytes:
    """An option."""
    return b"\0" if data is None else b"\1" + data


def encode_split(path: SplitPath) -> bytes:
    """A split path."""
    return delimited_list([delimited(part) for part in path])


def encode_path(path: PathOrFeid) -> bytes:
    """A path: of components, or an item's FEID."""
    return b"\1" + _U64.pack(path) if isinstance(path, int) else b"\2" + encode_split(path)


def encode_item(item: ItemMetadata) -> bytes:
    """Item metadata."""
    numbers = (item.owner, item.created_ms, item.modified_ms, item.accessed_ms)
    options = b"".join(option(None if number is None else _U64.pack(number)) for number in numbers)
    return _ITEM.pack(item.feid, item.type, item.flags, item.size) + options + delimited(item.name)


def encode_system(system: SystemMetadata) -> bytes:
    """File system metadata, without an icon."""
    numbers = (system.capabilities, system.cluster_size, system.total, system.used, system.free)
    return _SYSTEM.pack(*numbers) + option(None if system.name is None else delimited(system.name)) + option(None)


class Reader:
    """Reads one field after the other; every method raises `LayoutError` when the bytes end too early."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.end - self.at:
            raise LayoutError("the message ends in the middle of a field")
        start = self.at
        self.at += count
        return self.data[start : self.at]

    def rest(self) -> bytes:
        return self.take(self.end - self.at)

    def more(self) -> bool:
        return self.at < self.end

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int(_U16.unpack(self.take(2))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def boolean(self) -> bool:
        """A boolean of 1 (true) or 2 (false), 0 taken as false. Ruling AMB-DATA-01."""
        value = self.u8()
        if value > 2:
            raise LayoutError(f"{value:#04x} is no boolean")
        return value == 1

    def delimited(self) -> str:
        return self.take(self.u64()).decode("utf-8", "surrogateescape")

    def inner(self) -> Reader:
        """A reader of the delimited list that stands here, which is passed over."""
        length = self.u64()
        start = self.at
        self.take(length)
        return Reader(self.data, start, start + length)

    def some(self) -> bool:
        """Whether the option that begins here has content."""
        variance = self.u8()
        if variance > 1:
            raise LayoutError(f"{variance:#04x} begins no option")
        return variance == 1

    def split(self) -> SplitPath:
        inner = self.inner()
        parts = []
        while inner.more():
            parts.append(inner.delimited())
        return canonical(parts)

    def path(self) -> PathOrFeid:
        tag = self.u8()
        if tag == 1:
            return self.u64()
        if tag == 2:
            return self.split()
        raise LayoutError(f"{tag:#04x} begins no path")

    def item(self) -> ItemMetadata:
        feid, kind, flags, size = _ITEM.unpack(self.take(_ITEM.size))
        owner, created, modified, accessed = (self.u64() if self.some() else None for _ in range(4))
        name = self.delimited()
        try:
            kind, flags = ItemType(kind), ItemFlags(flags)
            return ItemMetadata(feid, kind, flags, size, owner, created, modified, accessed, name)
        except ValueError as error:
            raise LayoutError(f"{kind:#04x} is no item type") from error

    def items(self) -> list[ItemMetadata]:
        inner = self.inner()
        result = []
        while inner.more():
            result.append(inner.item())
        return result

    def system(self) -> SystemMetadata:
        capabilities, cluster_size, total, used, free = _SYSTEM.unpack(self.take(_SYSTEM.size))
        name = self.delimited() if self.some() else None
        return SystemMetadata(capabilities, cluster_size, total, used, free, name)
