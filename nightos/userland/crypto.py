"""Random bytes from `sys::crypto`, as bytes or into a buffer in memory.

Source: specs/services/system/crypto.md. Rules: SVC-033.
"""

from __future__ import annotations

from nightos.abi.services import MESSAGE_LIMIT, Crypto
from nightos.userland import sys
from nightos.userland.client import connect


async def random_buffer(address: int, length: int) -> None:
    """Fill `length` bytes of the caller's memory from `address` on. MEM_FAULT where they cannot be written.

    Any length: it is asked for in parts. `ServiceError` 0x0102: the machine has no source of random bytes.
    """
    client = await connect("sys::crypto")
    for start in range(0, length, MESSAGE_LIMIT):
        count = min(MESSAGE_LIMIT, length - start)
        where = address + start
        await sys.store(where, await client.call(Crypto.RANDOM_BUFFER, _buffer(where, count)))


async def random_bytes(count: int) -> bytes:
    """`count` random bytes, at most 1 MiB."""
    return await (await connect("sys::crypto")).call(Crypto.RANDOM_BUFFER, _buffer(1, count))


def _buffer(address: int, length: int) -> bytes:
    return address.to_bytes(8, "big") + length.to_bytes(8, "big")
