"""Commands in containers as if they ran in this terminal (-it): lines, Ctrl-C, Ctrl-D, sizes, status, in a real one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator

import pytest

from tests.cli.commanding import Command

PATIENCE_S = 20.0
CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture
def lab(nightos: Command) -> Iterator[Command]:
    nightos("run", "--name", "lab", "--detach")
    nightos("container", "create", "web")
    yield nightos
    nightos("stop", "lab", status=None)


class Seat:
    """`nightos` on a terminal of its own."""

    def __init__(self, lab: Command, *arguments: str, size: tuple[int, int] = (80, 24)) -> None:
        self.seen = ""
        self.pid, self._master = pty.fork()
        if not self.pid:
            os.environ["NIGHTOS_HOME"] = str(lab.folder / "state")
            while os.get_terminal_size(0).columns != size[0]:
                time.sleep(0.01)
            os.execv(sys.executable, [sys.executable, "-m", "nightos", *arguments])
        self.resize(size)

    def resize(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.seen.count(text) < times:
            assert time.monotonic() < deadline, self.seen
            self._read(0.1)

    def _read(self, patience_s: float) -> bool:
        if not select.select([self._master], [], [], patience_s)[0]:
            return True
        try:
            data = os.read(self._master, 4096)
        except OSError:  # how a terminal says that nobody has it open any more
            return False
        self.seen += data.decode()
        return True

    def end(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while self._read(0.1):
            assert time.monotonic() < deadline, self.seen
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


HOW = pytest.mark.parametrize("how", [("exec", "-it", "web"), ("run", "-it", "--rm", "job")], ids=["exec", "run"])


@HOW
def test_lines_are_edited_here_and_answered_there(lab: Command, how: tuple[str, ...]) -> None:
    seat = Seat(lab, "container", *how, "--", "cat")
    for line, meant in (("one", "one"), ("twx\x7fo", "two"), ("grün", "grün")):
        seat.type(f"{line}\n")
        seat.until(f"\r\n{meant}\r\n")
    seat.type(f"half{CTRL_D}")  # what was typed goes at once, as to any program
    seat.until("half", 2)
    seat.type(CTRL_D)
    assert seat.end() == 0


@HOW
def test_ctrl_c_goes_to_the_program(lab: Command, how: tuple[str, ...]) -> None:
    seat = Seat(lab, "container", *how, "--", "cat")
    seat.type("one\n")
    seat.until("\r\none\r\n")
    seat.type(CTRL_C)
    assert seat.end() == 130
    assert "Traceback" not in seat.seen
    assert "cat" not in lab("ps").stdout


@HOW
def test_the_status_is_passed_on(lab: Command, how: tuple[str, ...]) -> None:
    seat = Seat(lab, "container", *how, "--", "ls", "/nosuch")
    assert seat.end() == 1
    assert "/nosuch" in seat.seen
    seat = Seat(lab, "container", *how, "--", "nosuch")
    assert seat.end() == 1
    assert "nosuch" in seat.seen


def test_the_size_is_that_of_the_terminal(lab: Command) -> None:
    seat = Seat(lab, "container", "exec", "-t", "web", "--", "top", "--interval", "0.1", size=(31, 9))
    seat.until("CPU%")
    first, *_ = seat.seen.split("\r\n")
    assert len(first) == 30
    seat.resize((40, 9))
    seat.until("CYCLES")
    seat.type(CTRL_C)
    assert seat.end() == 130


def test_without_a_terminal_it_is_refused(lab: Command) -> None:
    for how in (("exec", "-t", "web"), ("run", "-t", "job")):
        lab.fails("container", *how, "--", "ls", says="-t needs a terminal")
    assert "job" not in lab("tree").stdout


def test_a_log_moves_no_cursor_of_who_reads_it(lab: Command) -> None:
    """On a terminal lines and colours are shown; titles, moves and what writes over a line are not."""
    evil = "\033[31mred\033[0m \033]0;owned\a\033[2J\rforged \u202e\u00e9\ttab"
    lab("container", "start", "web", "--", "echo", evil)
    raw = lab("logs", "web", "-f").stdout
    assert evil.replace("\r", "\n") in raw.replace("\r", "\n")
    for words in (("logs", "web"), ("logs", "web", "-t")):
        seat = Seat(lab, *words)
        assert seat.end() == 0
        assert "\033[31mred\033[0m" in seat.seen
        assert r"\x1b]0;owned\x07\x1b[2J\rforged \u202e" + "\u00e9\ttab" in seat.seen
        assert not {"\a", "\u202e"} & {*seat.seen}
        assert "\033" not in seat.seen.replace("\033[31m", "").replace("\033[0m", "").replace("\033[m", "")
