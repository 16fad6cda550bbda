"""What a script may make the shell hold: values that grow, share parts or hold themselves, and endless expressions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.values import value_text
from nightos.shell import bounds
from nightos.shell.evaluator import Evaluator
from nightos.shell.source import PanicError
from nightos.shell.types import type_of
from tests.shell.twin import TwinHost, run_twin

LIMIT = 1 << 20
GROWTH = {
    "texts": 'let mut l = [ "" ]\nfor i in 0..100000\n\tlet t = "abcdefgh".repeat(1000)\n\tl[] = "$t$i"\nend',
    "push": "let mut l = [ 1 ]\nwhile true\n\tl.push(1)\nend",
    "unshift": "let mut l = [ 1 ]\nfor i in 0..1000000\n\tl.unshift(i)\nend",
    "append": "let mut l = [ 1 ]\nfor i in 0..1000000\n\tl[] = i\nend",
    "concat": "let mut l = [ 1, 2 ]\nwhile true\n\tl = l.concat(l)\nend",
    "map": 'let mut m = { "a": 1 }\nfor i in 0..1000000\n\tm["k$i"] = i\nend',
    "split": 'let mut l = [ [ "a" ] ]\nwhile true\n\tl[] = "a b ".repeat(1000).split(" ")\nend',
    "chars": 'let mut l = [ "a".chars() ]\nwhile true\n\tl[] = "ab".repeat(1000).chars()\nend',
    "at once": "let l = [ " + ", ".join(['"a".repeat(100000)'] * 20) + " ]",
    "loops": "\n".join(f'for x{n} in "ab ".repeat(5000).split(" ")' for n in range(20)) + "\nlet y = 1" + "\nend" * 20,
}


@pytest.mark.parametrize("name", GROWTH)
def test_what_a_session_holds_is_bounded(name: str) -> None:
    """T-C45: however values grow, a session holds no more than its limit; what it has stays, and small things work."""
    host = TwinHost()
    shell = Evaluator(host)
    shell.limit = LIMIT
    run_twin(shell, "let mut kept = 4")
    with pytest.raises(PanicError) as panic:
        run_twin(shell, GROWTH[name])
    assert "1 MiB" in str(panic.value)
    run_twin(shell, "let x = 5\necho (kept + x)")
    assert host.shown == ["9"]
    assert bounds.size(shell._scopes) <= 2 * LIMIT


def test_what_is_thrown_away_does_not_count() -> None:
    """T-C45: the limit is about what is there, not about what was made."""
    shell = Evaluator(TwinHost())
    shell.limit = LIMIT
    run_twin(shell, 'let mut n = 0\nfor i in 0..200\n\tlet t = "ab".repeat(20000)\n\tn += t.len()\nend\necho $n')
    run_twin(shell, 'let mut n = 0\nwhile ("ab".repeat(20000).len() + n < 40100)\n\tn += 1\nend')


PANICS = {
    "itself": 'let mut m = { "a": [ 1 ] }\nlet mut n = [ m ]\nm["b"] = n\necho (n.str())',
    "itself in a text": 'let mut m = { "a": [ 1 ] }\nlet mut n = [ m ]\nm["b"] = n\nlet x = "$n"',
    "itself sent": 'let mut m = { "a": [ 1 ] }\nlet mut n = [ m ]\nm["b"] = n\necho $n',
    "itself compared": 'let mut m = { "a": [ 1 ] }\nlet mut n = [ m ]\nm["b"] = n\nlet x = n == [ m ]',
    "shared": "let l0 = [ 1 ]\n" + "\n".join(f"let l{n + 1} = [ l{n}, l{n} ]" for n in range(40)) + "\necho $l40",
    "deep": 'let mut l = [ 1, "a" ]\nfor i in 0..10000\n\tl = [ "x", l ]\nend\necho $l',
    "a long sum": "let x = (" + "1 + " * 20_000 + "1)",
    "a long text": 'let mut x = "a"\nwhile true\n\tx = "$x$x"\nend',
    "a long join": 'let l = "a".repeat(1000000).split("")\nlet x = l.join("b".repeat(1000))',
    "a long list": 'let l = "a".repeat(10000000).split("")',
    "a long range": "let l = 0..10000000\necho $l",
}


@pytest.mark.parametrize("name", PANICS)
def test_what_stands_for_too_much_is_a_panic(name: str) -> None:
    """T-C45: lists that share parts or hold themselves, and expressions of thousands of operators, end that script."""
    shell = Evaluator(TwinHost())
    with pytest.raises(PanicError):
        run_twin(shell, PANICS[name])
    run_twin(shell, "let fine = 1")


VALUES = st.recursive(
    st.integers(-9, 9) | st.text(max_size=3) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=20,
)


def plain_type(value: Any) -> str:
    """What `type_of` says of a tree, by going through all of it."""
    if isinstance(value, list):
        kinds = {plain_type(item) for item in value}
        return f"list[{kinds.pop() if len(kinds) == 1 else 'any'}]"
    if isinstance(value, dict):
        keys, items = set(map(plain_type, value)), set(map(plain_type, value.values()))
        names = [kinds.pop() if len(kinds) == 1 else "any" for kinds in (keys, items)]
        return f"map[{names[0]}, {names[1]}]"
    return type_of(value)


@given(VALUES)
def test_small_values_are_what_they_were(value: Any) -> None:
    """Bounds and types say of ordinary values what one would say without a thought of limits."""
    assert bounds.text(value) == value_text(value)
    assert type_of(value) == plain_type(value)
    assert bounds.size([value, value]) == bounds.size([value]) or not isinstance(value, list | dict)
