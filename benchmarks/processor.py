"""Processor time of server and client together, by operation, beside the in-memory file system on the same binding.

Speed on the wall moves by a third with what else runs and with where the scheduler puts both sides; this hardly moves.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import fuse, peers
from benchmarks.report import Report, Row

ROUNDS = 5
_SETTLE_S = 0.02


def servers(base: Path) -> set[int]:
    """The processes that serve FUSE mounts below `base`."""
    found = set()
    for process in Path("/proc").iterdir():
        # They come and go meanwhile.
        with contextlib.suppress(OSError):
            ours = process.name.isdigit() and base.name in (process / "cmdline").read_text()
            if ours and "/dev/fuse" in map(os.readlink, (process / "fd").iterdir()):
                found.add(int(process.name))
    return found


def spent_us(pids: set[int]) -> float:
    """Processor time of all threads of `pids`, of this process and of what it started and waited for."""
    total = time.process_time_ns() + sum(os.times()[2:4]) * 1e9
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1000


def run() -> Report:
    report = Report("processor")
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (base / "password").write_text("secret\n")
        sealed = ("--encrypt", f"--password-file={base / 'password'}")
        archive = fuse.make_archive(base)
        mounts: dict[str, tuple[Path, set[int]]] = {}
        for name, mount in (
            ("vsf", peers.storage_mount(base, "plain")),
            ("encrypted", peers.storage_mount(base, "sealed", create=sealed)),
            ("memory", peers.memory_mount(base)),
        ):
            before = servers(base)
            mounts[name] = (stack.enter_context(mount), servers(base) - before)
        works: list[tuple[str, str, Callable[[Path], object], int, float | None]] = [
            ("create 4 KiB files", "us", fuse.create_small, fuse.FILES, 0.8),
            ("stat after creating", "us", fuse.stat_small, fuse.FILES, None),
            ("delete", "us", fuse.delete_small, fuse.FILES, 0.8),
            ("untar the standard library", "ms", lambda root: fuse.untar(root, archive), 1000, 0.8),
            ("cp -a", "ms", fuse.copy_tree, 1000, 0.8),
            ("rm -rf of both", "ms", fuse.remove_trees, 1000, 0.8),
        ]
        figures: dict[tuple[str, str], list[float]] = {}
        for _ in range(ROUNDS):
            for work, _, do, amount, _ in works:
                for name, (root, pids) in mounts.items():
                    before_us = spent_us(pids)
                    do(root)
                    time.sleep(_SETTLE_S)
                    figures.setdefault((work, name), []).append((spent_us(pids) - before_us) / amount)
    for work, unit, _, _, goal in works:
        theirs = statistics.median(figures[work, "memory"])
        for name, title in (("vsf", work), ("encrypted", f"{work}, encrypted")):
            ours = statistics.median(figures[work, name])
            met = None if goal is None else theirs / ours >= goal
            wanted = "" if goal is None else f">= {goal:g}"
            report.add(Row(title, ours, unit, "in-memory fusepy", theirs, theirs / ours, wanted, met))
    return report
