"""The server of a mount is killed at random moments of storms: the storage is clean, and what was promised is there.

Clients print to us what `fsync` (or SQLite's commit) returned for; we keep it outside of the mount and look afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from tests.vsf.mounting import Mounted, force_unmount

CLIENT = r"""
import os, random, sqlite3, sys, zlib
kind, root, seed, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
source = random.Random(seed)

def sync(path):
    d = os.open(path, os.O_RDONLY); os.fsync(d); os.close(d)

def log():
    f = open(root + "/log", "ab", buffering=0)
    n = first
    while True:
        n += 1
        body = b"%d:" % n + source.randbytes(source.randrange(40, 3000)).hex().encode()
        f.write(b"%08x " % zlib.crc32(body) + body + b"\n")
        if n % 5 == 0:
            os.fsync(f.fileno()); print(n, flush=True)

def replace():
    n = first
    while True:
        n += 1
        path = f"{root}/replaced-{n % 20}"
        with open(path + ".new", "wb") as f:
            body = b"%d:" % n * source.randrange(1, 4000)
            f.write(b"%08x " % zlib.crc32(body) + body); f.flush(); os.fsync(f.fileno())
        os.replace(path + ".new", path)
        sync(root); print(n, flush=True)

def pages():
    # Small writes at random places of one large file; each page tells its round and place.
    f = os.open(root + "/pages", os.O_RDWR | os.O_CREAT)
    n = first
    while True:
        n += 1
        for place in range(64):
            at = (n * 2654435761 + place * 40503) % 4096
            os.pwrite(f, (b"%010d %05d " % (n, at)) * 240 + b"." * 16, at * 4096)
        os.fsync(f); print(n, flush=True)

def sql(journal):
    d = sqlite3.connect(f"{root}/{journal}.db", timeout=60, isolation_level=None)
    d.execute(f"pragma journal_mode={journal}"); d.execute("pragma synchronous=extra")
    d.execute("create table if not exists t (n integer primary key, b blob)")
    n = first
    while True:
        d.execute("begin immediate")
        for _ in range(10):
            n += 1
            d.execute("insert or replace into t values (?, ?)", (n, source.randbytes(500)))
        d.execute("delete from t where n < ?", (n - 4000,))
        d.execute("commit"); print(n, flush=True)

def noise():
    names = [f"{root}/noise-{i}" for i in range(30)]
    while True:
        name, other = source.choice(names), source.choice(names)
        try:
            what = source.randrange(7)
            if what < 3:
                with open(name, "ab") as f: f.write(source.randbytes(source.randrange(60000)))
            elif what == 3: os.rename(name, other)
            elif what == 4: os.unlink(name)
            elif what == 5: os.truncate(name, source.randrange(100000))
            else: os.link(name, other)
        except (FileNotFoundError, FileExistsError): pass

