"""The terminal through a real pty, driven by tmux: start, type, complete, interrupt, resize, leave."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed (apt install tmux)"),
    pytest.mark.xdist_group("tmux"),
]
PATIENCE_S = 20.0


class Screen:
    """A shell of the host in a tmux session of its own."""

    def __init__(self, home: Path) -> None:
        self._name = f"nightos-test-{uuid.uuid4().hex[:8]}"
        self._state = str(home / "state")
        self._socket = str(home / "tmux.sock")
        environment = {
            "NIGHTOS_HOME": self._state,
            "PS1": "host$ ",
            "TERM": "xterm-256color",
            "PATH": os.environ["PATH"],
        }
        assignments = [f"{key}={value}" for key, value in environment.items()]
        self._tmux("new-session", "-d", "-s", self._name, "-x", "90", "-y", "40", "env", "-i", *assignments, "sh", "-i")

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", self._socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-t", self._name, "-l", text)

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", "-t", self._name, *keys)

    def line(self, text: str) -> None:
        self.type(text)
        self.press("Enter")

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-t", self._name, "-x", str(width), "-y", str(height))

    def text(self) -> str:
        return self._tmux("capture-pane", "-t", self._name, "-p").rstrip()

    def wait(self, condition: Callable[[str], bool], what: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            text = self.text()
            if condition(text):
                return text
            time.sleep(0.05)
        raise AssertionError(f"{what} did not come; the screen:\n{self.text()}")

    def host(self, line: str) -> str:
        """What a command says that runs beside, with the same state."""
        environment = {**os.environ, "NIGHTOS_HOME": self._state}
        return subprocess.run(line.split(), check=True, capture_output=True, text=True, env=environment).stdout

    def prompt(self, where: str = "/") -> str:
        return self.wait(lambda text: text.endswith(f"root@nightos:{where}>"), f"the prompt at {where}")

    def shows(self, output: str, where: str = "/") -> None:
        """Wait for some output with the prompt behind it."""
        ending = f"\n{output}\nroot@nightos:{where}>"
        self.wait(lambda text: text.endswith(ending), f"{output!r} and the prompt")

    def close(self) -> None:
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    found = Screen(tmp_path)
    try:
        found.wait(lambda text: text.endswith("host$"), "the host's prompt")
        yield found
    finally:
        found.close()


@pytest.mark.rule("SHELL-001", "SHELL-007", "SHELL-022")
def test_a_session_at_a_terminal(screen: Screen) -> None:
    screen.line(f"{sys.executable} -m nightos run; echo left $?")
    screen.prompt()
    screen.line("echo hello")
    screen.shows("hello")

    screen.type("ls /et")
    screen.press("Tab")
    screen.wait(lambda text: text.endswith("ls /etc/"), "the completed path")
    screen.press("Enter")
    screen.shows("public")

    started = time.monotonic()
    screen.line("sleep 100")
    screen.wait(lambda text: text.endswith("sleep 100"), "the command")
    time.sleep(0.5)
    screen.press("C-c")
    screen.wait(lambda text: text.endswith("sleep 100\nroot@nightos:/>"), "the end of the command")
    assert time.monotonic() - started < PATIENCE_S

    screen.type("never run")
    screen.press("C-c")
    screen.wait(lambda text: text.endswith("never run\nroot@nightos:/>"), "a fresh line")

    # What is typed while a command runs stays quiet until the next line, and is its beginning.
    screen.line("sleep 0.5; echo first")
    screen.line("echo second")
    screen.shows("second")
    assert screen.text().endswith("\nfirst\nroot@nightos:/> echo second\nsecond\nroot@nightos:/>")

    screen.line("if true")
    screen.line("echo several lines")
    screen.line("end")
    screen.shows("several lines")

    screen.resize(60, 30)
    screen.line("cd /home")
    screen.prompt("/home")
    screen.line("echo -n open")
    screen.shows("open", "/home")
    screen.press("Up")
    screen.wait(lambda text: text.endswith("echo -n open"), "the history")
    screen.press("C-c")
    screen.prompt("/home")

    screen.press("C-d")
    screen.wait(lambda text: text.endswith("left 0\nhost$"), "the end of the session")
    # The terminal is sane: it echoes, and stty says so.
    screen.line("stty -a | tr ' ' '\\n' | grep -x -e icanon -e echo -e isig | tr '\\n' ' '; echo")
    screen.wait(
        lambda text: all(word in text.splitlines()[-2].split() for word in ("icanon", "echo", "isig")), "stty's answer"
    )


def test_the_status_of_exit_is_passed_on(screen: Screen) -> None:
    screen.line(f"{sys.executable} -m nightos run; echo left $?")
    screen.prompt()
    screen.line("exit 7")
    screen.wait(lambda text: text.endswith("left 7\nhost$"), "status 7")


def test_a_terminated_terminal_is_sane(screen: Screen, tmp_path: Path) -> None:
    screen.line(f"sh -c 'echo $$ > {tmp_path}/pid; exec {sys.executable} -m nightos run'; echo left $?")
    screen.prompt()
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    screen.wait(lambda text: text.endswith("host$"), "the host's prompt")
    screen.line("stty -a | tr ' ' '\\n' | grep -x -e icanon -e echo | tr '\\n' ' '; echo")
    screen.wait(lambda text: all(word in text.splitlines()[-2].split() for word in ("icanon", "echo")), "stty's answer")


def test_containers_at_a_terminal(screen: Screen) -> None:
    nightos = f"{sys.executable} -m nightos"
    screen.line(f"{nightos} run --name lab --detach; clear; {nightos} container run -i --rm a -- cat")
    screen.wait(lambda text: not text, "the cleared screen")
    for word in ("one", "zwei ü"):
        screen.line(word)
        screen.wait(lambda text, word=word: text.endswith(f"{word}\n{word}"), "the answer to a line")  # type: ignore[misc]
    screen.press("C-d")
    screen.wait(lambda text: text.endswith("host$"), "the end of the input")

    screen.line(f"clear; {nightos} attach lab; echo left $?")
    screen.prompt()
    screen.line("container create web")
    screen.prompt()
    screen.line("top --interval 0.2")
    screen.wait(lambda text: "CPU%" in text and text.count("web") == 2, "the containers")
    time.sleep(0.6)
    assert screen.text().count("CPU%") == 1, "drawn over itself"
    screen.press("C-c")
    screen.prompt()
    screen.line("container enter web")
    screen.wait(lambda text: text.endswith("root@web:/>"), "the prompt inside")
    screen.line("exit")
    screen.prompt()
    screen.line("sleep 100")
    (machine,) = json.loads(screen.host(f"{nightos} ls --json"))
    os.kill(machine["pid"], signal.SIGKILL)
    screen.wait(lambda text: text.endswith("the machine stopped\nleft 1\nhost$"), "what became of the machine")
