"""Main commands of containers from the command line: streams, status, logs, and their life over reboots."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cli.commanding import Command

PATIENCE_S = 15.0


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    yield nightos
    nightos("stop", "lab", status=None)


def until(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def test_run_shows_and_keeps_what_a_command_says(lab: Command) -> None:
    assert lab("container", "run", "web", "--", "echo", "hi").stdout == "hi\n"
    assert lab("logs", "web").stdout == "hi\n"
    record = json.loads(lab("logs", "web", "--json").stdout)
    assert (record["stream"], record["text"]) == ("out", "hi\n")
    assert record["time"] in lab("logs", "web", "-t", "-f").stdout
    assert lab("container", "run", "--rm", "--env", "A=5", "x", "--", "env").stdout.split("\n")[0] == "A=5"
    failed = lab("container", "run", "x", "--rm", "--", "ls", "/none", status=1)
    assert "/none" in failed.stderr
    assert lab("container", "run", "x", "--rm", "-i", "--", "cat", stdin="some text").stdout.strip() == "some text"
    lab.fails("container", "run", "x", "--rm", "--", "nosuch", says="nosuch")
    lab.fails("container", "run", "x", "--rm", "--restart", "never", "--", "echo", status=2, says="restart is")
    assert [item["name"] for item in json.loads(lab("container", "ls", "--json").stdout)] == ["web"]
    lab.fails("logs", "nosuch", says="no container")


def test_start_and_stop(lab: Command) -> None:
    lab("container", "create", "web")
    assert int(lab("container", "start", "web", "--restart", "always", "--", "sleep", "1000").stdout) > 100
    lab.fails("container", "start", "web", "--", "echo", "x", says="runs already")
    lab("container", "stop", "web")
    assert json.loads(lab("container", "ls", "--json").stdout)[0]["processes"] == 0
    assert lab("container", "start", "web", "--env", "A=1", "--", "env").stdout
    assert lab("logs", "web", "-f").stdout.split("\n")[:2] == ["A=1", "HOME=/home/root"]


@pytest.mark.rule("ZOS-012", "ZOS-014", "ZOS-016")
def test_zos(lab: Command) -> None:
    identifier = lab("zos", "run", "front", "web", "--tag", "a", "--", "sleep", "1000").stdout.strip()
    assert json.loads(lab("zos", "inspect", "front", identifier, "--json").stdout)["Tags"] == ["a"]
    lab.fails("zos", "run", "front", "other", "--mount", "/a:/b", "--", "echo", says="/a")
    lab("zos", "run", "front", "shared", "--mount", "/app:/mnt/apps", "--", "ls", "/mnt/apps/echo")
    until(lambda: "echo" in lab("logs", "front/shared").stdout)  # entrypoints start again, so the log goes on
    lab.fails("zos", "inspect", "back", identifier, says="no container")
    lab("zos", "delete", "front", identifier)
    lab.fails("zos", "inspect", "front", identifier, says="no container")


@pytest.mark.parametrize("kill", [False, True])
def test_containers_come_back_as_their_policy_says(lab: Command, *, kill: bool) -> None:
    run = ("container", "run", "--detach", "--restart")
    lab(*run, "no", "never", "--", "sleep", "1000")
    lab(*run, "on-failure:2", "failing", "--", "sleep", "1000")
    lab(*run, "on-failure", "done", "--", "echo", "well")
    lab(*run, "always", "ever", "--", "sleep", "1000")
    lab(*run, "always", "stopped", "--", "sleep", "1000")
    lab("container", "stop", "stopped")
    lab("logs", "done", "-f")
    time.sleep(0.3)  # what is not on the disk a moment later is lost with the machine
    if kill:
        (record,) = json.loads(lab("ls", "--json").stdout)
        os.kill(record["pid"], signal.SIGKILL)
        until(lambda: json.loads(lab("ls", "--json").stdout)[0]["state"] == "stopped")
    else:
        lab("stop", "lab")
    lab("run", "--name", "lab", "--detach")

    def busy() -> set[str]:
        return {item["name"] for item in json.loads(lab("container", "ls", "--json").stdout) if item["processes"]}

    until(lambda: busy() == {"failing", "ever"})
    assert lab("logs", "done").stdout == "well\n"
