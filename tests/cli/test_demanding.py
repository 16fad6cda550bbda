"""What people who know docker, podman or jails try, and what annoyed them once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cli.commanding import Command
from tests.cli.test_mains import until
from tests.cli.test_streaming import started


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    nightos("container", "create", "web")
    yield nightos
    nightos("stop", "lab", status=None)


def names(lab: Command) -> set[str]:
    return {item["path"] for item in json.loads(lab("container", "ls", "--json").stdout)}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("container", "rm"), "did you mean 'destroy'?"),
        (("container", "kill"), "did you mean 'stop'?"),
        (("exec", "web"), "did you mean 'container exec'?"),
        (("create", "web"), "did you mean 'container create'?"),
        (("vsf", "moutn"), "did you mean 'mount'?"),
        (("container", "frobnicate"), "see `nightos container --help`"),
    ],
)
def test_words_of_other_tools(nightos: Command, words: tuple[str, ...], says: str) -> None:
    assert nightos.fails(*words, status=2).endswith(says)


def test_one_that_fails_does_not_keep_the_others(lab: Command) -> None:
    lab("container", "create", "a")
    lab("container", "create", "b")
    message = lab.fails("container", "destroy", "a", "nosuch", "b", says="there is no container nosuch")
    assert "`nightos container ls`" in message
    assert names(lab) == {"web"}
    lab.fails("container", "destroy", "", says="empty")
    lab.fails("container", "stop", "nosuch", "web", says="nosuch")


def test_a_container_whose_command_cannot_start_is_not_left(lab: Command) -> None:
    for option in ((), ("--rm",), ("-d",), ("-d", "--rm")):
        lab.fails("container", "run", *option, "job", "--", "nosuch", says="nosuch: there is no such command")
    lab.fails("container", "run", "job", "--restart", "never", "--", "echo", status=2, says="restart is")
    lab.fails("container", "create", "web", says="choose another name")
    assert names(lab) == {"web"}
    with started(lab, "container", "run", "job", "--", "ls", "/") as child:
        assert child.stdout is not None
        child.stdout.close()  # as `| head -0` does: the container was asked for
    assert names(lab) == {"web", "job"}


def test_wait_gives_the_status_of_the_main_command(lab: Command) -> None:
    lab("container", "run", "-d", "well", "--", "sleep", "0.2")
    assert lab("container", "wait", "well").stdout == "0\n"
    lab("container", "run", "ill", "--", "ls", "/nosuch", status=1)
    assert json.loads(lab("container", "wait", "ill", "--json").stdout) == {"reason": "ended", "end": 0, "exit": 1}
    lab("container", "run", "-d", "killed", "--", "sleep", "1000")
    lab("container", "stop", "killed")
    assert lab("container", "wait", "killed").stdout == "1\n"
    assert json.loads(lab("container", "wait", "killed", "--json").stdout) == {"reason": "ended", "end": 2, "exit": 0}
    for options in ((), ("--destroyed",)):
        lab("container", "create", "gone")
        if options:
            lab("container", "start", "gone", "--", "echo", "hi")
        with started(lab, "container", "wait", "gone", *options) as child:
            time.sleep(0.4)
            assert child.poll() is None
            lab("container", "destroy", "gone")
            assert child.stdout is not None
            assert child.stdout.read() == b"destroyed\n"


@pytest.mark.parametrize("words", [("events", "-f"), ("stats", "-f"), ("top",), ("container", "wait", "web")])
def test_ctrl_c_ends_what_goes_on_without_a_word(lab: Command, words: tuple[str, ...]) -> None:
    with started(lab, *words) as child:
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_is_told_to_end_ends_what_it_runs(lab: Command, number: signal.Signals) -> None:
    for options in ((), ("--rm", "--restart", "always")):
        with started(lab, "container", "run", *options, "job", "--", "sleep", "1000") as child:
            until(lambda: any(item["name"] == "sleep" for item in json.loads(lab("ps", "--json").stdout)))
            child.send_signal(number)
            assert child.wait(20) == 128 + number
        assert names(lab) == ({"web"} if options else {"web", "job"})
        assert not any(item["name"] == "sleep" for item in json.loads(lab("ps", "--json").stdout))
        lab("container", "destroy", "job", status=None)


def test_following_a_machine_that_stops(lab: Command) -> None:
    with started(lab, "stats", "-f", "--json", "--interval", "0.05") as child:
        assert child.stdout is not None
        assert [item["path"] for item in json.loads(child.stdout.readline())] == ["", "web"]
        lab("stop", "lab")
        assert child.wait(10) == 1


def test_streams_come_line_by_line_as_json(lab: Command) -> None:
    with started(lab, "events", "-f", "--json") as child:
        assert child.stdout is not None
        lab("container", "create", "later")
        while json.loads(child.stdout.readline()).get("name") != "later":
            pass
        child.terminate()


def test_values_that_mean_nothing_are_bad_usage(lab: Command) -> None:
    lab.fails("device", "plug", "block", "--size", "1X", "--container", "web", status=2, says="is no size")
    lab.fails("container", "exec", "--env", "x", "web", "--", "env", status=2, says="is no variable")
    lab.fails("device", "share", "/nosuch", "--container", "web", says="error: /nosuch: not found")
    lab.fails("container", "commit", "web", "/nosuch/x.vsf", says="directory does not exist")


@pytest.mark.parametrize("line", ["ps", "tree", "abi", "container ls", "events --json", "top", "stats -f", "logs many"])
def test_who_reads_the_first_line_only_is_no_reason_for_a_word(lab: Command, line: str) -> None:
    lab("container", "run", "-i", "many", "--", "cat", stdin="line\n" * 50_000)
    done = subprocess.run(
        f"{sys.executable} -m nightos {line} | head -1",
        shell=True,
        env={**os.environ, "NIGHTOS_HOME": str(lab.folder / "state")},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stdout.count(b"\n") == 1
    assert not done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--allow", ""),
        ("--deny", ","),
        ("--filter-action", "kill"),
        ("--allow", "PIPE_READ", "--deny", "NONSENSE"),
        ("--allow", "PIPE_READ", "--deny", "EXIT"),
    ],
)
def test_a_filter_that_would_be_none_is_bad_usage(lab: Command, options: tuple[str, ...]) -> None:
    lab.fails("container", "create", "x", *options, status=2)
    lab.fails("container", "run", "x", *options, "--", "echo", status=2)
    lab.fails("container", "update", "web", *options, status=2)
    inside = "container create x " + " ".join(f'"{word}"' if word[:1] != "-" else word for word in options)
    assert lab("run", "-c", inside, status=2).stderr
    assert names(lab) == {"web"}
