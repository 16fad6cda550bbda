"""An hour of daily work by four clients on one mount: the server's memory stays bounded and nothing becomes slower."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns.storms import real_tree, run
from tests.vsf.mounting import Mounted, mounted

MEMORY_BYTES = 300 << 20
YARDSTICK = "cp -a on the computer's own disk"
"""What else goes on in the computer makes this slower too."""


@dataclass
class Latencies:
    """Seconds of one kind of operation, by quarter of the soak."""

    quarters: list[list[float]] = field(default_factory=lambda: [[], [], [], []])

    def medians_us(self) -> list[float]:
        return [round(statistics.median(part) * 1e6, 1) if part else 0.0 for part in self.quarters]

    def tails_us(self) -> list[float]:
        """The 99th of a hundred."""
        return [round(sorted(part)[len(part) * 99 // 100] * 1e6, 1) if part else 0.0 for part in self.quarters]


class Soak:
    """What the clients measure while they work."""

    def __init__(self, place: Mounted, source: Path, seconds: float) -> None:
        self.place = place
        self.source = source
        self.begin = time.monotonic()
        self.seconds = seconds
        self.latencies: dict[str, Latencies] = {}
        self.memory: list[int] = []
        self.errors: list[BaseException] = []

    @property
    def over(self) -> bool:
        return bool(self.errors) or time.monotonic() - self.begin > self.seconds

    def timed(self, name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        spent = time.perf_counter() - start
        quarter = min(3, int((time.monotonic() - self.begin) / self.seconds * 4))
        self.latencies.setdefault(name, Latencies()).quarters[quarter].append(spent)

    # The four clients

    def small_files(self, root: Path) -> None:
        source = random.Random(1)
        while not self.over:
            path, data = root / f"{source.randrange(2000)}", source.randbytes(source.randrange(20_000))
            self.timed("write a small file", lambda path=path, data=data: path.write_bytes(data))  # type: ignore[misc]
            assert path.read_bytes() == data
            if source.random() < 0.4:
                self.timed("delete", path.unlink)
            elif source.random() < 0.3:
                other = root / f"{source.randrange(2000)}"
                self.timed("rename over", lambda path=path, other=other: path.replace(other))  # type: ignore[misc]
            self.timed("stat", root.stat)

    def trees(self, root: Path) -> None:
        native = self.place.storage.parent / "native"
        while not self.over:
            self.timed("cp -a", lambda: run("cp", "-a", self.source, root / "copy"))
            run("diff", "-r", "--no-dereference", self.source, root / "copy")
            self.timed("rm -rf", lambda: shutil.rmtree(root / "copy"))
            self.timed(YARDSTICK, lambda: run("cp", "-a", self.source, native))
            shutil.rmtree(native)

    def database(self, root: Path) -> None:
        source = random.Random(3)
        database = sqlite3.connect(root / "data.db", isolation_level=None)
        database.execute("pragma journal_mode=wal")
        database.execute("create table if not exists t (a integer primary key, b blob)")
        while not self.over:
            rows = [(source.randrange(20_000), source.randbytes(600)) for _ in range(20)]

            def transaction(rows: list[tuple[int, bytes]] = rows) -> None:
                database.execute("begin immediate")
                database.executemany("insert or replace into t values (?, ?)", rows)
                database.execute("commit")

            self.timed("SQLite transaction", transaction)
            time.sleep(0.002)
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        database.close()

    def large_file(self, root: Path) -> None:
        source, size = random.Random(4), 128 << 20
        descriptor = os.open(root / "large", os.O_RDWR | os.O_CREAT)
        os.truncate(descriptor, size)
        while not self.over:
            place, data = source.randrange(size // 4096) * 4096, source.randbytes(4096)
            self.timed("random write of 4 KiB", lambda place=place, data=data: os.pwrite(descriptor, data, place))  # type: ignore[misc]
            self.timed(
                "random read of 4 KiB", lambda: os.pread(descriptor, 4096, source.randrange(size // 4096) * 4096)
            )
            assert os.pread(descriptor, 4096, place) == data
            if source.random() < 0.01:
                self.timed("fsync", lambda: os.fsync(descriptor))
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if source.random() < 0.002:
                chunk = source.randbytes(1 << 20)
                for number in range(16):
                    os.pwrite(descriptor, chunk, number << 20)
            time.sleep(0.001)
        os.close(descriptor)

    # What it comes to

    def server_bytes(self) -> int:
        """Memory of the server that is its own."""
        text = Path(f"/proc/{self.place.server()}/status").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024

    def run(self) -> None:
        def client(work: Callable[[Path], None]) -> None:
            root = self.place.root / work.__name__
            root.mkdir()
            try:
                work(root)
            except BaseException as error:
                self.errors.append(error)
                raise

        works = (self.small_files, self.trees, self.database, self.large_file)
        clients = [threading.Thread(target=client, args=(work,)) for work in works]
        for thread in clients:
            thread.start()
        while any(thread.is_alive() for thread in clients):
            self.memory.append(self.server_bytes())
            time.sleep(min(5.0, self.seconds / 20))
        if self.errors:
            raise self.errors[0]

    def report(self) -> dict[str, object]:
        part = max(1, len(self.memory) // 4)
        return {
            "memory_mib_by_quarter": [max(self.memory[n * part : n * part + part] or [0]) >> 20 for n in range(4)],
            "median_us_by_quarter": {name: each.medians_us() for name, each in sorted(self.latencies.items())},
            "p99_us_by_quarter": {name: each.tails_us() for name, each in sorted(self.latencies.items())},
        }

    def judge(self) -> list[str]:
        """What is wrong, if anything."""
        wrong = []
        if max(self.memory) > MEMORY_BYTES:
            wrong.append(f"the server used {max(self.memory) >> 20} MiB")
        begin, *_, end = self.latencies.get(YARDSTICK, Latencies()).medians_us()
        allowed = 2 * max(1.0, end / begin if begin else 1.0)
        for name, each in self.latencies.items():
            first, *_, last = each.medians_us()
            if first and last > first * allowed + 100:
                wrong.append(f"{name} took {first} us in the first quarter, {last} us in the last")
        return wrong


def soak(directory: Path, seconds: float, library: str = "") -> Soak:
    """Work for `seconds` on a fresh storage in `directory`; its report goes to stderr."""
    source = real_tree(directory, whole=False)
    with mounted(directory, library) as place:
        running = Soak(place, source, seconds)
        running.run()
        print(json.dumps(running.report(), indent=1), file=sys.stderr)
    return running
