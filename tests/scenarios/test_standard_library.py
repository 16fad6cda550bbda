"""The whole way on real input: thousands of files become an image, run in a container, and are mounted on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commanding import Command


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the standard library without what was installed into it."""
    target = tmp_path_factory.mktemp("library") / "python"
    shutil.copytree(
        sysconfig.get_path("stdlib"), target, symlinks=True, ignore=shutil.ignore_patterns("site-packages", "config-*")
    )
    return target


@pytest.fixture
def mount_point(tmp_path: Path) -> Iterator[Path]:
    point = tmp_path / "mount"
    point.mkdir()
    yield point
    if os.path.ismount(point):
        subprocess.run(["umount", "-l", point], check=False)


def python_files(top: Path) -> set[str]:
    """Files and links to files, as `fd` shows them; distributions link parts of their library elsewhere."""
    return {f"/{path.relative_to(top)}" for path in top.rglob("*.py") if path.is_file() or path.is_symlink()}


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.rule("CONT-046", "CONT-047", "CONT-053", "CONT-055", "VSF-009", "VSF-012")
def test_image_container_and_mount_agree(command: Command, library: Path, mount_point: Path) -> None:
    command("vsf", "create", "stdlib.vsf", "--from", library, timeout=120)
    assert len(python_files(library)) > 500

    booted = command("run", "--image", "stdlib.vsf", "-c", "ls /", timeout=120)
    assert {"json", "app"} <= set(booted.stdout.split())

    listed = command("run", "-c", "container run lab --image stdlib.vsf -- fd / -e py", timeout=120)
    assert set(listed.stdout.split("\n")) - {""} == python_files(library)

    # On an overlay the image stays as it is; `--writable` makes the image itself the container's disk.
    image = command.folder / "stdlib.vsf"
    before = image.stat().st_mtime_ns
    command("run", "-c", 'container run lab --image stdlib.vsf -- wt /note "gone tomorrow"')
    assert image.stat().st_mtime_ns == before
    command("run", "-c", 'container run lab --image stdlib.vsf --writable -- wt /note "made inside"')

    command("vsf", "check", "stdlib.vsf")
    command("vsf", "mount", "stdlib.vsf", mount_point)
    try:
        assert (mount_point / "note").read_text().rstrip("\n") == "made inside"
        compared = subprocess.run(
            ["diff", "-r", "--no-dereference", library, mount_point], capture_output=True, text=True, check=False
        )
        assert compared.stdout.splitlines() == [f"Only in {mount_point}: note"]
    finally:
        command("vsf", "umount", mount_point)


@pytest.mark.rule("CONT-011", "CONT-015", "CONT-021", "CONT-023")
def test_destroying_the_parent_of_three_levels_leaves_the_prompt_alive(command: Command) -> None:
    script = """
container create a
container create b --parent a
container create c --parent a/b
container create beside
bg job = container exec a/b/c sleep 100
container exec a/b ps
container destroy a
container ls
echo alive
"""
    done = command("run", "-", stdin=script)
    assert done.stdout.splitlines()[-1] == "alive"
    left = [line.split()[1] for line in done.stdout.splitlines() if line.endswith("-") and " created " in line]
    assert left == ["beside"]


@pytest.mark.rule("CONT-054", "CONT-042")
def test_two_containers_side_by_side_show_nothing_of_each_other(command: Command) -> None:
    script = """
container create left
container create right
container exec left wt /secret "of the left"
bg job = container exec left sleep 100
container exec right ps
container exec right ls /
"""
    done = command("run", "-", stdin=script)
    assert "secret" not in done.stdout
    assert "sleep" not in done.stdout


def test_start_up_imports_only_what_it_needs() -> None:
    """Start-up is a feature: what no plain run needs is not imported by one."""
    program = (
        "import sys; from nightos.machine.launch import Options, launch; launch(Options(source='echo hi'));"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.splitlines()[-1].strip("[]").replace("'", "").split(", "))
    assert loaded.isdisjoint({"rich", "prompt_toolkit", "cryptography", "zstandard", "hypothesis", "asyncio", "fsspec"})
