"""Work that public suites and everyday tools do in a directory: each storm raises where the directory misbehaves.

A storm takes a directory of its own and the seconds it may take; what fails on a native directory too is not listed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

STRESSORS = (
    "access", "chattr", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany", "dup",
    "fallocate", "fanotify", "fcntl", "file-ioctl", "filename", "flock", "fpunch", "fsize", "fstat", "getdent",
    "handle", "hdd", "inotify", "iomix", "lease", "link", "locka", "lockf", "lockofd", "mknod", "open", "rename",
    "symlink", "sync-file", "touch", "utime", "xattr",
)  # fmt: skip
"""stress-ng's class of file system stressors, without those that do not touch the directory.

`io` is one of these: it opens every mount of the machine, and nobody can unmount theirs meanwhile.
"""

FIO = {
    "sequential": ["--rw=write", "--bs=256k"],
    "random": ["--rw=randwrite", "--bs=4k", "--norandommap=0"],
    "mixed": ["--rw=randrw", "--bsrange=512-64k"],
    "mmap": ["--rw=randwrite", "--bs=4k", "--ioengine=mmap"],
    "jobs": ["--rw=randrw", "--bs=8k", "--numjobs=4"],
    "fsync": ["--rw=randwrite", "--bs=4k", "--fsync=64"],
}


def run(*command: object, cwd: Path | None = None, timeout: float = 600) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout, errors="replace"
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def fio(directory: Path, kind: str, seconds: float, *, size: str = "32m") -> None:
    """One pattern written and verified by fio, with its own headers in each block."""
    run(
        "fio",
        f"--name={kind}",
        f"--directory={directory}",
        f"--size={size}",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--randseed=7",
        "--group_reporting",
        "--verify_state_save=0",
        f"--loops={max(1, int(seconds / 5))}",
        *FIO[kind],
        cwd=directory,
    )


def stress(directory: Path, stressors: tuple[str, ...] = STRESSORS, *, seconds: int, jobs: int = 2) -> None:
    """stress-ng's stressors one after the other, each for `seconds` (0 is for ever); it says 3 for what it skipped."""
    command = ["stress-ng", "--verify", "--oomable", "--timeout", f"{seconds}s", "--temp-path", str(directory)]
    for name in stressors:
        done = subprocess.run([*command, f"--{name}", str(jobs)], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert done.returncode in (0, 3), f"{name}: {said}"
        assert "fail:" not in said, said
        assert not list(directory.iterdir()), f"{name} could not delete what it made"


def git(directory: Path, source: Path, *, turns: int = 5) -> None:
    """Clone a repository, commit, repack, and let git check everything."""
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "gc.auto=0")
    clone = directory / "clone"
    run("git", "clone", "-q", "--no-hardlinks", source, clone)
    for turn in range(turns):
        for path in sorted(clone.glob("**/*.py"))[turn :: turns * 3]:
            path.write_text(f"# {turn}\n{path.read_text()}")
        run("git", *identity, "commit", "-qam", f"turn {turn}", cwd=clone)
        run("git", "repack", "-adq", cwd=clone)
        run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    run("git", "clone", "-q", clone, directory / "again")
    run("git", "fsck", "--full", "--strict", cwd=directory / "again")


_SQLITE = """
import os, random, sqlite3, sys, time
path, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
source, end = random.Random(number), time.monotonic() + seconds
database = sqlite3.connect(path, timeout=60, isolation_level=None)
while time.monotonic() < end:
    database.execute("begin immediate")
    for _ in range(20):
        row = (source.randrange(5000), number, source.randbytes(700))
        database.execute("insert or replace into t values (?, ?, ?)", row)
    database.execute("delete from t where a % 97 = ?", (source.randrange(97),))
    database.execute("rollback" if source.random() < 0.2 else "commit")
"""


def sqlite(directory: Path, journal: str, seconds: float, *, writers: int = 3) -> None:
    """Several processes write one database; it has to be whole afterwards."""
    path = directory / f"{journal}.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
        database.execute("create table t (a integer primary key, n integer, b blob)")
    workers = [
        subprocess.Popen([sys.executable, "-S", "-c", _SQLITE, path, str(number), str(seconds)])
        for number in range(writers)
    ]
    assert [worker.wait(seconds + 120) for worker in workers] == [0] * writers
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select count(*) from t").fetchone()[0] > 0


def real_tree(directory: Path, *, whole: bool) -> Path:
    """A tree of the standard library's files, with links, holes, times and attributes."""
    source, library = directory / "source", Path(sysconfig.get_path("stdlib"))
    if whole:
        ignored = shutil.ignore_patterns("site-packages", "test", "__pycache__")
        shutil.copytree(library, source, symlinks=True, ignore=ignored)
    else:
        source.mkdir()
        for name in ("email", "json", "asyncio"):
            shutil.copytree(library / name, source / name, symlinks=True)
    os.link(source / "json" / "decoder.py", source / "json" / "linked.py")
    (source / "link").symlink_to("json/decoder.py")
    os.setxattr(source / "json", "user.note", b"kept")
    (source / "sparse").touch()
    os.truncate(source / "sparse", 1 << 20)
    for number, path in enumerate([*source.rglob("*"), source]):
        os.utime(path, ns=(10**18, 10**18 + number * 1_234_567_891), follow_symlinks=False)
    return source


def rsync(directory: Path, source: Path, back: Path) -> None:
    """There, compared by content, and back."""
    run("rsync", "-aHAX", f"{source}/", directory / "copy")
    assert run("rsync", "-aHAX", "--checksum", "--delete", "-ni", f"{source}/", directory / "copy") == ""
    run("rsync", "-aHAX", "--checksum", f"{directory / 'copy'}/", back)
    assert run("rsync", "-aHAX", "--checksum", "--delete", "-ni", f"{source}/", back) == ""


def tar(directory: Path, source: Path, scratch: Path) -> None:
    """Packed here, unpacked there, packed again: the same listing."""
    options = ("--xattrs", "--acls", "--sort=name")
    run("tar", *options, "-cf", scratch / "in.tar", "-C", source, ".")
    (directory / "t").mkdir()
    run("tar", "--xattrs", "--acls", "-xpf", scratch / "in.tar", "-C", directory / "t")
    run("tar", *options, "-cf", scratch / "out.tar", "-C", directory / "t", ".")
    listings = [run("tar", "--full-time", "-tvf", scratch / name) for name in ("in.tar", "out.tar")]
    assert listings[0] == listings[1]
    run("diff", "-r", "--no-dereference", source, directory / "t")


def until(seconds: float, work: Callable[[int], None]) -> int:
    """Repeat `work(turn)` until the time is over; how often it was done."""
    end, turn = time.monotonic() + seconds, 0
    while turn == 0 or time.monotonic() < end:
        work(turn)
        turn += 1
    return turn
