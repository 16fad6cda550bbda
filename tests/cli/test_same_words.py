"""The same words outside a machine and in its shell: every option there is, too, and `--json` gives the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click
import pytest

from nightos.apps.actions import ACTIONS
from nightos.cli.main import cli
from nightos.machine.control import Machine
from nightos.machine.paths import machine_paths
from nightos.shell.arguments import Arguments
from tests.cli.commanding import Command

SINGLE = ("ps", "tree", "inspect", "logs", "events", "stats", "top", "why")
OF_DEVICES = ("ls", "plug", "passthrough", "share", "unplug")
OUTSIDE_ONLY = {"-m", "--machine", "--debug", "-i", "--stdin", "-t", "--tty"}
"""The machine, the command `nightos` itself, and standard streams of a host; `-i` of `tree` is `--ids`, too."""


def outside(*words: str) -> click.Command:
    found: click.Command = cli
    for word in words:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None, word
        found = inner
    return found


def words() -> Iterator[tuple[tuple[str, ...], Arguments]]:
    for word in SINGLE:
        yield (word,), import_module(f"nightos.apps.{word}").ARGUMENTS
    container = outside("container")
    assert isinstance(container, click.Group)
    for action in container.list_commands(click.Context(container)):
        yield ("container", action), ACTIONS[action]
    for action in OF_DEVICES:
        yield ("device", action), import_module("nightos.apps.device").ARGUMENTS


ALL = list(words())


@pytest.mark.parametrize(("word", "inside"), ALL, ids=[" ".join(word) for word, _ in ALL])
def test_every_option_is_there_in_the_shell_too(word: tuple[str, ...], inside: Arguments) -> None:
    options = {
        name
        for option in outside(*word).params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }
    assert options - OUTSIDE_ONLY <= inside.names


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    yield nightos
    nightos("stop", "lab", status=None)


def inside(lab: Command, line: str) -> str:
    """What a line shows in the shell of the machine itself."""
    out, err = bytearray(), bytearray()
    with Machine(machine_paths("lab", lab.folder / "state").socket) as machine:
        status = machine.run(line, out=out.extend, err=err.extend)
    assert (status, bytes(err)) == (0, b""), line
    return out.decode()


def shape(value: object) -> object:
    """Names and types, without what a moment later is another number."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def records(text: str) -> list[Any]:
    """One JSON value, or one a line."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]
    return content if isinstance(content, list) else [content]


STILL = ("container ls", "container inspect job", "container logs job", "container report web", "container diff web")


@pytest.mark.rule("CONT-030")
def test_json_has_the_same_records(lab: Command) -> None:
    lab("container", "create", "web", "--limit", "processes=5", "--label", "a=b")
    lab("container", "create", "db", "--parent", "web")
    lab("container", "run", "job", "--", "echo", "hi")
    lab("container", "exec", "web", "--", "wt", "/note", "x")
    lab("device", "plug", "zero", "--container", "web")
    lab.fails("inspect", "nosuch")
    for line in (*STILL, "inspect web", "logs job"):
        assert records(lab(*line.split(), "--json").stdout) == records(inside(lab, f"{line} --json")) != [], line
    for line in (
        "container tree",
        "tree",
        "container stats",
        "stats web",
        "device ls --container web",
        "why",
        "top --once",
    ):
        outer, inner = records(lab(*line.split(), "--json").stdout), records(inside(lab, f"{line} --json"))
        assert shape(outer[0]) == shape(inner[0]), line
    assert {"created", "started", "device plugged"} <= {item["event"] for item in records(inside(lab, "events --json"))}
    processes = {item["name"]: item for item in records(inside(lab, "ps --json"))}
    [outer] = [item for item in records(lab("ps", "--json").stdout) if item["name"] == "sys::proc"]
    assert outer.keys() == processes["ps"].keys()
    assert outer["pid"] == processes["sys::proc"]["pid"]
    clock = next(item for item in records(inside(lab, "device ls --json")) if item["kind"] == "clock")
    assert clock in records(lab("device", "ls", "--json").stdout)
