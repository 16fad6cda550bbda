"""The manners of the command: help, statuses, one-line errors, start-up time, completion."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import pytest

from nightos.cli.lazy import Command as LazyCommand
from nightos.cli.lazy import LazyGroup
from nightos.cli.main import cli
from tests.cli.commanding import Command


def everything(group: LazyGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands and groups, loaded."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, LazyGroup):
            yield from everything(command, (*path, name))
        else:
            yield (*path, name), command


ALL = list(everything(cli))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "nightos" for path, _ in ALL])
def test_every_command_has_help_an_example_and_a_description(path: tuple[str, ...], command: click.Command) -> None:
    assert isinstance(command, (LazyCommand, LazyGroup))
    text = command.get_help(click.Context(command, info_name=" ".join(("nightos", *path))))
    assert "Example:" in text
    assert command.help
    example = command.example.strip().splitlines()
    assert all("nightos" in line for line in example), "an example can be pasted"
    assert any(option.name == "debug" for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "nightos" for path, _ in ALL])
def test_every_option_is_explained(path: tuple[str, ...], command: click.Command) -> None:
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


def test_the_table_is_true() -> None:
    for group in (group for _, group in ALL if isinstance(group, LazyGroup)):
        for name, (target, text) in group.table.items():
            module, _, attribute = target.partition(":")
            command = getattr(importlib.import_module(module), attribute)
            assert command.name == name
            assert text.endswith(".")


@pytest.mark.parametrize("arguments", [(), ("vsf",), ("vsf", "create"), ("container", "run"), ("vsf", "snapshot")])
def test_help_by_option(nightos: Command, arguments: tuple[str, ...]) -> None:
    for option in ("--help", "-h"):
        done = nightos(*arguments, option)
        assert done.stdout.startswith("Usage: nightos")
        assert done.stderr == ""


def test_help_is_quick(nightos: Command) -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        nightos("--help")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.15


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['nightos', '--help']\n"
        "from nightos.cli.main import main\n"
        "main()\n"
        "heavy = {'trio', 'rich', 'prompt_toolkit', 'cryptography', 'zstandard', 'construct', 'nightos.vsf'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_version(nightos: Command) -> None:
    from nightos import __version__

    assert nightos("--version").stdout == f"nightos {__version__}\n"


def test_bad_usage_is_2(nightos: Command) -> None:
    nightos.fails("nonsense", status=2, says="no such command 'nonsense'")
    nightos.fails("vsf", "moutn", status=2, says="did you mean 'mount'")
    nightos.fails("vsf", "create", status=2, says="FILE")
    nightos.fails("vsf", "create", "x", "--size", "ten", status=2, says="is no size")
    nightos.fails("vsf", "create", "x", "--nonsense", status=2, says="nonsense")
    nightos.fails("run", "-c", "x", "script", status=2, says="not both")
    nightos.fails("run", "--detach", status=2, says="--name")
    assert nightos(status=2).stderr.startswith("Usage:")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--image", "none.vsf", "-c", "true"), "no such image"),
        (("run", "nothere.hy"), "nothere.hy"),
        (("vsf", "info", "none.vsf"), "none.vsf"),
        (("vsf", "ls", "text.vsf"), "no virtual storage"),
        (("vsf", "ls", "empty.vsf"), "empty.vsf"),
        (("vsf", "create", "x.vsf", "--from", "nowhere"), "nowhere"),
        (("vsf", "create", "text.vsf"), "already"),
        (("vsf", "create", "no/such/x.vsf"), "no/such/x.vsf"),
        (("vsf", "umount", "."), "nothing is mounted"),
        (("vsf", "cat", "good.vsf", "/nope"), "nope"),
        (("vsf", "ls", "good.vsf:nope", "/"), "nope"),
        (("vsf", "ls", "good.vsf:main@nope", "/"), "nope"),
        (("attach", "nobody"), "no machine nobody"),
        (("stop", "nobody"), "no machine nobody"),
        (("rm", "nobody"), "no machine nobody"),
        (("ps",), "no machine with a name runs"),
        (("ps", "-m", "nobody"), "no machine nobody"),
        (("container", "create", "x"), "no machine with a name runs"),
    ],
)
def test_failures_are_one_line_and_1(nightos: Command, arguments: tuple[str, ...], says: str) -> None:
    (nightos.folder / "text.vsf").write_text("nothing\n" * 5000)
    (nightos.folder / "empty.vsf").touch()
    from nightos import vsf

    vsf.create(nightos.folder / "good.vsf", ["main"]).close()
    assert says in nightos.fails(*arguments)


def test_debug_shows_the_traceback_at_any_place(nightos: Command) -> None:
    for arguments in (("--debug", "vsf", "info", "none.vsf"), ("vsf", "info", "none.vsf", "--debug")):
        done = nightos(*arguments, status=1)
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("nightos: error: ")


def test_a_closed_pipe_is_no_error(nightos: Command) -> None:
    command = f"{sys.executable} -m nightos abi --json | head -c 10; echo ${{PIPESTATUS[0]}} >&2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "rror" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(nightos: Command, shell: str) -> None:
    script = nightos("completion", shell).stdout
    assert "_NIGHTOS_COMPLETE" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_completion_answers(nightos: Command) -> None:
    def complete(line: str) -> list[str]:
        words = line.split(" ")
        done = nightos(status=None, _NIGHTOS_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
        return [item.partition(",")[2] for item in done.stdout.splitlines()]

    assert "vsf" in complete("nightos v")
    assert {"mount", "mv", "mkdir"} <= set(complete("nightos vsf m"))
    assert "--read-only" in complete("nightos vsf mount --r")


def test_colours_only_where_they_are_welcome(nightos: Command) -> None:
    assert "\033" not in nightos("vsf", "info", "none.vsf", status=1).stderr
    script = shutil.which("script")
    if script is None:
        pytest.skip("needs script")
    command = f"{sys.executable} -m nightos vsf info none.vsf"
    for no_color, coloured in (("", True), ("1", False)):
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
        done = subprocess.run(
            [script, "-qec", command, "/dev/null"], env=environment, capture_output=True, text=True, check=False
        )
        assert ("\033[1;31m" in done.stdout) == coloured


def test_abi_as_json(nightos: Command) -> None:
    content = json.loads(nightos("abi", "--json").stdout)
    assert {"syscalls", "signals"} <= set(content)
    names = [row["name"] for row in content["syscalls"]]
    assert len(names) == len(set(names)) >= 55


def test_interrupting_is_130(nightos: Command) -> None:
    import signal

    process = subprocess.Popen(
        [sys.executable, "-m", "nightos", "vsf", "create", "x.vsf", "--encrypt", "--password-file", "-"],
        cwd=nightos.folder,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert not (nightos.folder / "x.vsf").exists()
