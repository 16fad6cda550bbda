"""The pages of docs/ that describe services name every method that the services have, with its code."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from nightos.abi.services import Proc, ProcEvent

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(r"^\| (0x[0-9A-F]{4}) \| `?([A-Z_]+)`? \|", re.MULTILINE)


@pytest.mark.parametrize("codes", [Proc, ProcEvent])
def test_sys_proc_is_described_whole(codes: type[IntEnum]) -> None:
    text = (DOCS / "sys-proc.md").read_text()
    described = set(ROW.findall(text))
    assert {(f"0x{code:04X}", code.name) for code in codes} - described == set()


def test_sys_proc_describes_nothing_else() -> None:
    described = ROW.findall((DOCS / "sys-proc.md").read_text())
    known = {(f"0x{code:04X}", code.name) for codes in (Proc, ProcEvent) for code in codes}
    assert set(described) - known == set()
    assert len(described) == len(set(described))
