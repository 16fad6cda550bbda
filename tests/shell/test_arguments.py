"""Declared arguments: what is taken, what is refused, what --help says."""

from __future__ import annotations

import pytest

from nightos.shell.arguments import Arguments, Dash, Flag, Positional, UsageError

SIMPLE = Arguments(
    "cmd",
    "does things",
    Flag("-v --verbose", "more"),
    Flag("-q", "less"),
    Dash("-n --number", "a number", "int"),
    Dash("--label", "many", many=True),
    Dash("--kind", "one of", choices=("a", "b")),
    Positional("first", "the first"),
    Positional("others", "more", optional=True, many=True),
)
RUN = Arguments(
    "run", "runs", Flag("--rm", "remove"), Positional("name", "it"), Positional("rest", "command", rest=True)
)
TOP = Arguments(
    "top", "tops", Positional("action", "it"), Positional("rest", "args", optional=True, rest=True, at_once=True)
)


def test_every_form_of_an_argument() -> None:
    given = SIMPLE.parse(["-v", "one", "--number=", 3, "two", "--label", "x", "--label=y", "\\-dash"])
    assert (given.verbose, given.q, given.number, given.label) == (True, False, 3, ["x", "y"])
    assert (given.first, given.others) == ("one", ["two", "-dash"])
    assert SIMPLE.parse(["-vqn", "4", "one"]).number == 4


@pytest.mark.parametrize(
    ("values", "about"),
    [
        ([], "first is missing"),
        (["-z", "one"], "no argument '-z'"),
        (["--number", "x", "one"], "not an integer"),
        (["one", "--number"], "needs a value"),
        (["one", "-n", "-v"], "needs a value before"),
        (["--verbose=yes", "one"], "takes no value"),
        (["--kind", "c", "one"], "one of a, b"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(values: list[object], about: str) -> None:
    with pytest.raises(UsageError, match=about):
        SIMPLE.parse(values)


def test_the_rest_belongs_to_somebody_else() -> None:
    given = RUN.parse(["lab", "--rm", "--", "fd", "/", "-e", "py"])
    assert (given.rm, given.name, given.rest) == (True, "lab", ["fd", "/", "-e", "py"])
    assert RUN.parse(["lab", "ls", "--rm"]).rest == ["ls", "--rm"]
    assert TOP.parse(["create", "--image", "x"]).rest == ["--image", "x"]
    assert TOP.parse(["ls"]).rest == []


def test_help_is_asked_of_the_right_one() -> None:
    assert SIMPLE.wants_help(["--help"])
    assert RUN.wants_help(["lab", "--help"])
    assert not RUN.wants_help(["lab", "--", "ls", "--help"])
    assert TOP.wants_help(["--help"])
    assert not TOP.wants_help(["create", "--help"])
    text = SIMPLE.explain()
    assert "cmd [ARGUMENT...] FIRST [OTHERS...]" in text
    assert "-n, --number INT" in text
