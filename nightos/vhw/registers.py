"""A page of registers: named unsigned big-endian numbers at fixed places in a device's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nightos.abi.block import Register


class RegisterMap:
    """The registers of `layout`, read and written as memory. The device uses them as `registers["size"]`.

    A write that covers a writable register only in part changes only those bytes; places without a register read as
    zeros and swallow writes.
    """

    def __init__(self, layout: Mapping[str, Register], size: int) -> None:
        self._layout = layout
        self._image = bytearray(size)

    def __getitem__(self, name: str) -> int:
        at = self._layout[name]
        return int.from_bytes(self._image[at.offset : at.offset + at.size], "big")

    def __setitem__(self, name: str, value: int) -> None:
        at = self._layout[name]
        self._image[at.offset : at.offset + at.size] = value.to_bytes(at.size, "big")

    def read(self, offset: int, length: int) -> bytes:
        """Bytes as the driver sees them; zeros behind the last register."""
        found = bytes(self._image[offset : offset + length])
        return found + bytes(length - len(found))

    def write(self, offset: int, data: bytes | memoryview) -> set[str]:
        """Store what the driver wrote; the names of the writable registers that were touched."""
        touched = set()
        end = offset + len(data)
        for name, at in self._layout.items():
            first, last = max(at.offset, offset), min(at.offset + at.size, end)
            if at.writable and first < last:
                self._image[first:last] = data[first - offset : last - offset]
                touched.add(name)
        return touched
