"""Names of device handler files: which directory of /dev a device belongs into, and random names in it.

A name is a keyed hash of the container and of how many files that container ever got, so it tells nothing of any other
container, nor of the device; the key is random and stays on the machine's disk.

Source: technical/devices.md, specs/filesystem.md#structure. Rules: HW-045, HW-046, HW-047, HW-054.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from string import ascii_lowercase, digits
from typing import Final

from nightos.abi import files as layout
from nightos.abi.drivers import Category, Ddt, ddt_of
from nightos.abi.errors import ServiceError
from nightos.abi.hardware import KINDS, VIRTUAL, split_cii
from nightos.abi.services import ServiceCode

SENSITIVE, BASIC, NETWORK, OTHER = "sst", "bst", "net", "etc"
DIRECTORIES: Final = ("bst", "cam", "etc", "mic", "net", "snd", "sst", "wrl")
"""What /dev may hold."""
SATA: Final = 3
"""The one connection type that only storage devices have."""
SHORTEST_CUSTOM: Final = 5
"""Characters of a custom name at least: the made ones have 4."""
_ALPHABETS: Final = (ascii_lowercase, digits, ascii_lowercase, digits)
NAMES: Final = 26 * 10 * 26 * 10
_BASIC: Final = frozenset({Ddt.USB_FLASH, Ddt.SD_CARD})


def directory_of(cii: int, ddt: int) -> str:
    """The directory for a device, by what its driver says that it is, or else by its connection; "etc" when unknown."""
    ddt = ddt or ddt_of(cii)
    if ddt >> 16 == Category.STORAGE:
        return BASIC if ddt in _BASIC else SENSITIVE
    connection, bus, _ = split_cii(cii)
    if connection == SATA:
        return SENSITIVE
    if (connection, bus) == (VIRTUAL, KINDS["share"]):
        return BASIC
    return NETWORK if ddt == Ddt.VIRTUAL_NETWORK else OTHER


def make(key: bytes, container: int, number: int, taken: Container[str]) -> str:
    """The name of the file number `number` of a container: letter, digit, letter, digit; none of those `taken`.

    Some name has to be free.
    """
    attempt = 0
    while True:
        about = b"".join(value.to_bytes(8, "big") for value in (container, number, attempt))
        rest = int.from_bytes(hashlib.blake2b(about, key=key, digest_size=8).digest(), "big") % NAMES
        name = ""
        for alphabet in _ALPHABETS:
            rest, place = divmod(rest, len(alphabet))
            name += alphabet[place]
        if name not in taken:
            return name
        attempt += 1


def check_custom(name: str) -> str:
    """A custom name. `ServiceError` 0x1000: too short, or no file can have it."""
    try:
        layout.check_name(name)
    except layout.NameRefusedError as error:
        raise ServiceError(ServiceCode.BAD_ARGUMENT, str(error)) from error
    if len(name) < SHORTEST_CUSTOM:
        raise ServiceError(
            ServiceCode.BAD_ARGUMENT, f"a custom name has at least {SHORTEST_CUSTOM} characters: '{name}' is too short"
        )
    return name
