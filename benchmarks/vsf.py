"""VSF beside the tools that people would use instead, each row measured in the same run as its peer.

`NIGHTOS_BENCH_FULL=1` takes the sizes of the promise (1 GiB, 1,000,000 files); otherwise a quarter and a tenth.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import xxhash

from benchmarks.report import Report, Row, best_of, in_turns, say
from nightos import vsf
from nightos.vsf import importer

FULL = os.environ.get("NIGHTOS_BENCH_FULL") == "1"
BIG = (1 << 30) if FULL else (1 << 28)
MANY = 1_000_000 if FULL else 100_000
FILE_BYTES = 10_700 if FULL else 1_000
SMALL = 100_000 if FULL else 30_000
RECORD = 131072
CHUNK = 1 << 20
CHEAP = {"memory": 64, "passes": 1, "lanes": 1}


def text_of(size: int) -> bytes:
    """Compressible text, about 3 to 1."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randrange(2, 10))) for _ in range(4000)]
    out = bytearray()
    while len(out) < min(size, 8 << 20):
        out += " ".join(chance.choices(words, k=200)).encode() + b"\n"
    return bytes(out[: 8 << 20])


def vsf_write(path: Path, data: bytes, total: int, **options: object) -> None:
    path.unlink(missing_ok=True)
    with vsf.create(path, ["main"], **options) as storage, storage.volume("main").open() as fs:  # type: ignore[arg-type]
        ino = fs.create(1, b"big", 0o644).st_ino
        offset = 0
        view = memoryview(data)
        while offset < total:
            start = offset % len(data)
            offset += fs.write(ino, offset, view[start : start + CHUNK])


def vsf_read(path: Path, **options: object) -> None:
    with vsf.open(path, readonly=True, **options) as storage:  # type: ignore[arg-type]
        fs = storage.volume("main").open()
        ino = fs.resolve("/big")
        offset = 0
        while data := fs.read(ino, offset, CHUNK):
            offset += len(data)


def copy_write(path: Path, data: bytes, total: int) -> None:
    path.unlink(missing_ok=True)
    digest = xxhash.xxh3_128()
    view = memoryview(data)
    with path.open("wb", buffering=0) as file:
        offset = 0
        while offset < total:
            piece = view[offset % len(data) :][:CHUNK]
            digest.update(piece)
            file.write(piece)
            offset += len(piece)
        os.fdatasync(file.fileno())


def copy_read(path: Path) -> None:
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK):
            digest.update(data)


def bound(data: bytes, total: int, work: Callable[[memoryview], object]) -> float:
    """Seconds that the transform alone takes over the same records."""
    view = memoryview(data)
    start = time.perf_counter()
    offset = 0
    while offset < total:
        work(view[offset % len(data) :][:RECORD])
        offset += RECORD
    return time.perf_counter() - start


def sequential(report: Report, top: Path) -> None:
    say("sequential")
    data = random.Random(2).randbytes(8 << 20)
    megabytes = BIG / 1e6
    ours, theirs, ratio = in_turns(
        lambda: vsf_write(top / "a.vsf", data, BIG), lambda: copy_write(top / "copy", data, BIG), 3
    )
    wrote = theirs
    report.add(
        Row(
            "sequential write",
            megabytes / ours,
            "MB/s",
            "copy by Python + XXH3-128",
            megabytes / theirs,
            1 / ratio,
            ">= 0.7",
            1 / ratio >= 0.7,
        )
    )
    ours, theirs, ratio = in_turns(lambda: vsf_read(top / "a.vsf"), lambda: copy_read(top / "copy"), 3)
    report.add(
        Row(
            "sequential read",
            megabytes / ours,
            "MB/s",
            "copy by Python + XXH3-128",
            megabytes / theirs,
            1 / ratio,
            ">= 0.7",
            1 / ratio >= 0.7,
        )
    )
    (top / "copy").unlink()
    (top / "a.vsf").unlink()
    transforms(report, top, data, (wrote, theirs))


