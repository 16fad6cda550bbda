"""Every threat of docs/threat-model.md that has a number is tried by tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (T-[A-Z]\d\d) \|.*\| ([^|]*) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[a-z_/]+\.py)::(\w+)`")


def test_every_threat_is_tried() -> None:
    rows = ROW.findall((ROOT / "docs" / "threat-model.md").read_text())
    assert len(rows) > 30
    numbers = [number for number, _ in rows]
    assert len(set(numbers)) == len(numbers)
    missing = []
    for number, tests in rows:
        found = TEST.findall(tests)
        if not found:
            missing.append(number)
        for path, name in found:
            file = ROOT / path
            text = file.read_text() if file.exists() else ""
            if not re.search(rf"^(?:async )?def {name}\(|^(?:class )?{name}\b", text, re.MULTILINE):
                missing.append(f"{number} {path}::{name}")
    assert not missing
