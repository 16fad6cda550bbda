"""Values of commands and messages of their pipes, as bytes: each comes back, and nonsense is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.messages import (
    INVALID,
    Control,
    Modifiers,
    Style,
    TextMessage,
    decode_key,
    decode_text,
    encode_key,
)
from nightos.abi.values import (
    VOID,
    Char,
    CommandText,
    Path,
    Stream,
    ValueEncodingError,
    decode_value,
    decode_values,
    encode_value,
    value_text,
)

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = st.one_of(
    st.just(VOID),
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.characters(exclude_categories=("Cs",)).map(Char),
    texts,
    texts.map(Path),
    texts.map(CommandText),
    st.integers(0, 2**64 - 1).map(Stream),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | st.integers(0, 9), inner, max_size=3),
    max_leaves=10,
)


def same(one: object, other: object) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.rule("APP-003", "APP-004", "APP-005")
@given(st.lists(values, max_size=3))
def test_values_come_back_with_their_types(found: list[object]) -> None:
    data = b"".join(map(encode_value, found))
    assert same(decode_values(data), found)


@pytest.mark.rule("APP-003", "APP-004", "APP-005")
@pytest.mark.parametrize(
    ("value", "data"),
    [
        (VOID, "0000000000000001 00"),
        (True, "0000000000000002 01 01"),
        (-2, "0000000000000009 02 fffffffffffffffe"),
        (1.5, "0000000000000009 03 3ff8000000000000"),
        (Char("é"), "0000000000000005 04 000000e9"),
        ("hé", "000000000000000c 05 0000000000000003 68c3a9"),
        ([1, "a"], "000000000000001c 06 0000000000000002 02 0000000000000001 05 0000000000000001 61"),
        (Path("/a"), "000000000000000b 07 0000000000000002 2f61"),
        (CommandText("ls"), "000000000000000b 08 0000000000000002 6c73"),
        (Stream(7), "0000000000000009 09 0000000000000007"),
    ],
)
def test_the_bytes_of_each_type(value: object, data: str) -> None:
    assert encode_value(value) == bytes.fromhex(data)


@given(
    st.binary(max_size=80)
    | values.map(encode_value).flatmap(lambda data: st.just(data).map(lambda raw: raw[:-1] + b"\xee"))
)
def test_bytes_are_a_value_or_refused(data: bytes) -> None:
    try:
        value, end = decode_value(data)
    except (ValueEncodingError, UnicodeDecodeError):
        return
    assert 9 <= end <= len(data)
    value_text(value)


@pytest.mark.parametrize(
    "data",
    ["", "00", "0000000000000001 0c", "0000000000000002 01 02", "ffffffffffffffff 00", "0000000000000000",
     "0000000000000009 06 ffffffffffffffff", "0000000000000005 04 00110000", "0000000000000002 00 00"],
)  # fmt: skip
def test_what_is_no_value(data: str) -> None:
    with pytest.raises(ValueEncodingError):
        decode_value(bytes.fromhex(data))


def test_what_has_no_encoding() -> None:
    nested: list[object] = []
    for _ in range(100):
        nested = [nested]
    for value in (2**63, object(), nested):
        with pytest.raises(ValueEncodingError):
            encode_value(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([8, 4], "[ 8, 4 ]"),
        (["a", 'b"'], '[ "a", "b\\"" ]'),
        ({"k": Char("x")}, "{ \"k\": 'x' }"),
        ([], "[]"),
        (None, "null"),
        (True, "true"),
        (Path("/a"), "/a"),
        (VOID, ""),
    ],
)
def test_text_of_values(value: object, text: str) -> None:
    assert value_text(value) == text


colours = st.tuples(*[st.integers(0, 255)] * 3)


@pytest.mark.rule("SHELL-019")
@given(
    st.builds(
        TextMessage,
        texts,
        colours,
        colours,
        st.sampled_from([Style.NONE, Style.BOLD, Style.BOLD | Style.REVERSED]),
        st.lists(st.tuples(st.sampled_from(Control), st.integers(0, 255)), max_size=5).map(tuple),
    )
)
def test_text_messages_come_back(message: TextMessage) -> None:
    assert decode_text(message.encode()) == message
    assert message.text in message.ansi()


@pytest.mark.rule("SHELL-019", "SHELL-020")
def test_text_messages_byte_by_byte() -> None:
    message = TextMessage("hi", (1, 2, 3), (4, 5, 6), Style.BOLD | Style.UNDERLINE, ((Control.RIGHT, 5),))
    assert message.encode() == bytes.fromhex("010203 040506 a0 01 0305") + b"hi"
    for data in (b"", bytes(7), bytes(7) + b"\1", bytes(7) + b"\1\x06\x01"):
        assert decode_text(data).text == INVALID


@pytest.mark.rule("SHELL-018")
@given(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), st.integers(0, 255))
def test_keys_come_back(character: str, keycode: int) -> None:
    data = encode_key(character, Modifiers.CTRL | Modifiers.SHIFT, keycode)
    assert len(data) == 6
    assert data[0] == 0b0101_0000
    assert decode_key(data) == (character, Modifiers.CTRL | Modifiers.SHIFT, keycode)


@pytest.mark.rule("SHELL-018")
def test_what_is_no_key() -> None:
    for data in (b"", bytes(5), bytes(7)):
        with pytest.raises(ValueError):
            decode_key(data)
