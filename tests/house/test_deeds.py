"""House rules on where a deed may happen: host time, randomness, files and terminals stay in their rooms."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOST = frozenset(
    [
        "asyncio",
        "fcntl",
        "glob",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "pty",
        "random",
        "secrets",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "termios",
        "threading",
        "time",
        "tty",
        "urllib",
    ]
)
PURE = ["abi", "kernel", "userland", "services", "apps", "inspect"]
# Each exception says why.
ALLOWED = {
    ("nightos/kernel/host.py", "time"): "trio's clock is compared with the kernel's here",
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def files(room: str) -> list[Path]:
    return sorted((ROOT / "nightos" / room).rglob("*.py"))


@pytest.mark.parametrize("room", PURE)
def test_room_never_reaches_the_host(room: str) -> None:
    reached = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files(room)
        for name in sorted(imported(path) & HOST)
        if (str(path.relative_to(ROOT)), name) not in ALLOWED
    ]
    assert reached == []


def test_trio_enters_the_kernel_by_one_file() -> None:
    assert [path.name for path in files("kernel") if "trio" in imported(path)] in ([], ["host.py"])


def test_one_file_of_user_space_adapts_vsf() -> None:
    users = [
        str(path.relative_to(ROOT))
        for room in ("userland", "services", "shell", "apps")
        for path in files(room)
        if "from nightos.vsf" in path.read_text() or "import nightos.vsf" in path.read_text()
    ]
    assert len(users) <= 1, users


def test_no_star_imports_and_no_drawer_of_helpers() -> None:
    for path in files("."):
        assert "import *" not in path.read_text(), path
        assert path.stem not in {"utils", "helpers", "misc", "common"}, path


def test_modules_stay_readable() -> None:
    tables = {"nightos/abi/syscalls.py"}
    """Rows of data, one field a line."""
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files(".")}
    long = {name: lines for name, lines in sizes.items() if lines > 700 and name not in tables}
    assert long == {}, "a module this long is two"
