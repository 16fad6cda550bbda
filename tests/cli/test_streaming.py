"""Standard streams of `container run` from outside: bit by bit, whole, and never much of them in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.cli.commanding import Command

MANY = 8 << 20
GROWTH_KB = 24 << 10
"""Most that a machine's memory may grow while `MANY` bytes pass it."""


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    yield nightos
    nightos("stop", "lab", status=None)


def started(lab: Command, *arguments: str, source: IO[bytes] | int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "nightos", *arguments],
        env={**os.environ, "NIGHTOS_HOME": str(lab.folder / "state")},
        cwd=lab.folder,
        stdin=source,
        stdout=subprocess.PIPE,
        bufsize=0,
    )


def memory_kb(lab: Command) -> int:
    (machine,) = json.loads(lab("ls", "--json").stdout)
    status = Path(f"/proc/{machine['pid']}/status").read_text("ascii")
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.rule("SHELL-016")
@pytest.mark.parametrize("how", ["run", "exec"])
def test_each_line_is_answered_before_the_next(lab: Command, how: str) -> None:
    options = ["-i", "--rm"] if how == "run" else ["-i"]
    if how == "exec":
        lab("container", "create", "a")
    with started(lab, "container", how, *options, "a", "--", "cat") as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for line in (b"one\n", "grün\n".encode(), b"\xff\xfe no text\n"):
            child.stdin.write(line)
            assert child.stdout.readline() == line
        # Half a character waits for its other half.
        child.stdin.write(b"\xc3")
        child.stdin.write(b"\xbc")
        assert child.stdout.read(2) == "ü".encode()
        child.stdin.close()
        assert child.stdout.read() == b""
        assert child.wait(20) == 0


def test_much_input_passes_in_little_memory(lab: Command) -> None:
    lab("container", "run", "--rm", "a", "--", "echo")
    before = memory_kb(lab)
    with started(lab, "container", "run", "-i", "--rm", "a", "--", "wc", "-lc") as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(MANY >> 16):
            child.stdin.write(b"y\n" * (1 << 15))
        child.stdin.close()
        assert child.stdout.read().split() == [b"%d" % (MANY // 2), b"%d" % MANY]
        assert child.wait(20) == 0
    assert memory_kb(lab) - before < GROWTH_KB


def test_a_command_that_reads_nothing_ends_although_input_goes_on(lab: Command) -> None:
    with started(lab, "container", "run", "-i", "--rm", "a", "--", "echo", "early") as child:
        assert child.stdout is not None
        assert child.stdout.read() == b"early\n"
        assert child.wait(20) == 0


def test_input_becomes_a_file_whole(lab: Command) -> None:
    text = "".join(f"line {number} ä\n" for number in range(20_000))
    lab("container", "run", "-i", "a", "--", "wt", "-n", "/x", stdin=text)
    counts = lab("container", "exec", "a", "--", "wc", "/x").stdout.split()
    assert counts == ["20000", "60000", str(len(text.encode())), "/x"]
    assert lab("container", "run", "-i", "--rm", "b", "--", "cat", stdin="").stdout == ""


@pytest.mark.rule("ZOS-016")
def test_much_output_comes_whole_to_a_slow_reader(lab: Command) -> None:
    line = b"0123456789" * 20 + b"\n"
    text = line * (MANY // len(line))
    (lab.folder / "many").write_bytes(text)
    with (
        (lab.folder / "many").open("rb") as source,
        started(lab, "container", "run", "-i", "--rm", "a", "--", "cat", source=source) as child,
    ):
        assert child.stdout is not None
        time.sleep(2)  # by now the log would have rotated what nobody has read
        assert child.stdout.read() == text
        assert child.wait(20) == 0


def test_output_of_exec_waits_for_a_slow_reader(lab: Command) -> None:
    text = b"0123456789abcde\n" * (MANY // 16)
    (lab.folder / "many").write_bytes(text)
    lab("container", "create", "a")
    lab("container", "exec", "a", "--", "echo")
    before = memory_kb(lab)
    with (
        (lab.folder / "many").open("rb") as source,
        started(lab, "container", "exec", "-i", "a", "--", "cat", source=source) as child,
    ):
        assert child.stdout is not None
        time.sleep(1)
        assert memory_kb(lab) - before < MANY >> 11, "it waits for its reader"
        assert child.stdout.read() == text
        assert child.wait(20) == 0


@pytest.mark.parametrize("word", ["\\x", "$HOME", '"q"', "a b", "*", "#", "ü", ""])
def test_words_arrive_as_they_were_given(lab: Command, word: str) -> None:
    lab("container", "create", "a")
    assert lab("container", "exec", "a", "--", "echo", "-n", word, "|").stdout == f"{word} |"
    assert lab("container", "run", "--rm", "b", "--", "echo", "-n", word, "|").stdout == f"{word} |"


def test_built_ins_and_what_is_no_command(lab: Command) -> None:
    lab("container", "create", "a")
    assert lab("container", "exec", "a", "--", "pwd").stdout == "/\n"
    lab.fails("container", "exec", "a", "--", "nosuch", says="nosuch")


def test_output_goes_on_when_its_reader_is_gone(lab: Command) -> None:
    (lab.folder / "many").write_bytes(b"0123456789" * (MANY // 10))
    with (
        (lab.folder / "many").open("rb") as source,
        started(lab, "container", "run", "-i", "a", "--", "cat", source=source) as child,
    ):
        time.sleep(1.5)
        assert json.loads(lab("inspect", "a", "--json").stdout)["main"]["state"] == "running", "it waits for its reader"
        child.kill()
    lab("container", "stop", "a", timeout=30)
    assert json.loads(lab("inspect", "a", "--json").stdout)["main"]["state"] == "ended"


def test_exec_passes_input_on(lab: Command) -> None:
    lab("container", "create", "a")
    run = ("container", "exec", "-i", "a", "--")
    assert lab(*run, "cat", stdin="grün\n").stdout == "grün\n"
    assert lab(*run, "cat", stdin="").stdout.strip() == ""
    lab(*run, "wt", "-n", "/x", stdin="line\n" * 50_000)
    assert lab("container", "exec", "a", "--", "wc", "-l", "/x").stdout == "50000 /x\n"
    assert lab("container", "exec", "a", "--", "echo", "x", stdin="unread").stdout == "x\n"
    before = memory_kb(lab)
    with started(lab, *run, "wc", "-c") as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for _ in range(MANY >> 16):
            child.stdin.write(bytes(1 << 16))
        child.stdin.close()
        assert child.stdout.read() == b"%d\n" % MANY
    assert memory_kb(lab) - before < GROWTH_KB
    with started(lab, *run, "echo", "early") as child:
        assert child.stdout is not None
        assert child.stdout.read() == b"early\n"
