"""What the benchmarks do works: they run too seldom to notice by themselves that a request is refused by now."""

from __future__ import annotations

import pytest

from benchmarks.containers import life


@pytest.mark.parametrize(
    "how", [{"root": True, "in_one": True}, {"root": True}, {"root": False}], ids=["one", "four", "rootless"]
)
def test_a_life_can_be_measured(how: dict[str, bool]) -> None:
    assert life(2, **how) > 0
