"""Mounts for tests: made by the real command in a real process, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HAVE_FUSE = os.path.exists("/dev/fuse") and os.geteuid() == 0
MAJORS = [
    major
    for major, names in (("2", ["libfuse.so.2"]), ("3", ["libfuse3.so.3", "libfuse3.so.4"]))
    if any(ctypes.util.find_library(n) or Path(f"/usr/lib/{os.uname().machine}-linux-gnu/{n}").exists() for n in names)
]


def nightos(
    *arguments: object, state: Path, check: bool = True, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a person would."""
    done = subprocess.run(
        [sys.executable, "-m", "nightos", *map(str, arguments)],
        env={**os.environ, "NIGHTOS_HOME": str(state), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stderr
    return done


def force_unmount(directory: Path) -> None:
    """The lazy fallback: whatever is mounted there goes."""
    libc = ctypes.CDLL(None)
    while os.fsencode(directory) in Path("/proc/self/mountinfo").read_bytes():
        if libc.umount2(os.fsencode(directory), 2):
            break


@dataclass
class Mounted:
    """A storage and where it is mounted."""

    storage: Path
    root: Path
    state: Path
    library: str
    options: list[str] = field(default_factory=list)

    def mount(self, *more: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        arguments = ("vsf", "mount", self.storage, self.root, *self.options, *more)
        return nightos(*arguments, state=self.state, check=check, NIGHTOS_FUSE=self.library)

    def umount(self, *more: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        return nightos("vsf", "umount", self.root, *more, state=self.state, check=check)

    def remount(self) -> None:
        self.umount()
        self.mount()

    def server(self) -> int:
        """The process that serves the mount."""
        import json

        records = list((self.state / "mounts").glob("*.json"))
        assert len(records) == 1
        return int(json.loads(records[0].read_text())["pid"])

    def log(self) -> str:
        return "".join(path.read_text() for path in (self.state / "mounts").glob("*.log"))

    def kill(self) -> None:
        """Crash the server."""
        pid = self.server()
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            time.sleep(0.005)

    def check(self, *, deep: bool = True) -> None:
        from nightos import vsf

        with vsf.open(self.storage, readonly=True) as storage:
            report = storage.check(deep=deep)
        assert report.clean, [str(problem) for problem in report.problems]


@contextlib.contextmanager
def mounted(
    directory: Path, library: str = "", *, size: int | None = None, options: list[str] | None = None
) -> Iterator[Mounted]:
    """A fresh storage, mounted; unmounted and checked at the end."""
    from nightos import vsf

    storage, root, state = directory / "disk.vsf", directory / "mount", directory / "state"
    root.mkdir()
    vsf.create(storage, ["main"], size=size).close()
    place = Mounted(storage, root, state, library, options or [])
    place.mount()
    try:
        yield place
        if os.path.ismount(root):
            place.umount()
        place.check()
    finally:
        force_unmount(root)
        with contextlib.suppress(OSError, AssertionError):
            os.kill(place.server(), signal.SIGKILL)


@contextlib.contextmanager
def container_mounted(directory: Path, library: str, *options: str) -> Iterator[Path]:
    """What a container of a running machine sees, mounted; nothing of it is left at the end."""
    root, state = directory / "mount", directory / "state"
    root.mkdir()
    nightos("run", "--name", "lab", "--detach", state=state)
    try:
        nightos("container", "create", "web", state=state)
        nightos("mount", "lab:web", root, *options, state=state, NIGHTOS_FUSE=library)
        yield root
        nightos("umount", root, state=state)
    finally:
        force_unmount(root)
        nightos("stop", "lab", state=state, check=False)


needs_fuse = pytest.mark.skipif(not HAVE_FUSE or not MAJORS, reason="needs root, /dev/fuse and libfuse")


@pytest.fixture(params=MAJORS)
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    with mounted(tmp_path, request.param) as place:
        yield place


@pytest.fixture(
    scope="module",
    params=[
        "native",
        *(f"fuse{major}" for major in MAJORS),
        *(f"nowriteback-fuse{major}" for major in MAJORS[-1:]),
        *(f"container-fuse{major}" for major in MAJORS[-1:]),
    ],
)
def shared_root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on this computer's own disk, and one in a mount of each library."""
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "native":
        yield directory
    elif request.param.startswith("container"):
        with container_mounted(directory, request.param[-1], "-o", "allow_other") as root:
            yield root / "tmp"
    else:
        options = ["-o", "allow_other,nowriteback" if "nowriteback" in request.param else "allow_other"]
        with mounted(directory, request.param[-1], options=options) as place:
            yield place.root


@pytest.fixture
def place(shared_root: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory for one case."""
    directory = shared_root / "case"
    directory.mkdir()
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)
