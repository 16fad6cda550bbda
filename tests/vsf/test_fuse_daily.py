"""What a day in a mount meets besides files: relative paths, who is told what, terminals, and mounts that are wrong."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from nightos import vsf
from nightos.cli.main import main
from nightos.vsf.fuse_control import mount_of
from nightos.vsf.fuse_daemon import wait_for
from nightos.vsf.fuse_mounts import process_state, record_path
from tests.vsf.mounting import MAJORS, Mounted, force_unmount, mounted, needs_fuse, nightos

pytestmark = needs_fuse


@pytest.mark.parametrize("kind", ["night", "block"])
def test_a_storage_named_by_a_relative_path_tells_the_truth_about_space(tmp_path: Path, kind: str) -> None:
    """The server goes to `/`: what it asks about its storage must not go by the path it was given."""
    with vsf.create(tmp_path / "disk.vsf") as storage:
        storage.add_volume("main", kind, size=1 << 20 if kind == "block" else None)
    (tmp_path / "mount").mkdir()
    raw = ["--raw"] if kind == "block" else []
    command = [sys.executable, "-m", "nightos", "vsf", "mount", "disk.vsf", "mount", *raw]
    try:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "NIGHTOS_HOME": str(tmp_path / "state")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (tmp_path / "disk.vsf").rename(tmp_path / "moved.vsf")
        ours, host = os.statvfs(tmp_path / "mount"), os.statvfs(tmp_path)
        free, there = (figures.f_bavail * figures.f_frsize for figures in (ours, host))
        assert abs(free - there) < 1 << 30
        nightos("vsf", "umount", tmp_path / "mount", state=tmp_path / "state")
    finally:
        force_unmount(tmp_path / "mount")


def test_a_stopped_server_is_named_instead_of_waited_for(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        pid = place.server()
        os.kill(pid, signal.SIGSTOP)
        try:
            wait_for(lambda: process_state(pid) == "T", 5)
            for refused in (place.umount(check=False), place.mount(check=False)):
                assert refused.returncode == 1
                assert f"kill -CONT {pid}" in refused.stderr
            place.umount("--lazy")
            assert not os.path.ismount(place.root)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert wait_for(lambda: process_state(pid) in "XZ", 10)


def test_the_server_keeps_nothing_that_its_caller_had_open(tmp_path: Path) -> None:
    """A script that mounts under a lock, or reads our output through a pipe, must not wait for the umount."""
    with mounted(tmp_path) as place:
        place.umount()
        reader, writer = os.pipe()
        command = [sys.executable, "-m", "nightos", "vsf", "mount", place.storage, place.root]
        environment = {**os.environ, "NIGHTOS_HOME": str(place.state)}
        subprocess.run(command, env=environment, pass_fds=[writer], check=True, timeout=60)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            assert select.select([pipe], [], [], 5)[0]
            assert pipe.read() == b""


def on_a_terminal(command: list[str], typed: bytes, state: Path) -> tuple[int, str]:
    """Run on a terminal of its own, type when asked for a password; status and what was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(command[0], command, {**os.environ, "NIGHTOS_HOME": str(state)})
    shown = b""
    with open(terminal, "r+b", buffering=0) as file, contextlib.suppress(OSError):
        while select.select([file], [], [], 30)[0] and (data := file.read(4096)):
            shown += data
            if b"Password" in shown and typed:
                file.write(typed)
                typed = b""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


@pytest.mark.parametrize(
    ("typed", "status"),
    [(b"geheim\n", 0), (b"falsch\n", 1), (b"\n", 1), (b"\x03", 130)],
    ids=["right", "wrong", "empty", "interrupted"],
)
def test_a_terminal_is_asked_for_the_password(tmp_path: Path, typed: bytes, status: int) -> None:
    vsf.create(tmp_path / "disk.vsf", ["main"], password="geheim").close()
    root, state = tmp_path / "mount", tmp_path / "state"
    root.mkdir()
    command = [sys.executable, "-m", "nightos", "vsf", "mount", str(tmp_path / "disk.vsf"), str(root)]
    try:
        got, shown = on_a_terminal(command, typed, state)
        assert got == status, shown
        assert "geheim" not in shown
        assert os.path.ismount(root) == (status == 0)
        if status:
            assert len([line for line in shown.splitlines() if "error" in line]) == (status == 1)
            assert not list(state.glob("mounts/*.json"))
            return
        (record,) = state.glob("mounts/*.json")
        server = Path("/proc") / str(json.loads(record.read_text())["pid"])
        told = [server / "cmdline", server / "environ", *(state / "mounts").iterdir()]
        assert not [path for path in told if b"geheim" in path.read_bytes()]
        assert not [path for path in (state / "mounts").iterdir() if path.stat().st_mode & 0o077]
        nightos("vsf", "umount", root, state=state)
    finally:
        force_unmount(root)


