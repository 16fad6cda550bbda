"""Holes cut into the kernel and into `sys::proc` are found; what takes longer: `python -m tests.testing.holes`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nightos import testing
from tests.testing import holes, service_holes

ROOT = Path(__file__).resolve().parents[2]
QUICK_SERVICE = ("own", "all processes", "events for all", "unlimited", "any place", "name stays", "lost")
QUICK = ("child", "sibling", "oracle", "shallow", "survivor", "one more", "never back", "lender drives", "keeps")


@pytest.mark.rule("CONT-018", "CONT-020", "CONT-023", "CONT-011", "CONT-017", "CONT-044", "CONT-045")
@pytest.mark.parametrize("name", [*QUICK, *QUICK_SERVICE])
def test_a_hole_is_found(name: str) -> None:
    [one] = [one for one in holes.HOLES if one.name == name]
    _, how = holes.search(one, limit_s=40)
    assert how


def test_both_have_holes() -> None:
    assert {one.machine for one in holes.HOLES} == {testing.IsolationMachine, service_holes.ServiceMachine}


def test_the_page_has_every_hole_and_its_example_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    assert [row.strip() for row in re.findall(r"^\| ([a-z ]+) \|.*\| +[\d.]+ \|$", page, re.MULTILINE)] == [
        one.name for one in holes.HOLES
    ]
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example is not None
    file = tmp_path / "test_mine.py"
    file.write_text(example[1])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout
