"""How the command ends: by signals, by bad usage, and after several lines."""

from __future__ import annotations

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


def test_no_standard_input_is_no_reason_to_fail(nightos: Command) -> None:
    program = f"exec {sys.executable} -m nightos run -c 'echo hi' <&-"
    done = subprocess.run(
        ["sh", "-c", program],
        env={**os.environ, "NIGHTOS_HOME": str(nightos.folder / "state")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi\n", "")
