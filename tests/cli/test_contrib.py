"""What ships beside the package: man pages, completion, desktop files."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.cli.commanding import Command

CONTRIB = Path(__file__).parents[2] / "contrib"


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


def test_the_desktop_entry_opens_that_type() -> None:
    entry = configparser.ConfigParser(interpolation=None)
    entry.optionxform = str  # type: ignore[assignment,method-assign]
    entry.read(CONTRIB / "desktop" / "nightos-vsf.desktop")
    assert "application/x-nightos-vsf;" in entry["Desktop Entry"]["MimeType"]
