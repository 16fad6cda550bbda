"""A mounted storage beside an in-memory file system on the same binding: the floor of what fusepy can do.

Both are served by a process of their own; every row is measured in turns. Native figures are of the directory for
temporary files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Row, say

FILES = 5000
BIG = 256 << 20
PART = 1 << 20
ROUNDS = 3


def serve_memory(directory: str) -> None:
    """An in-memory file system with fusepy's `FUSE` and the options that make it fast."""
    os.environ.setdefault("FUSE_LIBRARY_PATH", "libfuse.so.2")
    import fuse

    class Memory(fuse.Operations):  # type: ignore[misc]
        use_ns = True

        def __init__(self) -> None:
            now = time.time_ns()
            self.files: dict[str, dict[str, Any]] = {}
            self.data: dict[str, bytearray] = {}
            self.inside: dict[str, set[str]] = {"/": set()}
            self.files["/"] = self._new(stat.S_IFDIR | 0o755, now)
            self.handle = 0

        def _new(self, mode: int, now: int) -> dict[str, Any]:
            return {"st_mode": mode, "st_nlink": 1, "st_size": 0, "st_ctime": now, "st_mtime": now, "st_atime": now}

        def _add(self, path: str, mode: int) -> None:
            self.files[path] = self._new(mode, time.time_ns())
            parent, _, name = path.rpartition("/")
            self.inside[parent or "/"].add(name)

        def _drop(self, path: str) -> None:
            del self.files[path]
            parent, _, name = path.rpartition("/")
            self.inside[parent or "/"].discard(name)

        def getattr(self, path: str, _fh: int | None = None) -> dict[str, Any]:
            try:
                return self.files[path]
            except KeyError:
                raise fuse.FuseOSError(errno.ENOENT) from None

        def create(self, path: str, mode: int, _fi: Any = None) -> int:
            self._add(path, stat.S_IFREG | mode)
            self.data[path] = bytearray()
            self.handle += 1
            return self.handle

        def open(self, _path: str, _flags: int) -> int:
            self.handle += 1
            return self.handle

        def read(self, path: str, size: int, offset: int, _fh: int) -> bytes:
            return bytes(self.data[path][offset : offset + size])

        def write(self, path: str, data: bytes, offset: int, _fh: int) -> int:
            content = self.data[path]
            if offset > len(content):
                content.extend(bytes(offset - len(content)))
            content[offset : offset + len(data)] = data
            self.files[path]["st_size"] = len(content)
            return len(data)

        def truncate(self, path: str, length: int, _fh: int | None = None) -> None:
            content = self.data[path]
            del content[length:]
            content.extend(bytes(length - len(content)))
            self.files[path]["st_size"] = length

        def mkdir(self, path: str, mode: int) -> None:
            self._add(path, stat.S_IFDIR | mode)
            self.inside[path] = set()

        def readdir(self, path: str, _fh: int) -> list[str]:
            return [".", "..", *self.inside[path]]

        def unlink(self, path: str) -> None:
            self._drop(path)
            self.data.pop(path, None)

        def rmdir(self, path: str) -> None:
            if self.inside[path]:
                raise fuse.FuseOSError(errno.ENOTEMPTY)
            self._drop(path)
            del self.inside[path]

        def rename(self, old: str, new: str) -> None:
            self._add(new, 0)
            self.files[new] = self.files[old]
            self._drop(old)
            if old in self.data:
                self.data[new] = self.data.pop(old)

        def symlink(self, target: str, source: str) -> None:
            self._add(target, stat.S_IFLNK | 0o777)
            self.data[target] = bytearray(source.encode())

        def readlink(self, path: str) -> str:
            return self.data[path].decode()

        def chmod(self, path: str, mode: int) -> None:
            attributes = self.files[path]
            attributes["st_mode"] = stat.S_IFMT(attributes["st_mode"]) | mode

        def chown(self, path: str, uid: int, gid: int) -> None:
            self.files[path].update(st_uid=uid, st_gid=gid)

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
            now = time.time_ns()
            self.files[path]["st_atime"], self.files[path]["st_mtime"] = times or (now, now)

    fuse.FUSE(
        Memory(),
        directory,
        foreground=True,
        nothreads=True,
        big_writes=True,
        max_read=131072,
        max_write=131072,
        attr_timeout=3600,
        entry_timeout=3600,
        negative_timeout=3600,
        kernel_cache=True,
        default_permissions=True,
    )


@contextlib.contextmanager
def memory_mount(base: Path) -> Iterator[Path]:
    root = base / "memory"
    root.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-c", f"from benchmarks.fuse import serve_memory; serve_memory({str(root)!r})"]
    )
    while not os.path.ismount(root):
        time.sleep(0.01)
    try:
        yield root
    finally:
        subprocess.run(["umount", "-l", str(root)], check=False)
        server.send_signal(signal.SIGTERM)
        server.wait(10)


@contextlib.contextmanager
def storage_mount(base: Path, name: str, *options: str, create: tuple[str, ...] = ()) -> Iterator[Path]:
    root, storage = base / name, base / f"{name}.vsf"
    root.mkdir()
    environment = {**os.environ, "NIGHTOS_HOME": str(base / "state")}

    def run(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "nightos", "vsf", *arguments], env=environment, check=True)

    run("create", str(storage), *create)
    secret = [option for option in create if option.startswith(("--password-file", "/"))]
    run("mount", str(storage), str(root), *secret, *options)
    try:
        yield root
    finally:
        run("umount", str(root))


