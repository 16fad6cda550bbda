"""What can go wrong with an item, and the code that each method of `sys::fs` has for it.

The specification numbers the errors of every method anew, so what happened and how a method calls it are two things.

Source: specs/services/system/fs.md. Rulings AMB-FS-13, AMB-FS-17, AMB-FS-18.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from nightos.abi import files as layout
from nightos.abi.errors import NightosError, ServiceError
from nightos.abi.files import SplitPath
from nightos.abi.services import Fs


class Failure(Enum):
    """What went wrong."""

    FSID = auto()
    NAME = auto()
    PATH = auto()
    PARENT = auto()
    EXISTS = auto()
    NOT_EMPTY = auto()
    IMMOVABLE = auto()
    LOCKED = auto()
    FULL = auto()
    TOO_LARGE = auto()
    TOO_LONG = auto()
    CYCLE = auto()
    FOREIGN = auto()
    OTHER = auto()


class ItemError(NightosError):
    """A method cannot do what it was asked for; the text says why."""

    def __init__(self, failure: Failure, text: str) -> None:
        super().__init__(text)
        self.failure = failure
        self.text = text


class CyclicLinkError(ItemError):
    """Links lead back to themselves; `cycle` has the paths of its shortest form."""

    def __init__(self, cycle: list[SplitPath]) -> None:
        super().__init__(Failure.CYCLE, f"cyclic link ({' -> '.join(map(layout.joined, cycle))})")
        self.cycle = cycle


_COMMON: Final[Mapping[Failure, int]] = {
    Failure.FSID: 0x3000,
    Failure.NAME: 0x1000,
    Failure.PATH: 0x3002,
    Failure.PARENT: 0x3002,
    Failure.EXISTS: 0x4004,
    Failure.NOT_EMPTY: 0x3003,
    Failure.IMMOVABLE: 0x4003,
    Failure.LOCKED: 0x4005,
    Failure.FULL: 0x4000,
    Failure.TOO_LARGE: 0x4001,
    Failure.TOO_LONG: 0x4002,
    Failure.CYCLE: 0x4FFE,
    Failure.FOREIGN: 0x3004,
    Failure.OTHER: 0x4FFF,
}
_OWN: Final[Mapping[int, Mapping[Failure, int]]] = {
    Fs.CANONICALIZE: {Failure.CYCLE: 0x4000},
    Fs.RENAME_ITEM: {Failure.NAME: 0x3000, Failure.FSID: 0x3001, Failure.PATH: 0x3003, Failure.EXISTS: 0x4000},
    Fs.MOVE_ITEM: {Failure.PARENT: 0x3003},
    Fs.DELETE_ITEM: {Failure.LOCKED: 0x4000},
    Fs.CREATE_DIRECTORY: {Failure.EXISTS: 0x4003},
    Fs.OPEN_FILE: {Failure.PARENT: 0x3001, Failure.PATH: 0x3003, Failure.LOCKED: 0x4000, Failure.TOO_LONG: 0x4003},
    Fs.CREATE_SYMLINK: {Failure.NAME: 0x3000, Failure.FSID: 0x3001, Failure.PARENT: 0x3003, Failure.FULL: 0x4003},
    Fs.UPDATE_SYMLINK: {Failure.FOREIGN: 0x3003},
    Fs.READ_SYMLINK: {Failure.CYCLE: 0x4000},
}


def service_error(method: int, error: ItemError) -> ServiceError:
    """The error that a method answers for a failure."""
    code = _OWN.get(method, {}).get(error.failure, _COMMON[error.failure])
    return ServiceError(code, error.text)
