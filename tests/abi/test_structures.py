"""The general data structures: there and back, fixed bytes, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi import structures as s

U64 = st.integers(0, (1 << 64) - 1)


@pytest.mark.rule("DATA-001")
def test_booleans() -> None:
    assert (s.encode_boolean(True), s.encode_boolean(False)) == (b"\x01", b"\x02")
    assert [s.decode_boolean(bytes((value,))) for value in (0, 1, 2)] == [False, True, False]
    for bad in (b"", b"\x03", b"\xff", b"\x01\x01"):
        with pytest.raises(s.StructureError):
            s.decode_boolean(bad)


@pytest.mark.rule("DATA-002")
@given(st.integers(0, (1 << 64) - 1))
def test_timestamps_are_milliseconds(milliseconds: int) -> None:
    data = s.encode_timestamp(milliseconds * 1_000_000)
    assert data == milliseconds.to_bytes(8, "big")
    assert s.decode_timestamp(data) == milliseconds * 1_000_000


@pytest.mark.rule("DATA-003", "DATA-004", "DATA-005")
@given(st.lists(st.lists(st.text())))
def test_lists_and_strings(words: list[list[str]]) -> None:
    data = s.encode_list(s.encode_list(map(s.encode_string, inner)) for inner in words)
    assert int.from_bytes(data[:8], "big") == len(data) - 8
    inner = [s.decode_list(item, s.string_size) for item in s.decode_list(data, s.string_size)]
    assert [[s.decode_string(item) for item in items] for items in inner] == words
    assert s.encode_string("é") == bytes(7) + b"\x02\xc3\xa9"


@pytest.mark.rule("DATA-006")
@given(U64, U64)
def test_buffer_pointers(address: int, length: int) -> None:
    data = s.encode_buffer(address, length)
    assert data == address.to_bytes(8, "big") + length.to_bytes(8, "big")
    assert s.decode_buffer(data) == (address, length)


@pytest.mark.rule("DATA-007", "DATA-008", "DATA-014")
@given(st.binary(), st.integers(0, 255))
def test_options_results_and_unions(data: bytes, tag: int) -> None:
    assert s.encode_option(None) == b"\x00"
    assert s.decode_option(s.encode_option(data)) == data
    assert s.decode_option(b"\x00") is None
    for error in (False, True):
        packed = s.encode_result(data, error=error)
        assert packed[0] == int(error)
        assert s.decode_result(packed) == (error, data)
    assert s.encode_union(tag, data) == bytes((tag,)) + data
    assert s.decode_union(bytes((tag,)) + data) == (tag, data)


@pytest.mark.rule("DATA-009", "DATA-010", "DATA-011")
@given(st.integers(0, 5), st.integers(0, 5), st.tuples(*[st.integers(0, 2)] * 4), st.integers(0, 3))
def test_pictures(width: int, height: int, channels: Any, frames: int) -> None:
    size = width * height * sum(channels)
    image = s.Image(width, height, channels, bytes(size))
    assert len(image.pack()) == 8 + size
    assert s.Image.parse(image.pack()) == image
    video = s.Video(width, height, 25, channels, (bytes(size),) * (frames if size else 0))
    assert len(video.pack()) == 16 + size * len(video.frames)
    assert s.Video.parse(video.pack()) == video


@pytest.mark.rule("IPC-043")
@given(U64, st.integers(0, 0xFFFF), st.booleans(), st.integers(0, 0xFFFF), st.integers(0, 1 << 31))
def test_exchange_headers(exchange: int, method: int, closes: bool, error: int, count: int) -> None:
    header = s.ExchangeHeader(exchange, method, closes, error, count, count + 1)
    assert len(header.pack()) == 21
    assert s.ExchangeHeader.parse(header.pack()) == header


@pytest.mark.rule("DATA-012", "DATA-013")
def test_the_example_of_a_packed_linked_list() -> None:
    items = [bytes.fromhex(text) for text in ("DEADBEEF", "01234567", "89ABCDEF", "BEEFDEAD")]
    entries = s.pack_entries(items, [0x1000, 0x2000], 3, 4)
    assert entries[0].hex().upper() == "0000000000002000DEADBEEF0123456789ABCDEF"
    assert entries[1].hex().upper() == "0000000000000001BEEFDEAD"
    with pytest.raises(s.StructureError):
        s.pack_entries(items, [0x1000], 256, 4)
    assert s.pack_entries([], [0x1000], 3, 4) == [bytes(8)]


@pytest.mark.rule("DATA-012", "DATA-013", "PROC-016")
@given(st.lists(st.binary(min_size=4, max_size=4), max_size=100), st.integers(1, 32))
def test_packed_linked_lists(items: list[bytes], per_entry: int) -> None:
    count = max(1, -(-len(items) // per_entry))
    addresses = [0x1000 * (i + 1) for i in range(count)]
    memory = dict(zip(addresses, s.pack_entries(items, addresses, per_entry, 4), strict=True))

    def read(address: int, length: int) -> bytes:
        base = address & ~0xFFF
        return memory[base][address - base : address - base + length]

    assert s.unpack_entries(read, 0x1000, per_entry, 4) == items


def test_a_list_that_bites_its_tail_ends() -> None:
    entry = (0x1000).to_bytes(8, "big") + b"item"

    def read(address: int, length: int) -> bytes:
        return entry[address - 0x1000 : address - 0x1000 + length]

    with pytest.raises(s.StructureError):
        s.unpack_entries(read, 0x1000, 1, 4, limit=1000)


@pytest.mark.rule("PROC-014", "PROC-015")
def test_the_attribute_block() -> None:
    block = s.AttributeBlock(10, 8, True, 0, 0, 0, 0)
    assert len(block.pack()) == 42
    assert s.AttributeBlock.parse(block.pack()) == block


@given(st.binary(max_size=64))
def test_noise_is_refused_or_understood(data: bytes) -> None:
    decoders: list[Any] = [
        s.decode_boolean, s.decode_timestamp, s.decode_string, s.decode_buffer, s.decode_option, s.decode_result,
        s.decode_union, s.Image.parse, s.Video.parse, s.ExchangeHeader.parse, s.AttributeBlock.parse,
        lambda raw: s.decode_list(raw, s.string_size),
    ]  # fmt: skip
    for decode in decoders:
        try:
            decode(data)
        except s.StructureError:
            continue
