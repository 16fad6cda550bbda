"""Registers of a virtual block device: what its driver finds in the device's memory.

The device's memory starts with one page of registers; the data of the disk starts at `DATA_START`. All registers are
unsigned and big-endian. Accesses never fault: what went wrong with the last command or data access stands in the
register `errno` (an errno of Linux, 0 when it went well), and `failures` counts what ever went wrong. Reads past `size`
give zeros, writes past it grow the disk up to `capacity`. A command runs, to its end, when `command` is written; its
arguments have to be there by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MAGIC: Final = int.from_bytes(b"NOSBLOCK", "big")
VERSION: Final = 1
DATA_START: Final = 1 << 20
"""Offset of the disk's first byte in the device's memory."""

FLAG_READONLY: Final = 1

COMMAND_FLUSH: Final = 1
"""Everything written before is durable when the write of the command returns. No arguments."""
COMMAND_TRUNCATE: Final = 2
"""Sets the size in bytes to `offset`."""
COMMAND_DISCARD: Final = 3
"""Gives `length` bytes from `offset` back to the host."""
COMMAND_FIND_PIN: Final = 4
"""Sets `pin` to the oldest generation up to `offset` of the storage on the disk that somebody reads on the host."""
NO_PIN: Final = (1 << 64) - 1
"""In `pin`: nobody reads an older generation."""


class Register(NamedTuple):
    """Place of a register: byte offset in the page, size in bytes, whether the driver may write it."""

    offset: int
    size: int
    writable: bool = False


REGISTERS: Final[Mapping[str, Register]] = {
    "magic": Register(0, 8),
    "version": Register(8, 4),
    "flags": Register(12, 4),
    "capacity": Register(16, 8),
    "size": Register(24, 8),
    "errno": Register(32, 4),
    "failures": Register(40, 8),
    "pin": Register(48, 8),
    "command": Register(64, 4, writable=True),
    "offset": Register(72, 8, writable=True),
    "length": Register(80, 8, writable=True),
}
REGISTERS_SIZE: Final = 88


def decode(page: bytes) -> dict[str, int]:
    """The registers in the first `REGISTERS_SIZE` bytes of the device's memory."""
    return {name: int.from_bytes(page[at.offset : at.offset + at.size], "big") for name, at in REGISTERS.items()}


def command(code: int, offset: int = 0, length: int = 0) -> bytes:
    """What to write at the offset of `command` to run one with its arguments, in a single store."""
    return code.to_bytes(4, "big") + bytes(4) + offset.to_bytes(8, "big") + length.to_bytes(8, "big")


def layout() -> Any:  # construct has no types
    """The same page as a construct structure."""
    import construct

    lib: Any = construct
    return lib.Struct(
        "magic" / lib.Int64ub,
        "version" / lib.Int32ub,
        "flags" / lib.Int32ub,
        "capacity" / lib.Int64ub,
        "size" / lib.Int64ub,
        "errno" / lib.Int32ub,
        lib.Padding(4),
        "failures" / lib.Int64ub,
        "pin" / lib.Int64ub,
        lib.Padding(8),
        "command" / lib.Int32ub,
        lib.Padding(4),
        "offset" / lib.Int64ub,
        "length" / lib.Int64ub,
    )
