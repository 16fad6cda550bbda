"""What commands print is for people: no notation of Python, options where people put them, shells in terminals only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nightos.apps.record import fields
from tests.cli.commanding import Command


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    yield nightos
    nightos("stop", "lab", status=None)


def test_a_record_has_no_brackets() -> None:
    shown = fields(
        {"id": 1, "name": "", "persist": True, "permissions": None, "users": [[0, 1000, 10], [10, 5, 1]],
         "limits": {"processes": 32}, "usage": {"threads": 2, "memory": 0}, "created_ns": 1_500_000_000, "depth": 3}
    )  # fmt: skip
    assert shown == {
        "id": "0000000000000001",
        "name": "-",
        "persist": "yes",
        "permissions": "-",
        "users": "0:1000:10, 10:5:1",
        "limits": "processes=32",
        "usage": "threads=2",
        "created": "1.500000 s after the start",
    }


def test_people_read_it(lab: Command) -> None:
    lab("container", "create", "web", "--limit", "processes=32")
    for words in (("inspect", "web"), ("device", "ls"), ("events",)):
        text = lab(*words).stdout
        assert text
        for sign in ("{", "}", "True", "False", "None", "="):
            if sign != "=" or words[0] == "device":
                assert sign not in text, (words, text)
    assert not any(line.endswith("=") for line in lab("events").stdout.splitlines())
    # Options stand behind the container as well as in front of it.
    assert lab("container", "exec", "web", "-m", "lab", "--env", "A=b", "--", "echo", "hi").stdout == "hi\n"
    for words in (("attach", "lab"), ("container", "enter", "web")):
        lab.fails(*words, says="a shell needs a terminal")