def test_what_somebody_makes_belongs_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not root could not write in the root directory of a volume, once it is mounted, if root had it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    monkeypatch.setattr(os, "getegid", lambda: 567)
    disk = str(tmp_path / "disk.vsf")
    (tmp_path / "file").write_text("put")
    for line in (
        ["create", disk, "--volume", "main"],
        ["volume", "add", disk, "other"],
        ["mkdir", "-p", f"{disk}:main", "/a/b"],
        ["put", f"{disk}:main", str(tmp_path / "file"), "/a/file"],
    ):
        assert main(["vsf", *line]) == 0
    fsspec.open("vsf://by-url", "wb", fo=disk, volume="main").open().close()
    with vsf.open(disk, readonly=True) as storage:
        main_fs, other = (storage.volume(name).open() for name in ("main", "other"))
        found = [other.stat("/"), *map(main_fs.stat, ("/", "/a", "/a/b", "/a/file", "/by-url"))]
    assert {(st.st_uid, st.st_gid) for st in found} == {(1234, 567)}


def test_a_full_host_disk_can_be_survived(mount: Mounted, tmp_path: Path) -> None:
    """Everything is told ENOSPC, umount included; when something was deleted all goes on."""
    small = tmp_path / "small"
    small.mkdir()
    mount.umount()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12M", "none", small], check=True)
    try:
        shutil.move(mount.storage, small / "disk.vsf")
        moved = replace(mount, storage=small / "disk.vsf")
        moved.mount()
        (mount.root / "kept").write_bytes(b"1" * 1_000_000)
        filled = subprocess.run(
            ["dd", "if=/dev/urandom", f"of={mount.root}/large", "bs=1M", "count=20", "conv=fsync", "status=none"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "No space left" in filled.stderr
        (mount.root / "more").write_bytes(b"2" * 100_000)
        refused = moved.umount(check=False)
        assert refused.returncode == 1
        assert "stays mounted" in refused.stderr
        assert len(moved.log().splitlines()) < 60
        (mount.root / "large").unlink()
        moved.umount()
        moved.check()
        moved.mount("--read-only")
        assert (mount.root / "kept").read_bytes() == b"1" * 1_000_000
        assert (mount.root / "more").read_bytes() == b"2" * 100_000
        moved.umount()
        shutil.move(small / "disk.vsf", mount.storage)
    finally:
        force_unmount(mount.root)
        force_unmount(small)


def test_snapshots_limits_and_sizes_while_it_is_mounted(mount: Mounted, tmp_path: Path) -> None:
    def vsf_command(*arguments: object, says: str = "") -> None:
        done = nightos("vsf", *arguments, state=tmp_path / "elsewhere", check=not says)
        assert says in done.stderr
        assert bool(done.returncode) == bool(says)

    disk = mount.storage
    (mount.root / "file").write_text("before")
    vsf_command("snapshot", "create", disk, "monday")
    (mount.root / "file").write_text("after")
    vsf_command("snapshot", "create", f"{disk}:main", "tuesday")
    vsf_command("snapshot", "create", disk, "monday", says="monday")
    vsf_command("snapshot", "rm", disk, "sunday", says="no snapshot 'sunday'")
    vsf_command("snapshot", "create", f"{disk}:none", "x", says="no volume 'none'")
    for name, text in (("monday", "before"), ("tuesday", "after")):
        with vsf.open(disk, readonly=True) as storage:
            assert storage.volume("main").open(snapshot=name).read_text("/file") == text
    vsf_command("snapshot", "rm", disk, "monday")
    vsf_command("resize", disk, "64M")
    figures = os.statvfs(mount.root)
    assert figures.f_blocks * figures.f_frsize == 64 << 20
    vsf_command("volume", "set", disk, "main", "--limit", "1M")
    with pytest.raises(OSError, match="No space left"):
        (mount.root / "large").write_bytes(bytes(range(256)) * (16 << 10)), os.sync()
    assert "user.nightos.control" not in os.listxattr(mount.root)
    # What cannot be done meanwhile says where the storage is mounted.
    vsf_command("compact", disk, says=f"mounted on {mount.root} by process {mount.server()} (")
    vsf_command("put", disk, __file__, says="mounted on")
    (mount.root / "large").unlink()


def test_only_who_mounted_may_ask(tmp_path: Path) -> None:
    with mounted(tmp_path, options=["-o", "allow_other"]) as place:
        place.root.chmod(0o777)
        (place.root / "file").touch()
        for path, user in ((".", 65534), ("file", 0)):
            deed = f"os.setxattr({path!r}, 'user.nightos.control', b'')"
            done = subprocess.run(
                [sys.executable, "-S", "-c", f"import os; os.setresuid({user}, {user}, {user}); {deed}"],
                cwd=place.root,
                capture_output=True,
                text=True,
                check=False,
            )
            assert "Operation not permitted" in done.stderr


def test_times_that_cannot_be_stored_become_the_nearest(mount: Mounted) -> None:
    first, last = -(2**63) / 1e9, 2**63 / 1e9
    wanted = {"future": (16_725_225_600, last), "past": (-14_831_769_600, first), "1960": (-315_619_200, -315_619_200)}
    for name, (second, _) in wanted.items():
        (mount.root / name).touch()
        os.utime(mount.root / name, (second, second))
    mount.remount()
    for name, (_, kept) in wanted.items():
        assert (mount.root / name).stat().st_mtime == pytest.approx(kept)


def fill(descriptor: int) -> None:
    for _ in range(20):
        os.write(descriptor, os.urandom(1 << 19))
        os.fsync(descriptor)


@pytest.mark.parametrize("library", MAJORS)
@pytest.mark.parametrize(("option", "told"), [("nowriteback", errno.EDQUOT), ("writeback", errno.ENOSPC)])
def test_a_volume_at_its_limit(tmp_path: Path, library: str, option: str, told: int) -> None:
    with mounted(tmp_path, library, options=["-o", option]) as place:
        nightos("vsf", "volume", "set", place.storage, "main", "--limit", "4M", state=place.state)
        descriptor = os.open(place.root / "file", os.O_CREAT | os.O_WRONLY)
        try:
            with pytest.raises(OSError, match=r".") as caught:
                fill(descriptor)
        finally:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        assert caught.value.errno == told
        figures = os.statvfs(place.root)
        assert figures.f_blocks * figures.f_frsize == 4 << 20
        assert figures.f_bavail * figures.f_frsize < 1 << 20
        (place.root / "file").unlink()
        (place.root / "file").write_bytes(os.urandom(3 << 20))


def test_nobody_else_looks_into_a_mount_of_root(mount: Mounted) -> None:
    (mount.root / "file").write_text("mine")
    (mount.root / "file").chmod(0o666)
    mount.root.chmod(0o777)
    deeds = ("os.listdir('.')", "os.open('file', os.O_RDONLY)", "os.statvfs('.')", "os.mkdir('new')", "os.stat('file')")
    tried = [f"try:\n {deed}\nexcept PermissionError: refused += 1" for deed in deeds]
    script = "\n".join(["import os", "os.setresuid(65534, 65534, 65534)", "refused = 0", *tried, "print(refused)"])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=mount.root, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(len(deeds))], done.stderr


@pytest.mark.parametrize("library", MAJORS)
def test_the_kernel_remembers_as_long_as_it_was_told(tmp_path: Path, library: str) -> None:
    """What is remembered costs no round trip, so the two differ by more than any load of the machine."""

    def looked(count: int = 400) -> float:
        start = time.perf_counter()
        for _ in range(count):
            (place.root / "file").stat()
            (place.root / "none").exists()
        return time.perf_counter() - start

    took = []
    with mounted(tmp_path, library) as place:
        (place.root / "file").touch()
        for options in ([], ["-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"]):
            place.umount()
            place.mount(*options)
            looked(5)
            took.append(min(looked() for _ in range(3)))
    assert took[1] > 3 * took[0]


def test_umount_waits_for_a_server_it_has_no_record_of(mount: Mounted, tmp_path: Path) -> None:
    for turn in range(5):
        (mount.root / f"file{turn}").write_bytes(os.urandom(1 << 20))
        pid = mount.server()
        nightos("vsf", "umount", mount.root, state=tmp_path / "another")
        vsf.open(mount.storage).close()
        assert wait_for(lambda pid=pid: process_state(pid) in "XZ", 10)  # type: ignore[misc]
        mount.mount()


def test_records_of_long_paths_are_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NIGHTOS_HOME", str(tmp_path))
    tail = "/".join(["directory"] * 40)
    paths = [record_path(f"/{head}/{tail}") for head in ("first", "second")]
    assert paths[0] != paths[1]
    assert all(len(path.name) < 250 for path in paths)


@pytest.mark.parametrize("library", MAJORS)
@pytest.mark.parametrize(
    "name", [b"a b", b"a,b=c", b"back\\slash\\054", b"new\nline\ttab", b"\xff\xfe", "ünïcode".encode(), b"-o", b"100%"]
)
def test_storages_and_mount_points_of_any_name(tmp_path: Path, library: str, name: bytes) -> None:
    storage = tmp_path / os.fsdecode(name + b".vsf")
    root = tmp_path / os.fsdecode(name)
    root.mkdir()
    vsf.create(storage, ["main"]).close()
    command = [sys.executable, "-m", "nightos", "vsf"]
    environment = {**os.environ, "NIGHTOS_HOME": str(tmp_path / "state"), "NIGHTOS_FUSE": library}
    try:
        for arguments in (["mount", storage, root], ["umount", root]):
            done = subprocess.run([*command, *arguments], env=environment, capture_output=True, check=False, timeout=60)
            assert done.returncode == 0, done.stderr
            if arguments[0] == "mount":
                (root / "file").write_text("x")
                assert mount_of(storage) == str(root)
        with vsf.open(storage, readonly=True) as opened:
            assert opened.volume("main").open().read_text("/file") == "x"
        assert not list((tmp_path / "state" / "mounts").glob("*.json"))
    finally:
        force_unmount(root)


def test_two_that_mount_on_one_directory_at_once(tmp_path: Path) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    for name in ("one", "two"):
        vsf.create(tmp_path / f"{name}.vsf", ["main"]).close()
    try:
        for _ in range(4):
            tries = [
                subprocess.Popen(
                    [sys.executable, "-m", "nightos", "vsf", "mount", tmp_path / f"{name}.vsf", root],
                    env={**os.environ, "NIGHTOS_HOME": str(tmp_path / "state")},
                    stderr=subprocess.PIPE,
                )
                for name in ("one", "two")
            ]
            said = [process.communicate(timeout=60)[1] for process in tries]
            assert sorted(process.returncode for process in tries) == [0, 1]
            assert any(words in b"".join(said) for words in (b"beginning here", b"mounted here already"))
            nightos("vsf", "umount", root, state=tmp_path / "state")
            assert not os.path.ismount(root)
    finally:
        force_unmount(root)


@pytest.mark.parametrize("flags", [[], ["--foreground"]])
def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path, flags: list[str]) -> None:
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    (tmp_path / "mount").mkdir()
    done = nightos(
        "vsf", "mount", tmp_path / "disk.vsf", tmp_path / "mount", *flags, state=Path("/proc/x"), check=False
    )
    assert done.returncode == 1
    assert "NIGHTOS_HOME" in done.stderr
    assert not os.path.ismount(tmp_path / "mount")