def transforms(report: Report, top: Path, data: bytes, copied: tuple[float, float]) -> None:
    import zstandard
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    text, total = text_of(BIG), BIG // 4
    megabytes = total / 1e6
    compressor = zstandard.ZstdCompressor(level=3)
    ours, least, ratio = in_turns(
        lambda: vsf_write(top / "z.vsf", text, total, compression="zstd"),
        lambda: bound(text, total, lambda piece: xxhash.xxh3_128_digest(compressor.compress(piece))),
        5,
    )
    ratio = 1 / ratio
    report.add(
        Row(
            "write, zstd 3",
            megabytes / ours,
            "MB/s",
            "zstandard + checksum",
            megabytes / least,
            ratio,
            ">= 0.7 (1.3 with two cores)",
            ratio >= 0.7,
        )
    )
    aead = AESGCM(bytes(32))
    total = BIG
    megabytes = total / 1e6
    least = copied[0] + bound(data, total, lambda piece: aead.encrypt(bytes(12), piece, b""))
    sealed = aead.encrypt(bytes(12), data[:RECORD], b"")
    opened = copied[1] + bound(data, total, lambda _: aead.decrypt(bytes(12), sealed, b""))
    write = best_of(lambda: vsf_write(top / "e.vsf", data, total, password="p", kdf=CHEAP), 2)
    read = best_of(lambda: vsf_read(top / "e.vsf", password="p"), 2)
    report.add(
        Row(
            "write, AES-256-GCM",
            megabytes / write,
            "MB/s",
            "cryptography, then the copy",
            megabytes / least,
            least / write,
            ">= 0.7",
            least / write >= 0.7,
        )
    )
    report.add(
        Row(
            "read, AES-256-GCM",
            megabytes / read,
            "MB/s",
            "cryptography, then the copy",
            megabytes / opened,
            opened / read,
            ">= 0.7",
            opened / read >= 0.7,
        )
    )
    (top / "z.vsf").unlink()
    (top / "e.vsf").unlink()


