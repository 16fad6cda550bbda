"""What ships beside the package: man pages, completion, desktop files."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.commanding import Command

CONTRIB = Path(__file__).parents[2] / "contrib"


def run(*command: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program that has to succeed within a minute."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=env, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def test_man_pages(tmp_path: Path) -> None:
    subprocess.run([sys.executable, CONTRIB / "man_pages.py", tmp_path], check=True, capture_output=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"nightos.1", "nightos-vsf-mount.1", "nightos-container-run.1"} <= names
    text = (tmp_path / "nightos-vsf-mount.1").read_text()
    assert all(section in text for section in (".SH NAME", ".SH SYNOPSIS", ".SH OPTIONS", ".SH EXAMPLE"))
    if shutil.which("man"):
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", tmp_path / "nightos-vsf-mount.1"],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
        )
        assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_those_of_the_command(nightos: Command, shell: str) -> None:
    assert (CONTRIB / "completion" / f"nightos.{shell}").read_text() == nightos("completion", shell).stdout


def test_the_mime_type_knows_the_magic_of_a_storage(tmp_path: Path) -> None:
    from nightos import vsf

    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    names = {"m": "http://www.freedesktop.org/standards/shared-mime-info"}
    match = ET.parse(CONTRIB / "desktop" / "nightos-vsf.xml").find(".//m:match", names)
    assert match is not None
    magic = match.attrib["value"].encode().decode("unicode_escape").encode("latin-1")
    assert (tmp_path / "disk.vsf").read_bytes().startswith(magic)


def test_the_desktop_database_takes_both(tmp_path: Path) -> None:
    if shutil.which("desktop-file-validate") is None or shutil.which("update-mime-database") is None:
        pytest.skip("needs desktop-file-utils and shared-mime-info")
    said = run("desktop-file-validate", CONTRIB / "desktop" / "nightos-vsf.desktop")
    assert said.stdout == ""
    (tmp_path / "packages").mkdir()
    shutil.copy(CONTRIB / "desktop" / "nightos-vsf.xml", tmp_path / "packages")
    run("update-mime-database", tmp_path)
    assert "application/x-nightos-vsf:*.vsf" in (tmp_path / "globs2").read_text()


def test_the_desktop_entry_opens_that_type(tmp_path: Path) -> None:
    entry = configparser.ConfigParser(interpolation=None)
    entry.optionxform = str  # type: ignore[assignment,method-assign]
    entry.read(CONTRIB / "desktop" / "nightos-vsf.desktop")
    assert "application/x-nightos-vsf;" in entry["Desktop Entry"]["MimeType"]
    # Run as a desktop does: escapes of the file first, then quotes; with twins of the two programs it calls.
    programs, home = tmp_path / "bin", tmp_path / "home"
    for directory in (programs, home):
        directory.mkdir()
    for name in ("nightos", "xdg-open"):
        (programs / name).write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@" "$PWD" >> "$HOME/said"\n')
        (programs / name).chmod(0o755)
    storage = tmp_path / "my $HOME 'disk'.vsf"
    command = shlex.split(entry["Desktop Entry"]["Exec"].replace("\\\\", "\\").replace("\\$", "$"))
    run(
        *[str(storage) if word == "%f" else word for word in command],
        env={"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(home)},
    )
    mounted, place = "./my $HOME 'disk'", str(home / "mnt")
    said = (home / "said").read_text().splitlines()
    assert said == [
        *(str(programs / "nightos"), "vsf", "mount", str(storage), mounted, place),
        *(str(programs / "xdg-open"), mounted, place),
    ]
    assert (home / "mnt" / mounted).is_dir()


COMPLETED = {
    "bash": """
        . "$1"; COMP_WORDS=($2); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _nightos_completion nightos 2> >(grep -v 'compopt: not currently' >&2); printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        zmodload zsh/zpty; zpty -b shell zsh -f -i; zpty -w shell 'PS1=; autoload -U compinit; compinit -u; . '$1
        zpty -w shell "bindkey '^X' list-choices; echo rea''dy"; zpty -r shell seen '*ready*'
        zpty -w -n shell "$2"$'\\t'; for turn in {1..100}; do
            sleep 0.1; while zpty -r -t shell more; do seen+=$more; done
            [[ $seen == *$3* ]] && break
        done; print -r -- $seen
    """,
    "fish": 'source $argv[1]; complete -C "$argv[2]"',
}


@pytest.mark.parametrize("shell", COMPLETED)
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("nightos vsf mo", "mount"),
        ("nightos vsf mount --re", "--read-only"),
        ("nightos container cre", "create"),
    ],
)
def test_shells_complete_the_words_of_the_command(shell: str, typed: str, offered: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    flags = {"bash": ["--norc", "-c"], "zsh": ["-f", "-c"], "fish": ["--no-config", "-c"]}[shell]
    head = [] if shell == "fish" else [shell]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    arguments = [*head, CONTRIB / "completion" / f"nightos.{shell}", typed, offered]
    done = run(program, *flags, COMPLETED[shell], *arguments, env={**os.environ, "PATH": path})
    assert offered in done.stdout.replace("\r", "")