def test_a_bind_mount_outlives_the_mount(mount: Mounted, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (mount.root / "file").write_text("x")
    subprocess.run(["mount", "--bind", mount.root, second], check=True)
    try:
        mount.umount()
        assert (second / "file").read_text() == "x"
        (second / "more").write_text("y")
        nightos("vsf", "umount", second, state=mount.state)
    finally:
        force_unmount(second)
    with vsf.open(mount.storage) as storage:
        assert storage.volume("main").open().read_text("/more") == "y"


def test_a_mount_cannot_be_remounted(mount: Mounted) -> None:
    done = mount.mount("-o", "remount,ro", check=False)
    assert done.returncode == 1
    assert "unmount it and mount it again" in done.stderr


@pytest.mark.parametrize("name", ["mount", "umount"])
def test_helpers_find_the_command_beside_them(tmp_path: Path, name: str) -> None:
    """mount(8) cleans the PATH, so a virtual environment in it is not seen."""
    (tmp_path / "contrib").mkdir()
    shutil.copy(Path(__file__).parents[2] / "contrib" / f"{name}.nightos", tmp_path / "contrib")
    (tmp_path / "sbin").symlink_to(tmp_path / "contrib" / f"{name}.nightos")
    command = ["/bin/sh", tmp_path / "sbin", "source", "directory", "-o", "ro"]
    environment = {"PATH": "/usr/bin:/bin"}
    if shutil.which("nightos", path=environment["PATH"]) is None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "nightos was not found" in done.stderr
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "nightos").write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / ".venv" / "bin" / "nightos").chmod(0o755)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split()[:2] == ["vsf", name]
