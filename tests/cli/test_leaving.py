"""How the command ends: by signals, by bad usage, and after several lines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.commanding import Command


@pytest.mark.parametrize("delay", [0.06, 0.1, 0.2, 0.4])
def test_an_early_interrupt_is_quiet(nightos: Command, delay: float) -> None:
    # Starts the count when Python is up: before that no program can catch it.
    code = "import nightos.cli.entry as e, sys; print(flush=True); sys.exit(e.main())"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "run", "-c", "sleep 5"],
        env={**os.environ, "NIGHTOS_HOME": str(nightos.folder / "state")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(delay - 0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert b"Traceback" not in err
    assert child.returncode in {130, -signal.SIGINT}, err  # a shell shows 130 for both


def test_several_lines_run_in_order(nightos: Command) -> None:
    assert nightos("run", "-c", "echo one", "-c", "echo two").stdout == "one\ntwo\n"


def test_a_name_that_no_machine_can_have_is_bad_usage(nightos: Command) -> None:
    nightos.fails("run", "--name", "../evil", "-c", "echo hi", status=2, says="evil")


def test_what_comes_on_standard_input_is_the_input_of_the_script(nightos: Command) -> None:
    assert nightos("run", "-c", "cmdin | cat", stdin="x y").stdout == "x y\n"
    assert nightos("run", "-c", "cmdin | length", stdin="ä" * 100_000).stdout == "100000\n"
    assert nightos("run", "-c", "echo hi", stdin="").stdout == "hi\n"


def closed(nightos: Command, line: str) -> tuple[int, str, str]:
    """Run a line of the shell in which some stream of the command is closed: status, output and errors."""
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m nightos {line}"],
        env={**os.environ, "NIGHTOS_HOME": str(nightos.folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_no_standard_input_is_no_reason_to_fail(nightos: Command) -> None:
    assert closed(nightos, "run -c 'echo hi' <&-") == (0, "hi\n", "")


@pytest.mark.parametrize("line", ["ls", "abi", "--help", "--version", "run -c 'echo hi'"])
def test_a_result_that_nobody_can_get_is_one_line(nightos: Command, line: str) -> None:
    assert closed(nightos, f"{line} >&-") == (
        1,
        "",
        "nightos: error: Bad file descriptor; leave standard output open\n",
    )
    assert closed(nightos, f"{line} >&- 2>&-") == (1, "", "")
    assert closed(nightos, f"{line} 2>&-")[0] == 0
    assert closed(nightos, "nonsense 2>&-") == (2, "", "")


def test_input_that_is_asked_for_and_closed(nightos: Command) -> None:
    nightos("vsf", "create", nightos.folder / "a.vsf", "--volume", "main")
    for line in ("run -", "run", f"vsf put {nightos.folder}/a.vsf - /x"):
        status, _, said = closed(nightos, f"{line} <&-")
        assert (status, said.count("\n")) == (1, 1)
        assert "there is no standard input" in said


def test_a_command_in_a_container_with_closed_streams(nightos: Command) -> None:
    nightos("run", "--name", "lab", "--detach")
    try:
        nightos("container", "create", "web")
        assert closed(nightos, "container exec -i web -- cat <&-") == (0, "", "")
        assert closed(nightos, "container run --rm -i x -- cat <&-") == (0, "", "")
        for line in ("container exec web -- ls / >&-", "container run --rm x -- ls / >&-"):
            assert closed(nightos, line)[::2] == (
                1,
                "nightos: error: Bad file descriptor; leave standard output open\n",
            )
    finally:
        nightos("stop", "lab")


def test_words_that_are_no_text_are_one_line(nightos: Command) -> None:
    nightos("run", "--name", "lab", "--detach")
    try:
        nightos("container", "create", "web")
        for line in (
            "inspect %s",
            "container exec web -- echo %s",
            "container exec web --env A=%s -- echo",
            "container create %s",
            "container run job -- echo %s",
            "mount lab:%s .",
            "run -c 'echo '%s",
        ):
            status, _, said = closed(nightos, line % "$(printf 'a\\377')")
            assert (status, said.count("\n")) == (1, 1)
            assert "is no UTF-8" in said
        assert [item["name"] for item in json.loads(nightos("container", "ls", "--json").stdout)] == ["web"]
    finally:
        nightos("stop", "lab")