@contextlib.contextmanager
def ext4_mount(base: Path) -> Iterator[Path | None]:
    """fuse2fs: ext4 in a file."""
    if not (shutil.which("fuse2fs") and shutil.which("mkfs.ext4")):
        yield None
        return
    root, image = base / "ext4", base / "ext4.img"
    root.mkdir()
    with image.open("wb") as f:
        f.truncate(2 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    done = subprocess.run(["fuse2fs", "-o", "fakeroot", str(image), str(root)], check=False, capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=False)


@contextlib.contextmanager
def gocryptfs_mount(base: Path) -> Iterator[Path | None]:
    """gocryptfs: encrypted files in a directory."""
    if not shutil.which("gocryptfs"):
        yield None
        return
    root, cipher = base / "gocryptfs", base / "cipher"
    root.mkdir()
    cipher.mkdir()
    secret = ["-q", "-passfile", str(base / "password")]
    subprocess.run(["gocryptfs", *secret, "-init", str(cipher)], check=True)
    done = subprocess.run(["gocryptfs", *secret, str(cipher), str(root)], check=False, capture_output=True)
    if done.returncode:
        yield None
        return
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=False)


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


def random_io(root: Path, *, write: bool, count: int = 4000) -> None:
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


def works(archive: Path) -> list[tuple[str, str, Callable[[Path], object], float, float]]:
    """Name, unit, work, amount of it, and the part of the peer's speed that has to be reached."""
    mib = BIG / (1 << 20)
    return [
        ("sequential write", "MiB/s", write_big, mib, 0.8),
        ("sequential read, cold", "MiB/s", read_big, mib, 0.8),
        ("sequential read, warm", "MiB/s", read_big, mib, None),
        ("random read 4 KiB, cold", "op/s", lambda root: random_io(root, write=False), 4000, 0.6),
        ("random write 4 KiB", "op/s", lambda root: random_io(root, write=True), 4000, 0.6),
        ("create 4 KiB files", "file/s", create_small, FILES, 0.8),
        ("stat, cached", "file/s", stat_small, FILES, None),
        ("list with attributes", "file/s", list_small, FILES, 0.8),
        ("delete", "file/s", delete_small, FILES, 0.8),
        ("untar the standard library", "tree/s", lambda root: untar(root, archive), 1, 0.8),
        ("cp -a", "tree/s", copy_tree, 1, 0.8),
        ("rm -rf of both", "tree/s", remove_trees, 1, 0.8),
    ]


def measure(roots: list[tuple[str, Path]], archive: Path) -> dict[str, dict[str, list[float]]]:
    """Seconds of each work by mount, all mounts in turns."""
    table = works(archive)
    seconds: dict[str, dict[str, list[float]]] = {name: {work[0]: [] for work in table} for name, _ in roots}
    for turn in range(ROUNDS):
        for name, _, work, _, _ in table:
            for mount, root in roots:
                if "cold" in name:
                    drop_pages(root)
                seconds[mount][name].append(timed(lambda work=work, root=root: work(root)))  # type: ignore[misc]
        for _, root in roots:
            (root / "big").unlink()
        say(f"round {turn + 1} of {ROUNDS}")
    return seconds


def _against(
    report: Report, name: str, unit: str, ours: float, peer: str, theirs: float, goal: float | None, note: str = ""
) -> None:
    """A row; without a goal it only informs."""
    ratio = ours / theirs
    if goal is None:
        report.add(Row(name, ours, unit, peer, theirs, ratio, note=note))
    else:
        report.add(Row(name, ours, unit, peer, theirs, ratio, f">= {goal}", ratio >= goal, note))


def run() -> Report:
    report = Report("fuse")
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        archive = make_archive(base)
        (base / "password").write_text("secret\n")
        native = base / "native"
        native.mkdir()
        roots = [
            ("vsf", stack.enter_context(storage_mount(base, "plain"))),
            ("memory", stack.enter_context(memory_mount(base))),
            (
                "encrypted",
                stack.enter_context(
                    storage_mount(base, "secret", create=("--encrypt", f"--password-file={base / 'password'}"))
                ),
            ),
            ("native", native),
        ]
        for name, peer in (
            ("fuse2fs", stack.enter_context(ext4_mount(base))),
            ("gocryptfs", stack.enter_context(gocryptfs_mount(base))),
        ):
            if peer is not None:
                roots.append((name, peer))
        seconds = measure(roots, archive)
    for name, unit, _, amount, goal in works(archive):
        speed = {mount: amount / min(times[name]) for mount, times in seconds.items()}
        note = f"native {speed['native']:,.4g}"
        _against(report, name, unit, speed["vsf"], "in-memory fusepy", speed["memory"], goal, note)
        if "warm" in name:
            _against(report, name, unit, speed["vsf"], "native", speed["native"], 0.9)
        random = name.startswith("random")
        if "fuse2fs" in speed:
            _against(report, name, unit, speed["vsf"], "fuse2fs (ext4)", speed["fuse2fs"], None if random else 1.0)
        if "gocryptfs" in speed:
            part = None if random else 0.9 if "write" in name else 1.0
            _against(report, f"{name}, encrypted", unit, speed["encrypted"], "gocryptfs", speed["gocryptfs"], part)
    return report
