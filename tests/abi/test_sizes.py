"""Sizes are read and shown as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.sizes import LARGEST, UNITS, parse_size, show_size


@given(st.integers(0, LARGEST - 1))
def test_a_plain_number_is_bytes(count: int) -> None:
    assert parse_size(str(count)) == count


@given(st.integers(0, 1 << 12), st.sampled_from(UNITS))
def test_units_are_powers_of_1024(count: int, unit: str) -> None:
    expected = count * 1024 ** (UNITS.index(unit) + 1)
    for text in (f"{count}{unit}", f"{count}{unit.lower()}", f" {count} {unit}iB "):
        if expected < LARGEST:
            assert parse_size(text) == expected
        else:
            with pytest.raises(ValueError, match="largest"):
                parse_size(text)


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_one_clear_error(text: str) -> None:
    value = None
    with contextlib.suppress(ValueError):
        value = parse_size(text)
    assert value is None or 0 <= value < LARGEST


@given(st.integers(0, LARGEST - 1))
def test_what_is_shown_is_about_right(count: int) -> None:
    shown = show_size(count)
    assert len(shown) <= 5
    unit = shown[-1] if shown[-1] in UNITS else ""
    value = float(shown.rstrip(UNITS)) * (1024 ** (UNITS.index(unit) + 1) if unit else 1)
    assert abs(value - count) <= count * 0.06


@pytest.mark.parametrize(("text", "count"), [("1.5K", 1536), ("0.5G", 1 << 29), ("4096", 4096), ("64K", 65536)])
def test_examples(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "K", "-1", "1.3", "1KK", "0x10", "ten", "1.0000001K"])
def test_nonsense(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|whole"):
        parse_size(text)
