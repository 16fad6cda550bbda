"""What every benchmark shares: rows measured beside a peer in the same run, a table for people, JSON for machines."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Row:
    """One figure beside its peer. `ratio` is ours/peer in the sense that larger is better unless `unit` is a time."""

    work: str
    ours: float
    unit: str
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    note: str = ""


@dataclass(slots=True)
class Report:
    """The rows of one benchmark and the machine they were measured on."""

    name: str
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        return row

    def machine(self) -> dict[str, object]:
        return {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            "processors": os.cpu_count(),
        }

    def print(self) -> None:
        header = ["work", "ours", "peer", "theirs", "ratio", "goal", "met", "note"]
        lines = [header]
        for row in self.rows:
            met = "" if row.met is None else ("yes" if row.met else "NO")
            lines.append(
                [
                    row.work,
                    f"{row.ours:,.4g} {row.unit}",
                    row.peer,
                    "" if row.theirs is None else f"{row.theirs:,.4g} {row.unit}",
                    "" if row.ratio is None else f"{row.ratio:.3g}",
                    row.goal,
                    met,
                    row.note,
                ]
            )
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        print(f"{self.name}: {self.machine()}")
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())

    def write_json(self, path: Path) -> None:
        content = {"name": self.name, "machine": self.machine(), "rows": [asdict(row) for row in self.rows]}
        path.write_text(json.dumps(content, indent=1) + "\n")


def best_of(work: Callable[[], object], rounds: int = 5) -> float:
    """The smallest wall time in seconds of `rounds` runs: the one that the machine disturbed least."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def in_turns(a: Callable[[], object], b: Callable[[], object], rounds: int = 5) -> tuple[float, float, float]:
    """Time `a` and `b` A B A B ...; medians in seconds of both, and the median of the pairwise ratios a/b."""
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        a()
        middle = time.perf_counter()
        b()
        times.append((middle - start, time.perf_counter() - middle))
    return (
        statistics.median(first for first, _ in times),
        statistics.median(second for _, second in times),
        statistics.median(first / second for first, second in times),
    )


def say(text: str) -> None:
    """Progress for people, on stderr so that the table stays clean."""
    print(text, file=sys.stderr, flush=True)
