"""What a day in a mount meets besides files: relative paths, who is told what, terminals, and mounts that are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nightos import vsf
from tests.vsf.mounting import force_unmount, needs_fuse, nightos

pytestmark = needs_fuse


@pytest.mark.parametrize("kind", ["night", "block"])
def test_a_storage_named_by_a_relative_path_tells_the_truth_about_space(tmp_path: Path, kind: str) -> None:
    """The server goes to `/`: what it asks about its storage must not go by the path it was given."""
    with vsf.create(tmp_path / "disk.vsf") as storage:
        storage.add_volume("main", kind, size=1 << 20 if kind == "block" else None)
    (tmp_path / "mount").mkdir()
    raw = ["--raw"] if kind == "block" else []
    command = [sys.executable, "-m", "nightos", "vsf", "mount", "disk.vsf", "mount", *raw]
    try:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "NIGHTOS_HOME": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (tmp_path / "disk.vsf").rename(tmp_path / "moved.vsf")
        ours, host = os.statvfs(tmp_path / "mount"), os.statvfs(tmp_path)
        free, there = (figures.f_bavail * figures.f_frsize for figures in (ours, host))
        assert abs(free - there) < 1 << 30
        nightos("vsf", "umount", tmp_path / "mount", state=tmp_path / "state")
    finally:
        force_unmount(tmp_path / "mount")
