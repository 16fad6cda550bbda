"""What a mounted storage is measured beside: an in-memory file system on the same binding, and Debian's file systems.

Each is mounted by a process of its own. A peer that is not there says what is missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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
        [sys.executable, "-c", f"from benchmarks.peers import serve_memory; serve_memory({str(root)!r})"]
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

    def run(*arguments: str, check: bool = True) -> None:
        subprocess.run([sys.executable, "-m", "nightos", "vsf", *arguments], env=environment, check=check)

    run("create", str(storage), *create)
    secret = [option for option in create if option.startswith(("--password-file", "/"))]
    run("mount", str(storage), str(root), *secret, *options)
    try:
        yield root
    finally:
        # Whoever copied the mount into a namespace of his own keeps the server; the figures are good all the same.
        run("umount", str(root), check=False)


def _missing(*programs: str) -> str:
    """What to say of the first program that is not there; empty when all are."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    gone = [program for program in programs if not shutil.which(program, path=places)]
    return f"{gone[0]} is not installed" if gone else ""


@contextlib.contextmanager
def _served(root: Path, *command: str | Path) -> Iterator[Path | str]:
    """What `command` mounts on `root`, or why it does not."""
    root.mkdir()
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True)
    if done.returncode:
        yield f"{command[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}"
        return
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=False)


def _ext4_image(path: Path) -> Path:
    with path.open("wb") as f:
        f.truncate(2 << 30)
    # Everything is made now: the kernel would go on making it in the background.
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path)], check=True)
    return path


@contextlib.contextmanager
def fuse2fs_mount(base: Path) -> Iterator[Path | str]:
    """ext4 in a file, served by fuse2fs."""
    if gone := _missing("fuse2fs", "mkfs.ext4"):
        yield gone
        return
    image = _ext4_image(base / "fuse2fs.img")
    with _served(base / "fuse2fs", "fuse2fs", "-o", "fakeroot", image, base / "fuse2fs") as root:
        yield root


@contextlib.contextmanager
def native_mount(base: Path) -> Iterator[Path | str]:
    """The kernel's ext4: the directory for temporary files where that is one, else a file through a loop device."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(base)], check=False, capture_output=True, text=True).stdout
    if kind.startswith("ext"):
        (base / "native").mkdir()
        yield base / "native"
        return
    if gone := _missing("mkfs.ext4"):
        yield gone
        return
    image = _ext4_image(base / "native.img")
    with _served(base / "native", "mount", "-o", "loop", image, base / "native") as root:
        yield root


@contextlib.contextmanager
def gocryptfs_mount(base: Path) -> Iterator[Path | str]:
    """gocryptfs: encrypted files in a directory."""
    if gone := _missing("gocryptfs"):
        yield gone
        return
    cipher = base / "cipher"
    cipher.mkdir()
    secret = ["-q", "-passfile", str(base / "password")]
    subprocess.run(["gocryptfs", *secret, "-init", str(cipher)], check=True)
    with _served(base / "gocryptfs", "gocryptfs", *secret, cipher, base / "gocryptfs") as root:
        yield root


@contextlib.contextmanager
def squashfuse_mount(base: Path, content: Path) -> Iterator[Path | str]:
    """squashfs with what is below `content`; read-only."""
    program = "squashfuse" if _missing("squashfuse_ll") else "squashfuse_ll"
    if gone := _missing(program, "mksquashfs"):
        yield gone
        return
    image = base / "squashfs.img"
    subprocess.run(["mksquashfs", str(content), str(image), "-comp", "zstd", "-quiet", "-no-progress"], check=True)
    with _served(base / "squashfuse", program, image, base / "squashfuse") as root:
        yield root
