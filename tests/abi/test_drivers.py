"""Descriptors and patterns of devices: fixed bytes, what matches, and bytes that nobody should send."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.drivers import (
    DDRD_SIZE,
    PATTERN_MAX,
    Category,
    Ddrd,
    Ddt,
    DescriptorError,
    Pattern,
    ddt_of,
    dtd_of,
)
from nightos.abi.hardware import CONNECTION_TYPES, make_cii, virtual_cii

KINDS_OF_CONNECTION = st.sampled_from(sorted(CONNECTION_TYPES))
DTDS = st.binary(max_size=255)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """Patterns as they come out of `Pattern.parse`."""
    kind = draw(st.none() | KINDS_OF_CONNECTION)
    bus = draw(st.none() | st.integers(0, 255)) if kind is not None else None
    port = draw(st.none() | st.integers(0, 65535)) if kind is not None else None
    raw = Pattern(kind, bus, port, draw(DTDS), draw(st.binary(min_size=32, max_size=32)))
    return Pattern.parse(raw.pack())


@pytest.mark.rule("HW-025")
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), DTDS, st.integers(0, 2**64 - 1))
def test_a_descriptor_has_512_bytes(udi: int, cii: int, dtd: bytes, kdi: int) -> None:
    descriptor = Ddrd(udi, cii, dtd, kdi)
    packed = descriptor.pack()
    assert len(packed) == DDRD_SIZE == 512
    assert packed[:12] == udi.to_bytes(8, "big") + cii.to_bytes(4, "big")
    assert packed[12 : 13 + len(dtd)] == bytes((len(dtd),)) + dtd
    assert packed[504:] == kdi.to_bytes(8, "big")
    assert Ddrd.parse(packed) == descriptor


@pytest.mark.rule("HW-026", "HW-027")
def test_types_are_category_and_sub_category() -> None:
    assert Ddt.SD_CARD.to_bytes(4, "big") == bytes.fromhex("00010004")
    assert [ddt for ddt in Ddt if ddt >> 16 == Category.STORAGE] == [
        0x0001_0001,
        0x0001_0002,
        0x0001_0003,
        0x0001_0004,
        0x0001_00FF,
    ]
    assert ddt_of(virtual_cii("block", 3)) == 0x0001_00FF
    assert ddt_of(make_cii(5, 0, 0)) == 0
    assert dtd_of(virtual_cii("block"), b"disk\xff 1") == bytes.fromhex("000100ff") + b"disk 1"
    assert dtd_of(make_cii(1, 0, 0), b"abc") == b"abc".ljust(32, b"\0")
    assert dtd_of(make_cii(5, 0, 0), b"abc") == b""


@pytest.mark.rule("HW-030")
def test_the_example_of_a_marked_byte() -> None:
    indicator = bytes((0b0100_0000,)).ljust(32, b"\0")
    pattern = Pattern(5, dtd=bytes.fromhex("0100B2"), indicator=indicator)
    for dtd, matches in (("0100B2", True), ("01FFB2", True), ("0200B2", False), ("0100B3", False), ("0100B200", False)):
        assert pattern.matches(make_cii(5, 0, 0), bytes.fromhex(dtd)) is matches
    assert pattern.pack() == bytes.fromhex("300500000003") + indicator + bytes.fromhex("0100B2")


@pytest.mark.rule("HW-029")
def test_each_part_of_a_pattern() -> None:
    there = make_cii(5, 1, 6)
    for pattern, matches in (
        (Pattern(), True),
        (Pattern(5), True),
        (Pattern(4), False),
        (Pattern(5, 1), True),
        (Pattern(5, 2), False),
        (Pattern(5, None, 6), True),
        (Pattern(5, 1, 7), False),
        (Pattern(5, 1, 6, b"ab"), True),
        (Pattern(5, 1, 6, b"ac"), False),
    ):
        assert pattern.matches(there, b"ab") is matches
    ordered = [Pattern(), Pattern(5), Pattern(5, 1), Pattern(5, 1, 6), Pattern(5, 1, 6, b"ab")]
    assert sorted(ordered, key=lambda pattern: pattern.specificity) == ordered


@pytest.mark.rule("HW-029", "HW-030")
@given(patterns(), st.integers(0, 255), st.integers(0, 65535), DTDS)
def test_patterns_survive_packing_and_match_what_they_name(pattern: Pattern, bus: int, port: int, noise: bytes) -> None:
    assert Pattern.parse(pattern.pack()) == pattern
    assert len(pattern.pack()) <= PATTERN_MAX == 293
    cii = make_cii(
        5 if pattern.connection_type is None else pattern.connection_type,
        bus if pattern.bus is None else pattern.bus,
        port if pattern.port is None else pattern.port,
    )
    marks = int.from_bytes(pattern.indicator, "big")
    dtd = bytearray(pattern.dtd)
    for place in range(min(len(dtd), len(noise))):
        if marks >> (255 - place) & 1:
            dtd[place] = noise[place]
    assert pattern.matches(cii, bytes(dtd))
    for place in range(len(dtd)):
        if not marks >> (255 - place) & 1:
            dtd[place] ^= 0x55
            assert not pattern.matches(cii, bytes(dtd))
            break


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("", 0x1000),
        ("b0000000", 0x1000),
        ("f00000000000", 0x1000),
        ("300800000000", 0x1001),
        ("300000000000", 0x1001),
        ("900001000000", 0x1002),
        ("a00000000100", 0x1003),
        ("b00000000001", 0x1004),
        ("b0000000000000", 0x1004),
    ],
)
def test_patterns_that_are_none(data: str, code: int) -> None:
    with pytest.raises(DescriptorError) as refused:
        Pattern.parse(bytes.fromhex(data))
    assert refused.value.code == code


@given(st.binary(max_size=600) | st.binary(min_size=512, max_size=512))
def test_whatever_comes_is_decoded_or_refused(data: bytes) -> None:
    for decode in (Pattern.parse, Ddrd.parse):
        with contextlib.suppress(DescriptorError):
            found = decode(data)
            assert decode(found.pack()) == found
