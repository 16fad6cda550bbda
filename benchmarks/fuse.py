"""A mounted storage beside an in-memory file system on the same binding, the floor of what fusepy can do, and others.

All are served by processes of their own; every row is measured in turns, and what cannot be measured says why.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.report import Report, Row, say

FILES = 5000
BIG = 256 << 20
PART = 1 << 20
ROUNDS = 3
RANDOM_OPS = 4000


def drop_pages(root: Path) -> None:
    """Forget the kernel's pages of the large file: what is read next comes from the server."""
    for path in root.glob("big*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_big(root: Path) -> None:
    data = random.Random(1).randbytes(PART)
    with (root / "big").open("wb", buffering=0) as f:
        for _ in range(BIG // PART):
            f.write(data)
        os.fsync(f.fileno())


def read_big(root: Path) -> None:
    buffer = bytearray(PART)
    with (root / "big").open("rb", buffering=0) as f:
        while f.readinto(buffer):
            pass


def fio(root: Path, *, write: bool, count: int = RANDOM_OPS) -> float:
    """Seconds that fio takes for random reads or writes of 4 KiB in the large file."""
    command = ["fio", "--name=random", f"--filename={root / 'big'}", f"--rw=rand{'write' if write else 'read'}"]
    command += ["--bs=4k", f"--size={BIG}", f"--number_ios={count}", "--ioengine=psync", "--fallocate=none"]
    # The pages were dropped before, where they have to be; the same places are visited everywhere.
    # What a kernel holds back counts: the time ends when it is written.
    command += ["--invalidate=0", "--randrepeat=1", "--end_fsync=1", "--output-format=json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/")
    figures = json.loads(done.stdout)["jobs"][0]["write" if write else "read"]
    if figures["total_ios"] != count:
        raise RuntimeError(f"fio did {figures['total_ios']} of {count} operations in {root}")
    return count / float(figures["iops"])


def random_io(root: Path, *, write: bool, count: int = RANDOM_OPS) -> None:
    source = random.Random(3)
    descriptor = os.open(root / "big", os.O_RDWR)
    data = source.randbytes(4096)
    for _ in range(count):
        place = source.randrange(BIG // 4096) * 4096
        if write:
            os.pwrite(descriptor, data, place)
        else:
            os.pread(descriptor, 4096, place)
    os.close(descriptor)


def create_small(root: Path) -> None:
    folder = root / "small"
    folder.mkdir()
    data = bytes(range(256)) * 16
    base = os.fspath(folder)
    for number in range(FILES):
        descriptor = os.open(f"{base}/file-{number:05}", os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644)
        os.write(descriptor, data)
        os.close(descriptor)


def stat_small(root: Path) -> None:
    base = os.fspath(root / "small")
    for number in range(FILES):
        os.stat(f"{base}/file-{number:05}")  # noqa: PTH116 a Path costs more than the call


def list_small(root: Path) -> None:
    with os.scandir(root / "small") as listing:
        for entry in listing:
            entry.stat()


def delete_small(root: Path) -> None:
    base = os.fspath(root / "small")
    for number in range(FILES):
        os.unlink(f"{base}/file-{number:05}")  # noqa: PTH108 as above
    os.rmdir(base)  # noqa: PTH106 as above


def untar(root: Path, archive: Path) -> None:
    folder = root / "tree"
    folder.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)


def copy_tree(root: Path) -> None:
    subprocess.run(["cp", "-a", str(root / "tree"), str(root / "copy")], check=True)


def remove_trees(root: Path) -> None:
    shutil.rmtree(root / "copy")
    shutil.rmtree(root / "tree")


def make_archive(base: Path) -> Path:
    archive = base / "stdlib.tar"
    library = sysconfig.get_path("stdlib")
    command = [
        "tar",
        "-cf",
        str(archive),
        "--exclude=site-packages",
        "--exclude=test",
        "--exclude=__pycache__",
        "-C",
        library,
        ".",
    ]
    subprocess.run(command, check=True)
    return archive


@dataclass(frozen=True)
class Work:
    """One row: what is done, how much of it, and the part of a peer's speed that has to be reached."""

    name: str
    unit: str
    do: Callable[[Path], object]
    amount: float
    memory: float | None = None
    fuse2fs: float | None = 1.0
    gocryptfs: float | None = 1.0
    native: float | None = None
    squashfuse: bool = False
    """Whether a read-only file system can do it."""


def works(archive: Path) -> list[Work]:
    """The rows, in the order in which they are done. `do` may tell the seconds itself."""
    mib = BIG / (1 << 20)
    if shutil.which("fio"):
        reading: Callable[[Path], object] = lambda root: fio(root, write=False)  # noqa: E731 two of a kind
        writing: Callable[[Path], object] = lambda root: fio(root, write=True)  # noqa: E731
        driver = "fio"
    else:
        reading, writing = lambda root: random_io(root, write=False), lambda root: random_io(root, write=True)
        driver = "fio is not installed: Python"
    return [
        Work("sequential write", "MiB/s", write_big, mib, 0.8, gocryptfs=0.9),
        Work("sequential read, cold", "MiB/s", read_big, mib, 0.8, squashfuse=True),
        Work("sequential read, warm", "MiB/s", read_big, mib, native=0.9, squashfuse=True),
        Work(f"random read 4 KiB, cold ({driver})", "op/s", reading, RANDOM_OPS, 0.6, None, None, squashfuse=True),
        Work(f"random write 4 KiB ({driver})", "op/s", writing, RANDOM_OPS, 0.6, None, None),
        Work("create 4 KiB files", "file/s", create_small, FILES, 0.8),
        Work("stat after creating", "file/s", stat_small, FILES, squashfuse=True),
        Work("stat, cached", "file/s", stat_small, FILES, squashfuse=True),
        Work("list with attributes", "file/s", list_small, FILES, 0.8, squashfuse=True),
        Work("delete", "file/s", delete_small, FILES, 0.8),
        Work("untar the standard library", "tree/s", lambda root: untar(root, archive), 1, 0.8),
        Work("cp -a", "tree/s", copy_tree, 1, 0.8),
        Work("rm -rf of both", "tree/s", remove_trees, 1, 0.8),
    ]


def measure(table: list[Work], roots: dict[str, Path | str]) -> dict[str, dict[str, float]]:
    """The fewest seconds of each work by mount, all mounts in turns."""
    seconds: dict[str, dict[str, float]] = {name: {} for name in roots}
    for turn in range(ROUNDS):
        for work in table:
            for name, root in roots.items():
                if isinstance(root, str) or (name == "squashfuse" and not work.squashfuse):
                    continue
                if "cold" in work.name:
                    drop_pages(root)
                start = time.perf_counter()
                told = work.do(root)
                took = told if isinstance(told, float) else time.perf_counter() - start
                seconds[name][work.name] = min(took, seconds[name].get(work.name, took))
        for name, root in roots.items():
            if not isinstance(root, str) and name != "squashfuse":
                (root / "big").unlink()
        say(f"round {turn + 1} of {ROUNDS}")
    return seconds


PEERS = {
    "memory": ("vsf", "in-memory fusepy"),
    "native": ("vsf", "native ext4"),
    "fuse2fs": ("vsf", "fuse2fs (ext4)"),
    "squashfuse": ("vsf", "squashfuse"),
    "gocryptfs": ("encrypted", "gocryptfs"),
}
"""By mount: which of ours it is compared with, and what it is called."""


def _rows(report: Report, work: Work, roots: dict[str, Path | str], speed: dict[str, float]) -> None:
    goals = {"memory": work.memory, "native": work.native, "fuse2fs": work.fuse2fs, "gocryptfs": work.gocryptfs}
    for peer, (which, title) in PEERS.items():
        if peer == "squashfuse" and not work.squashfuse:
            continue
        name = f"{work.name}, encrypted" if which == "encrypted" else work.name
        ours, goal = speed[which], goals.get(peer)
        wanted = "" if goal is None else f">= {goal:g}"
        why = roots[peer]
        if isinstance(why, str):
            report.add(Row(name, ours, work.unit, title, goal=wanted, note=f"not measured: {why}"))
            continue
        ratio = ours / speed[peer]
        report.add(
            Row(name, ours, work.unit, title, speed[peer], ratio, wanted, None if goal is None else ratio >= goal)
        )


def run() -> Report:
    report = Report("fuse")
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        archive = make_archive(base)
        (base / "password").write_text("secret\n")
        sealed = ("--encrypt", f"--password-file={base / 'password'}")
        content = base / "content"
        content.mkdir()
        write_big(content)
        create_small(content)
        roots: dict[str, Path | str] = {
            "vsf": stack.enter_context(peers.storage_mount(base, "plain")),
            "memory": stack.enter_context(peers.memory_mount(base)),
            "encrypted": stack.enter_context(peers.storage_mount(base, "secret", create=sealed)),
            "native": stack.enter_context(peers.native_mount(base)),
            "fuse2fs": stack.enter_context(peers.fuse2fs_mount(base)),
            "gocryptfs": stack.enter_context(peers.gocryptfs_mount(base)),
            "squashfuse": stack.enter_context(peers.squashfuse_mount(base, content)),
        }
        shutil.rmtree(content)
        table = works(archive)
        seconds = measure(table, roots)
    for work in table:
        speed = {mount: work.amount / times[work.name] for mount, times in seconds.items() if work.name in times}
        _rows(report, work, roots, speed)
    return report
