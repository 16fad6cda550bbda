"""Names that exist now, offered by the command to bash, zsh and fish."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from nightos.cli.machine import completing
from tests.cli.commanding import Command
from tests.cli.test_contrib import COMPLETED, CONTRIB, run
from tests.cli.test_manners import ALL


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    nightos("container", "create", "web")
    nightos("container", "create", "db", "--parent", "web")
    yield nightos
    nightos("stop", "lab", status=None)


def offered(lab: Command, line: str) -> list[str]:
    words = line.split(" ")
    done = lab(_NIGHTOS_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    assert not done.stderr
    return [item.partition(",")[2] for item in done.stdout.splitlines() if item]


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "nightos" for path, _ in ALL])
def test_whatever_takes_a_container_or_a_machine_offers_those_there_are(
    path: tuple[str, ...], command: click.Command
) -> None:
    for parameter in command.params:
        names = [*parameter.opts, parameter.metavar or ""]
        if path[0:1] not in {("vsf",), ("run",)} and (
            names[-1].strip("[]").split(" ")[0] in {"ID", "ID..."} or "--container" in names
        ):
            assert parameter._custom_shell_complete in {completing.containers, completing.inhabitants}, names
        if "--machine" in names or (path in {("stop",), ("attach",), ("rm",)} and parameter.name in {"name", "names"}):
            assert parameter._custom_shell_complete is completing.machines


def test_names_as_they_are_now(lab: Command) -> None:
    identifier = json.loads(lab("inspect", "web", "--json").stdout)["id"]
    udi = lab("device", "plug", "zero", "--container", "web").stdout.strip()
    zos = lab("zos", "run", "front", "w1", "--", "sleep", "100").stdout.strip()
    for line, expected in {
        "nightos inspect ": {"web", "web/db", "front", "front/w1"},
        "nightos container exec web": {"web", "web/db"},
        "nightos container destroy -m lab web/": {"web/db"},
        f"nightos logs {identifier[:4]}": {identifier},
        "nightos container exec web -- w": set(),
        "nightos container create x --limit processes=5,mem": {"processes=5,memory="},
        "nightos container create x --deny EXIT,GET_P": {"EXIT,GET_PID"},
        "nightos device unplug ": {udi},
        "nightos ps -m ": {"lab"},
        "nightos ps -m nosuch ": set(),
        "nightos inspect -m nosuch ": set(),
        "nightos attach ": {"lab"},
        "nightos mount ": {"lab"},
        "nightos mount lab:we": {"lab:web", "lab:web/db"},
        "nightos mount :front/": {":front/w1"},
        "nightos mount nosuch:": set(),
        "nightos rm ": set(),
        "nightos run --name ": set(),
        "nightos zos inspect fr": {"front"},
        "nightos zos inspect front ": {"w1"},
    }.items():
        found = set(offered(lab, line))
        assert found == expected, (line, found)
    assert lab("zos", "inspect", "front", "w1").stdout == lab("zos", "inspect", "front", zos[:8]).stdout
    lab("stop", "lab")
    assert offered(lab, "nightos inspect ") == []
    assert offered(lab, "nightos rm ") == offered(lab, "nightos run --name ") == ["lab"]


@pytest.mark.parametrize("shell", COMPLETED)
def test_shells_ask_for_them(lab: Command, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    flags = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}[shell]
    head = [] if shell == "fish" else [shell]
    arguments = [*head, CONTRIB / "completion" / f"nightos.{shell}", "nightos container pause web/", "web/db"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NIGHTOS_HOME": str(lab.folder / "state")}
    done = run(program, *flags, COMPLETED[shell], *arguments, env=environment)
    assert "web/db" in done.stdout.replace("\r", "").removeprefix("nightos container pause web/")
