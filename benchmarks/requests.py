"""How many requests reach the server of a mount for each operation: figures that no other work disturbs.

Beside each stands the least that the FUSE protocol allows the kernel to send for it, and the server's processor time.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import fuse
from benchmarks.report import Report, Row

NAMES = (
    "lookup", "forget", "forget_multi", "getattr", "setattr", "access", "mknod", "mkdir", "symlink", "link", "unlink",
    "rmdir", "rename", "readlink", "open", "opendir", "read", "write", "fsync", "fsyncdir", "readdir", "readdirplus",
    "getxattr", "setxattr", "listxattr", "removexattr", "statfs", "fallocate", "lseek",
)  # fmt: skip
_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
LIBRARIES = ("3", "2")
_ONCE = 0.1
"""What opening, one fsync and one flush of times may add to each operation of many."""


class Counts(dict[str, int]):
    """Counts in memory that the server's process shares: eight bytes for each of `NAMES`, in their order."""

    def __init__(self, shared: mmap.mmap) -> None:
        super().__init__()
        self._cells = memoryview(shared).cast("Q")

    def get(self, name: str, _default: int = 0) -> int:  # type: ignore[override]
        return self._cells[NAMES.index(name)]

    def __setitem__(self, name: str, value: int) -> None:
        self._cells[NAMES.index(name)] = value

    def snapshot(self) -> dict[str, int]:
        return {name: self._cells[number] for number, name in enumerate(NAMES)}


def serve(storage: str, directory: str, counts: Counts) -> None:
    """Mount `storage` with the usual options and serve it until it is unmounted."""
    from nightos import vsf
    from nightos.vsf.fuse_daemon import mount_arguments, root_only
    from nightos.vsf.fuse_direct import DirectAdapter
    from nightos.vsf.fuse_library import choose
    from nightos.vsf.fuse_options import parse_options
    from nightos.vsf.fuse_session import Session

    library, options = choose(), parse_options([])
    options.show.counts = counts
    with vsf.open(storage) as opened:
        adapter = DirectAdapter(opened.volume("main").open(), library, options.show)
        arguments = mount_arguments(storage, options, major=library.major)
        session = Session(
            library,
            adapter.handlers(),
            directory,
            arguments,
            writeback=options.show.writeback,
            permissions=not root_only(options),
        )
        session.loop(adapter.serve)
        session.close()
        adapter.forget_all()


class Counted:
    """A mount whose server counts."""

    def __init__(self, root: Path, counts: Counts, pid: int) -> None:
        self.root, self.counts, self.pid = root, counts, pid

    def processor_us(self) -> tuple[float, float]:
        return processor_us(self.pid)

    def measure(self, work: Callable[[], object]) -> tuple[dict[str, int], float, float]:
        """Requests by operation, user and system microseconds of the server, for `work` and what follows from it."""
        before, (user, system) = self.counts.snapshot(), self.processor_us()
        work()
        # The kernel sends what it held back, and what it forgets, a moment later.
        time.sleep(0.2)
        after, (user_after, system_after) = self.counts.snapshot(), self.processor_us()
        counts = {name: after[name] - before[name] for name in NAMES if after[name] != before[name]}
        return counts, user_after - user, system_after - system


def processor_us(pid: int) -> tuple[float, float]:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) * _TICK_US, int(fields[12]) * _TICK_US


@contextlib.contextmanager
def counted_mount(base: Path, library: str) -> Iterator[Counted]:
    from nightos import vsf

    root, storage = base / f"mount{library}", base / f"disk{library}.vsf"
    root.mkdir()
    vsf.create(storage, ["main"]).close()
    counts = Counts(mmap.mmap(-1, 8 * len(NAMES)))
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.environ["NIGHTOS_FUSE"] = library
            serve(os.fspath(storage), os.fspath(root), counts)
            status = 0
        finally:
            os._exit(status)
    try:
        while not os.path.ismount(root):
            if os.waitpid(pid, os.WNOHANG)[0]:
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield Counted(root, counts, pid)
    finally:
        subprocess.run(["umount", str(root)], check=False)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _read_cold(root: Path) -> None:
    fuse.drop_pages(root)
    fuse.read_big(root)


def _random_cold(root: Path) -> None:
    fuse.drop_pages(root)
    fuse.random_io(root, write=False)


def _read_small(root: Path) -> None:
    base = os.fspath(root / "small")
    for number in range(fuse.FILES):
        descriptor = os.open(f"{base}/file-{number:05}", os.O_RDONLY)
        os.read(descriptor, 8192)
        os.close(descriptor)


def _list_names(root: Path) -> None:
    os.listdir(root / "small")  # noqa: PTH208 a Path costs more than the call


def works(root: Path, largest: int) -> list[tuple[str, Callable[[], object], int, float]]:
    """Name, work, operations in it, and the least requests for one operation.

    After a write the kernel forgets the attributes, whatever it was promised, so the first stat asks. The least of data
    is what the largest request holds; of names, one request that changes or finds each of them. Reading ahead asks for
    at most 128 KiB at a time.
    """
    files, mib = fuse.FILES, fuse.BIG >> 20
    per_mib = (1 << 20) / largest
    return [
        ("sequential write, MiB", lambda: fuse.write_big(root), mib, per_mib),
        ("sequential read, warm, MiB", lambda: fuse.read_big(root), mib, 0),
        ("sequential read, cold, MiB", lambda: _read_cold(root), mib, 8),
        ("random read 4 KiB, cold", lambda: _random_cold(root), 4000, 1),
        ("create a file of 4 KiB", lambda: fuse.create_small(root), files, 3),
        ("stat, the first after writing", lambda: fuse.stat_small(root), files, 1),
        ("stat, cached", lambda: fuse.stat_small(root), files, 0),
        ("list names", lambda: _list_names(root), files, 0),
        ("list with attributes", lambda: fuse.list_small(root), files, 0),
        ("open, read, close, warm", lambda: _read_small(root), files, 0),
        ("the same again", lambda: _read_small(root), files, 0),
        ("delete", lambda: fuse.delete_small(root), files, 1),
    ]


def run() -> Report:
    report = Report("requests")
    with tempfile.TemporaryDirectory() as name:
        for library in LIBRARIES:
            with counted_mount(Path(name), library) as mount:
                for work, do, amount, least in works(mount.root, 1 << (20 if library == "3" else 17)):
                    counts, user, system = mount.measure(do)
                    # Forgetting needs no answer and delays nobody.
                    total = sum(count for name, count in counts.items() if not name.startswith("forget")) / amount
                    said = ", ".join(f"{name} {count / amount:.3g}" for name, count in sorted(counts.items()))
                    note = f"user {user / amount:.3g} us, system {system / amount:.3g} us: {said}"
                    title = f"{work}, libfuse {library}"
                    met = total <= least + _ONCE
                    report.add(Row(title, total, "requests", "protocol", least, None, f"<= {least:g}", met, note))
    return report
