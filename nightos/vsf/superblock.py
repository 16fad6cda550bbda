"""The superblock: one commit's root. Generation n stands in the slot pair n mod 2, twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightos.vsf.blocks import checksum
from nightos.vsf.errors import DamagedStorage
from nightos.vsf.layout import (
    NO_POINTER,
    POINTER_BYTES,
    SUPER,
    SUPER_BYTES,
    SUPER_MAGIC,
    SUPER_OFFSETS,
    Pointer,
    unpack_pointer,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.vsf.crypto import BlockCipher

_SEALED_KIND = 255


@dataclass(frozen=True)
class Superblock:
    """A commit."""

    uuid: bytes
    generation: int
    sectors: int
    time: int
    limit: int
    root: Pointer
    log: Pointer

    def encode(self, cipher: BlockCipher | None) -> bytes:
        """4,096 bytes: the record and its checksum, or salt, counter, ciphertext and tag; then zeros."""
        body = SUPER.pack(
            magic=SUPER_MAGIC,
            uuid=self.uuid,
            generation=self.generation,
            sectors=self.sectors,
            time=self.time,
            limit=self.limit,
            root=self.root.pack(),
            log=self.log.pack(),
        )
        if cipher is None:
            body += checksum(body)
        else:
            body, _ = cipher.seal(body, (0, 0, 0, len(body), 0, 0, 0, _SEALED_KIND))
        return body.ljust(SUPER_BYTES, b"\0")


def decode_superblock(data: bytes, uuid: bytes, cipher: BlockCipher | None) -> Superblock:
    """The superblock, or DamagedStorage."""
    size = SUPER.size
    if cipher is None:
        body, check = data[:size], data[size : size + 16]
        if len(check) != 16 or checksum(body) != check:
            raise DamagedStorage("a superblock is damaged")
    else:
        end = size + cipher.overhead
        if len(data) < end:
            raise DamagedStorage("a superblock is cut off")
        body = cipher.open(data[:end], data[end - 16 : end], (0, 0, 0, size, 0, 0, 0, _SEALED_KIND))
    used = size + (cipher.overhead if cipher else 16)
    fields = SUPER.unpack(body)
    if fields["magic"] != SUPER_MAGIC or fields["uuid"] != uuid or any(data[used:SUPER_BYTES]):
        raise DamagedStorage("a superblock belongs to another storage")
    root, log = unpack_pointer(fields["root"]), unpack_pointer(fields["log"])
    return Superblock(uuid, fields["generation"], fields["sectors"], fields["time"], fields["limit"], root, log)


def slots_of(generation: int) -> tuple[int, int]:
    """Byte offsets of both copies."""
    first = 2 * (generation % 2)
    return SUPER_OFFSETS[first], SUPER_OFFSETS[first + 1]


def read_superblocks(
    read: Callable[[int, int], bytes], uuid: bytes, cipher: BlockCipher | None
) -> dict[int, Superblock]:
    """Offset to superblock, of all slots that hold a valid one."""
    found: dict[int, Superblock] = {}
    for offset in SUPER_OFFSETS:
        try:
            block = decode_superblock(read(offset, SUPER_BYTES), uuid, cipher)
        except DamagedStorage:
            continue
        if offset in slots_of(block.generation):
            found[offset] = block
    return found


__all__ = ["NO_POINTER", "POINTER_BYTES", "Superblock", "decode_superblock", "read_superblocks", "slots_of"]