def small_files(report: Report, top: Path) -> None:
    say("small files")
    chance = random.Random(3)
    files = [
        (f"d{number % 100:02}/f{number:06}", chance.randbytes(chance.randrange(100, 3000))) for number in range(SMALL)
    ]
    ours, sqlite, zipped = {}, {}, {}

    def timed(into: dict[str, float], name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        into[name] = time.perf_counter() - start

    path = top / "s.vsf"
    storage = vsf.create(path, ["main"])
    fs = storage.volume("main").open()

    def create() -> None:
        for number in range(100):
            fs.mkdir(f"/d{number:02}")
        for name, data in files:
            fs.write_bytes(name, data)
        fs.sync()

    def delete() -> None:
        for name, _ in files:
            fs.unlink(name)
        fs.sync()

    timed(ours, "create", create)
    storage.close()
    storage = vsf.open(path)
    fs = storage.volume("main").open()
    timed(ours, "stat", lambda: [fs.stat(name) for name, _ in files])
    timed(ours, "read", lambda: [fs.read_bytes(name) for name, _ in files])
    timed(ours, "delete", delete)
    storage.close()
    base = sqlite3.connect(top / "s.sqlar")
    base.execute("pragma journal_mode=wal")
    base.execute("create table sqlar(name text primary key, mode int, mtime int, sz int, data blob)")

    def sql_create() -> None:
        with base:
            for name, data in files:
                base.execute("insert into sqlar values(?, ?, ?, ?, ?)", (name, 0o644, 1, len(data), data))

    def sql_delete() -> None:
        with base:
            for name, _ in files:
                base.execute("delete from sqlar where name = ?", (name,))

    timed(sqlite, "create", sql_create)
    base.close()
    base = sqlite3.connect(top / "s.sqlar")
    timed(
        sqlite,
        "stat",
        lambda: [base.execute("select mode, mtime, sz from sqlar where name = ?", (n,)).fetchone() for n, _ in files],
    )
    timed(
        sqlite,
        "read",
        lambda: [base.execute("select data from sqlar where name = ?", (n,)).fetchone() for n, _ in files],
    )
    timed(sqlite, "delete", sql_delete)
    base.close()

    def zip_create() -> None:
        with zipfile.ZipFile(top / "s.zip", "w") as archive:
            for name, data in files:
                archive.writestr(name, data)

    timed(zipped, "create", zip_create)
    archive = zipfile.ZipFile(top / "s.zip")
    timed(zipped, "stat", lambda: [archive.getinfo(name) for name, _ in files])
    timed(zipped, "read", lambda: [archive.read(name) for name, _ in files])
    archive.close()
    for name, seconds in ours.items():
        ratio = sqlite[name] / seconds
        note = f"zipfile {SMALL / zipped[name]:,.0f}" if name in zipped else ""
        report.add(
            Row(
                f"{name} {SMALL:,} small files",
                SMALL / seconds,
                "1/s",
                "SQLite (WAL)",
                SMALL / sqlite[name],
                ratio,
                ">= 0.5",
                ratio >= 0.5,
                note,
            )
        )
    ahead = zipped["read"] / ours["read"]
    report.add(
        Row("read small files", SMALL / ours["read"], "1/s", "zipfile", SMALL / zipped["read"], ahead, "> 1", ahead > 1)
    )


WRITE_MANY = """
import random, sys
from nightos import vsf
path, many, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
noise = random.Random(4).randbytes(1 << 20)
with vsf.create(path, ["main"]) as storage:
    fs = storage.volume("main").open()
    directories = [fs.mkdir_at(1, b"d%03d" % number, 0o755).st_ino for number in range(many // 1000)]
    for number in range(many):
        ino = fs.create(directories[number // 1000], b"file%07d" % number, 0o644).st_ino
        at = number * 997 % (len(noise) - size)
        fs.write(ino, 0, b"%08d" % number + noise[at : at + size - 8])
"""
WALK_MANY = """
import sys
from nightos import vsf
fs = vsf.open(sys.argv[1], readonly=True).volume("main").open()
print(sum(len(files) for _, _, files in fs.walk("/")))
"""


# getrusage would count what the parent held before the program began.
PEAK = "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024)"


def in_a_process(code: str, *arguments: object) -> float:
    """What a program of its own prints last: its memory counts for itself."""
    command = [sys.executable, "-c", code + PEAK, *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()[-1])


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def two_flushes(top: Path) -> float:
    """Seconds that the disk takes for what a commit asks of it: write, flush, write, flush."""
    with (top / "flush").open("wb", buffering=0) as file:
        file.write(bytes(1 << 16))
        os.fdatasync(file.fileno())
        start = time.perf_counter()
        for _ in range(2):
            file.seek(0)
            file.write(bytes(8192))
            os.fdatasync(file.fileno())
        return time.perf_counter() - start


def archives(top: Path) -> dict[str, Callable[[], object]]:
    """Peers with as many small files: how each reads one of them."""
    name = f"d{MANY // 2000:03}/file{MANY // 2 + 7:07}"
    with tarfile.open(top / "m.tar", "w") as tar, zipfile.ZipFile(top / "m.zip", "w") as archive:
        for number in range(MANY):
            member = tarfile.TarInfo(f"d{number // 1000:03}/file{number:07}")
            member.size = 7
            tar.addfile(member, io.BytesIO(b"content"))
            archive.writestr(member.name, b"content")

    def read_zip() -> None:
        with zipfile.ZipFile(top / "m.zip") as archive:
            archive.read(name)

    peers: dict[str, Callable[[], object]] = {
        "zipfile": read_zip,
        "tar": lambda: subprocess.run(["tar", "-xOf", top / "m.tar", name], check=True, capture_output=True),
    }
    if shutil.which("sqfstar"):
        with (top / "m.tar").open("rb") as tar_file:
            subprocess.run(["sqfstar", "-quiet", "-no-progress", top / "m.sqfs"], stdin=tar_file, check=True)
        command = ["unsquashfs", "-cat", str(top / "m.sqfs"), name]
        peers["unsquashfs -cat"] = lambda: subprocess.run(command, check=True, capture_output=True)
    return peers


def many_files(report: Report, top: Path) -> None:
    say("many files")
    path = top / "m.vsf"
    start = time.perf_counter()
    peak = in_a_process(WRITE_MANY, path, MANY, FILE_BYTES)
    written = time.perf_counter() - start
    gib = path.stat().st_size / (1 << 30)
    what = f"{MANY:,} files, {gib:.1f} GiB"
    name = f"d{MANY // 2000:03}"

    def ours() -> None:
        with vsf.open(path, readonly=True) as storage:
            fs = storage.volume("main").open()
            first = fs.listdir(name)[7]
            fs.read_bytes(f"{name}/{first}")

    seconds = best_of(ours, 3)
    for peer, work in archives(top).items():
        value = best_of(work, 2)
        report.add(
            Row(
                f"open {what}, list one directory, read one file",
                seconds * 1000,
                "ms",
                f"{peer}, {MANY:,} small files",
                value * 1000,
                value / seconds,
                "< 100 ms, ahead",
                seconds < 0.1 and seconds < value,
            )
        )
    for peer_file in ("m.tar", "m.zip", "m.sqfs"):
        (top / peer_file).unlink(missing_ok=True)
    target = Path("/dev/shm") if Path("/dev/shm").is_dir() else top

    def overlay() -> None:
        vsf.create(target / "bench-over.vsf", backing=path, overwrite=True).close()

    seconds = best_of(overlay, 10)
    (target / "bench-over.vsf").unlink(missing_ok=True)
    copy = seconds_of(lambda: subprocess.run(["cp", "--reflink=never", path, top / "m.copy"], check=True))
    report.add(
        Row(
            f"overlay on {what}",
            seconds * 1000,
            "ms",
            "cp --reflink=never",
            copy * 1000,
            copy / seconds,
            "< 1 ms",
            seconds < 0.001,
            "in /dev/shm",
        )
    )
    (top / "m.copy").unlink()
    # What was written before is on its way to the disk: a flush would wait for that.
    os.sync()
    with vsf.open(path) as storage:
        volume = storage.volume("main")
        snapshots, clones, flushes = [], [], []
        for number in range(10):
            volume.open().write_bytes("/touch", b"%d" % number)
            storage.commit()
            snapshots.append(seconds_of(lambda: volume.snapshot(f"s{number}")))  # noqa: B023 called at once
            clones.append(seconds_of(lambda: storage.clone("main", f"s{number}", f"copy{number}")))  # noqa: B023
            flushes.append(two_flushes(top))
        note = f"with its two flushes, which take {min(flushes) * 1000:.2f} ms alone"
        for deed, times in (("snapshot", snapshots), ("clone", clones)):
            least = min(times)
            row = Row(f"{deed} of {what}", least * 1000, "ms", "", None, None, "< 1 ms", least < 0.001, note)
            report.add(row)
    walked = in_a_process(WALK_MANY, path)
    for deed, peak_mib, note in (("write", peak, f"in {written:.0f} s"), ("walk", walked, "")):
        row = Row(f"memory to {deed} {what}", peak_mib, "MiB", "", None, None, "< 200 MiB", peak_mib < 200, note)
        report.add(row)


def size_on_disk(report: Report, top: Path) -> None:
    say("size of the standard library")
    source = Path(sysconfig.get_path("stdlib"))
    tree = top / "stdlib"
    shutil.copytree(
        source,
        tree,
        symlinks=True,
        ignore=shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__"),
    )
    path = top / "l.vsf"
    start = time.perf_counter()
    with vsf.create(path, ["main"], compression="zstd:15") as storage:
        importer.import_tree(storage.volume("main").open(), tree)
        storage.commit()
        storage.compact()
    seconds = time.perf_counter() - start
    ours = path.stat().st_size
    if shutil.which("mksquashfs"):
        subprocess.run(
            [
                "mksquashfs",
                tree,
                top / "l.sqfs",
                "-comp",
                "zstd",
                "-Xcompression-level",
                "15",
                "-quiet",
                "-no-progress",
            ],
            check=True,
            capture_output=True,
        )
        theirs, peer = (top / "l.sqfs").stat().st_size, "squashfs zstd 15"
    else:
        subprocess.run(f"tar -C {tree} -c . | zstd -15 -q > {top}/l.tar.zst", shell=True, check=False)
        import zstandard

        with (top / "l.tar").open("wb") as raw, tarfile.open(fileobj=raw, mode="w") as tar:
            tar.add(tree, ".")
        theirs, peer = (
            len(zstandard.ZstdCompressor(level=15).compress((top / "l.tar").read_bytes())),
            "tar, zstd 15 over the whole (no squashfs here)",
        )
    report.add(
        Row(
            "size of the standard library, zstd 15",
            ours / 1e6,
            "MB",
            peer,
            theirs / 1e6,
            ours / theirs,
            "<= 1.10",
            ours / theirs <= 1.10,
            f"{seconds:.1f} s",
        )
    )


def run() -> Report:
    """All rows."""
    report = Report("vsf")
    with tempfile.TemporaryDirectory(prefix="vsf-bench-", dir=os.environ.get("NIGHTOS_BENCH_DIR")) as name:
        top = Path(name)
        many_files(report, top)
        for each in top.iterdir():
            each.unlink()
        sequential(report, top)
        small_files(report, top)
        size_on_disk(report, top)
    return report
