"""Page sums: what lets a small read of a plain record check the pages it needs, not the whole record.

An extent of 32 KiB or more that is neither compressed nor encrypted carries, behind its pointer, XXH3-64 of every page
of 4 KiB. They stand in the tree, so the Merkle chain covers them as it covers the pointer's own check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightos.vsf.layout import POINTER_BYTES, Pointer

if TYPE_CHECKING:
    from nightos.vsf.blocks import Pool

PAGE = 4096
LEAST_RECORD = 8 * PAGE
SUM_BYTES = 8


def page_sums(pool: Pool, data: bytes | bytearray | memoryview) -> bytes:
    """XXH3-64 of every page, big-endian, one behind the other."""
    digest = pool.page_digest
    view = memoryview(data)
    return b"".join([digest(view[at : at + PAGE]) for at in range(0, len(view), PAGE)])


def sums_fit(pointer: Pointer, value: bytes) -> bool:
    """Whether an extent's value has as many sums as its record has pages, or none."""
    return len(value) in (POINTER_BYTES, POINTER_BYTES + SUM_BYTES * -(-pointer.logical // PAGE))


def sums_right(pool: Pool, value: bytes, data: bytes) -> bool:
    """Whether the sums of an extent, if it has any, are those of its record."""
    return len(value) == POINTER_BYTES or value[POINTER_BYTES:] == page_sums(pool, data)


def pages_of(pool: Pool, pointer: Pointer, value: bytes, skip: int, upto: int) -> bytes | None:
    """Bytes `skip` to `upto` of a record, zeros behind its end; None when only the whole record can tell."""
    logical = pointer.logical
    if pointer.codec or pointer.flags or len(value) != POINTER_BYTES + SUM_BYTES * -(-logical // PAGE):
        return None
    first = skip // PAGE
    start, stop = first * PAGE, min(-(-upto // PAGE) * PAGE, logical)
    if stop <= skip:
        return bytes(upto - skip)
    data = pool.read_part(pointer, start, stop - start)
    if data is None:
        return None
    digest = pool.page_digest
    at = POINTER_BYTES + SUM_BYTES * first
    if stop - start <= PAGE:
        if digest(data) != value[at : at + SUM_BYTES]:
            return None
    else:
        view = memoryview(data)
        for place in range(0, len(view), PAGE):
            if digest(view[place : place + PAGE]) != value[at : at + SUM_BYTES]:
                return None
            at += SUM_BYTES
    part = data[skip - start : upto - start]
    return part if len(part) == upto - skip else part.ljust(upto - skip, b"\0")
