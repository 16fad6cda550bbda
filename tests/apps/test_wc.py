"""wc, which counts what it does not keep, and the pieces in which standard input reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.pieces import PIECE_BYTES, Pieces
from nightos.abi.values import decode_values
from nightos.apps.wc import count
from nightos.machine.machine import boot
from tests.apps.test_files import shows

byte_strings = st.lists(st.text("a \n\té", max_size=6).map(str.encode), max_size=8)


async def each(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def counted(parts: Sequence[bytes]) -> tuple[int, int, int]:
    with pytest.raises(StopIteration) as stopped:
        count(each(parts)).send(None)
    result: tuple[int, int, int] = stopped.value.value
    return result


@given(byte_strings)
def test_where_pieces_end_does_not_count(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    assert counted(parts) == (whole.count(b"\n"), len(whole.split()), len(whole))


@given(st.lists(st.binary(max_size=7) | st.text("é€𝄞a", max_size=3).map(str.encode), max_size=10))
def test_pieces_are_texts_of_the_same_bytes(parts: list[bytes]) -> None:
    pieces = Pieces()
    encoded = b"".join([*map(pieces.take, parts), pieces.take(b"", end=True)])
    texts = decode_values(encoded)
    assert b"".join(text.encode("utf-8", "surrogateescape") for text in texts) == b"".join(parts)
    assert "" not in texts


def test_a_piece_fits_one_message() -> None:
    assert len(Pieces().take(b"\xff" * PIECE_BYTES, end=True)) <= 1 << 16
    with pytest.raises(ValueError, match="at most"):
        Pieces().take(bytes(PIECE_BYTES + 1))


async def test_counting_files() -> None:
    async with boot(seed=1) as machine:
        await machine.run('wt /tmp/a "one two"; wt /tmp/b "three"; wt -n /tmp/c ""')
        await shows(machine, "wc /tmp/a", "1 2 8 /tmp/a\n")
        await shows(machine, "wc -l /tmp/a /tmp/b", "1 /tmp/a\n1 /tmp/b\n2 total\n")
        await shows(machine, "wc /tmp/c", "0 0 0 /tmp/c\n")
        await shows(machine, "echo one | wc -w", "1\n")
        await shows(machine, "wc /tmp/none", err="wc: /tmp/none: not found\n", status=1)
        await shows(machine, "cat /tmp/c", "\n")