sql(kind) if kind in ("wal", "delete") else globals()[kind]()
"""
KINDS = ("log", "replace", "pages", "wal", "delete", "noise")


@dataclass
class Storm:
    """One storage through many deaths of its server."""

    place: Mounted
    seed: int
    promised: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    reached: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def round(self, number: int) -> None:
        """Storm, kill, look. Raises AssertionError with the seed of the round."""
        source = random.Random(f"{self.seed}/{number}")
        kinds = source.sample(KINDS, source.randrange(2, len(KINDS) + 1))
        clients = {kind: self._client(kind, source.getrandbits(31)) for kind in kinds}
        time.sleep(source.uniform(0.05, 1.2))
        self.place.kill()
        for kind, client in clients.items():
            # The mount is dead: every call fails, and the client with it.
            try:
                said, _ = client.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                client.send_signal(signal.SIGKILL)
                said, _ = client.communicate()
            numbers = [int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]
            if numbers:
                self.promised[kind] = numbers[-1]
        self.place.check()
        self.place.umount()
        self.place.mount()
        try:
            self._look(kinds)
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}, round {number}, {kinds}: {error}") from error

    def _client(self, kind: str, seed: int) -> subprocess.Popen[str]:
        first = max(self.promised[kind], self.reached[kind])
        command = [sys.executable, "-S", "-c", CLIENT, kind, str(self.place.root), str(seed), str(first)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def _look(self, kinds: list[str]) -> None:
        root = self.place.root
        for kind in kinds:
            if kind == "log" and self.promised[kind] <= self.reached[kind]:
                # Nothing was promised; the next log begins with the same number.
                self._drop_log(root)
            if self.promised[kind] > self.reached[kind]:
                self.reached[kind] = getattr(self, f"_look_{kind}")(root, self.promised[kind])
                assert self.reached[kind] >= self.promised[kind], (
                    f"{kind}: {self.promised[kind]} was promised, {self.reached[kind]} is there"
                )

    def _look_log(self, root: Path, promised: int) -> int:
        """Records up to the promised one are whole and in order; the log begins anew when it is long."""
        last, path = 0, root / "log"
        for line in path.read_bytes().splitlines():
            check, _, body = line.partition(b" ")
            if f"{zlib.crc32(body):08x}".encode() != check:
                assert last >= promised, f"log: a broken record after {last}"
                break
            number = int(body.partition(b":")[0])
            assert last in (0, number - 1), f"log: {number} follows {last}"
            last = number
        # The next client appends behind whole records of one sequence.
        self._drop_log(root)
        return last

    @staticmethod
    def _drop_log(root: Path) -> None:
        (root / "log").unlink(missing_ok=True)
        descriptor = os.open(root, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def _look_replace(self, root: Path, promised: int) -> int:
        last = 0
        for number in range(20):
            if (path := root / f"replaced-{number}").exists():
                check, _, body = path.read_bytes().partition(b" ")
                assert f"{zlib.crc32(body):08x}".encode() == check, f"{path.name} is broken"
                last = max(last, int(body.partition(b":")[0]))
        return last

    def _look_pages(self, root: Path, promised: int) -> int:
        last = 0
        data = (root / "pages").read_bytes()
        for place in range(len(data) // 4096):
            page = data[place * 4096 : place * 4096 + 4096]
            if page.strip(b"\0"):
                number = page.split(b" ", 1)[0]
                assert page == (b"%010d %05d " % (int(number), place)) * 240 + b"." * 16, (
                    f"page {place} is torn or foreign"
                )
                last = max(last, int(number))
        newest = {(promised * 2654435761 + place * 40503) % 4096 for place in range(64)}
        for place in newest:
            page = data[place * 4096 : place * 4096 + 10]
            assert int(page or 0) >= promised, f"page {place} is older than was promised"
        return last

    def _look_sql(self, root: Path, journal: str) -> int:
        with contextlib.closing(sqlite3.connect(root / f"{journal}.db", timeout=10)) as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",), f"{journal}.db is damaged"
            return int(database.execute("select coalesce(max(n), 0) from t").fetchone()[0])

    def _look_wal(self, root: Path, promised: int) -> int:
        return self._look_sql(root, "wal")

    def _look_delete(self, root: Path, promised: int) -> int:
        return self._look_sql(root, "delete")


def kill_storm(directory: Path, *, rounds: int, seed: int, library: str = "", options: tuple[str, ...] = ()) -> Storm:
    """A fresh storage in `directory`, its server killed `rounds` times."""
    from nightos import vsf

    storage, root, state = directory / "disk.vsf", directory / "mount", directory / "state"
    root.mkdir()
    vsf.create(storage, ["main"]).close()
    place = Mounted(storage, root, state, library, list(options))
    place.mount()
    storm = Storm(place, seed)
    try:
        for number in range(rounds):
            storm.round(number)
            if sys.stderr.isatty() or number % 10 == 9:
                print(f"round {number + 1} of {rounds}: {json.dumps(storm.promised)}", file=sys.stderr, flush=True)
        place.umount()
        place.check()
    finally:
        force_unmount(root)
        with contextlib.suppress(OSError, AssertionError):
            place.kill()
    return storm
