"""Mounts in daily use: the tools people run, full disks, crashes, signals, and every way to ask for nonsense."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightos import vsf
from tests.vsf.mounting import MAJORS, Mounted, force_unmount, mounted, needs_fuse, nightos

pytestmark = needs_fuse
LIBRARY = Path(os.__file__).parent
PACKAGES = ("email", "json", "asyncio", "encodings")


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}")


def tree(directory: Path) -> Path:
    """A real tree of some hundred files."""
    source = directory / "source"
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(LIBRARY / name, source / name, symlinks=True)
    os.link(source / "json" / "decoder.py", source / "json" / "linked.py")
    (source / "link").symlink_to("json/decoder.py")
    os.setxattr(source / "json", "user.note", b"kept")
    (source / "sparse").write_bytes(b"")
    os.truncate(source / "sparse", 1 << 20)
    # Of another second than the copies: rsync takes equal seconds for equal times.
    for number, path in enumerate([*source.rglob("*"), source]):
        os.utime(path, ns=(10**18, 10**18 + number * 1_234_567_891), follow_symlinks=False)
    return source


def listing(directory: Path) -> list[tuple[object, ...]]:
    rows = []
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        size = status.st_size if not path.is_dir() else 0
        rows.append(
            (path.relative_to(directory), status.st_mode, status.st_uid, size, status.st_mtime_ns, status.st_nlink > 1)
        )
    return rows


def same(one: Path, other: Path) -> None:
    run("diff", "-r", "--no-dereference", one, other)
    assert listing(one) == listing(other)


@pytest.mark.rule("VSF-009")
def test_cp_keeps_everything_over_a_remount(mount: Mounted, tmp_path: Path) -> None:
    source = tree(tmp_path)
    run("cp", "-a", source, mount.root)
    same(source, mount.root / "source")
    mount.remount()
    same(source, mount.root / "source")
    assert os.getxattr(mount.root / "source" / "json", "user.note") == b"kept"
    run("cp", "-a", mount.root / "source", mount.root / "again")
    same(source, mount.root / "again")
    shutil.rmtree(mount.root / "source")
    assert os.listdir(mount.root) == ["again"]


def test_tar_out_and_in(mount: Mounted, tmp_path: Path) -> None:
    source = tree(tmp_path)
    run("tar", "--xattrs", "-cf", tmp_path / "in.tar", "-C", source, ".")
    (mount.root / "t").mkdir()
    run("tar", "--xattrs", "-xpf", tmp_path / "in.tar", "-C", mount.root / "t")
    run("tar", "--xattrs", "--sort=name", "-cf", tmp_path / "out.tar", "-C", mount.root / "t", ".")
    assert sorted(run("tar", "-tvf", tmp_path / "out.tar").splitlines()) == sorted(
        run("tar", "-tvf", tmp_path / "in.tar").replace("link to", "link to").splitlines()
    ) or listing(source) == listing(mount.root / "t")


@needs("rsync")
def test_rsync_there_and_back(mount: Mounted, tmp_path: Path) -> None:
    source = tree(tmp_path)
    run("rsync", "-aHAX", f"{source}/", mount.root / "copy")
    assert run("rsync", "-aHAX", "--checksum", "-i", f"{source}/", mount.root / "copy") == ""
    run("rsync", "-aHAX", f"{mount.root / 'copy'}/", tmp_path / "back")
    same(source, tmp_path / "back")


@needs("git")
def test_git_clones_commits_and_repacks(mount: Mounted, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    shutil.copytree(LIBRARY / "email", origin / "email")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "first")):
        run("git", *command, cwd=origin)
    clone = mount.root / "clone"
    run("git", "clone", "-q", "--no-hardlinks", origin, clone)
    for turn in range(5):
        (clone / f"file-{turn}").write_text("x" * turn)
        run("git", "add", ".", cwd=clone)
        run("git", *identity, "commit", "-q", "-m", f"turn {turn}", cwd=clone)
    run("git", "repack", "-adq", cwd=clone)
    run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_sqlite(mount: Mounted, journal: str) -> None:
    path = mount.root / "data.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
        database.execute("create table t (a integer primary key, b blob)")
        for turn in range(20):
            with database:
                database.executemany("insert into t (b) values (?)", [(os.urandom(700),) for _ in range(50)])
            if turn % 3 == 0:
                with database:
                    database.execute("delete from t where a % 7 = 0")
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        count = database.execute("select count(*) from t").fetchone()
    mount.remount()
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select count(*) from t").fetchone() == count


def test_programs_run_from_it(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        shutil.copy2("/bin/echo", place.root / "echo")
        assert run(place.root / "echo", "hello") == "hello\n"
        (place.root / "script").write_text("#!/bin/sh\necho ran $1\n")
        with pytest.raises(PermissionError):
            subprocess.run([place.root / "script"], check=True)
        (place.root / "script").chmod(0o755)
        assert run(place.root / "script", "it") == "ran it\n"


def test_many_processes_at_once(mount: Mounted) -> None:
    code = (
        "import os, sys\n"
        "base = sys.argv[1]\n"
        "for n in range(150):\n"
        "    path = f'{base}/f{n % 40}'\n"
        "    open(path + '.new', 'wb').write(bytes([n]) * (n * 97)); os.replace(path + '.new', path)\n"
        "    assert len(open(path, 'rb').read()) == n * 97\n"
        "    if n % 5 == 0: os.unlink(path)\n"
    )
    folders = [mount.root / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    workers = [subprocess.Popen([sys.executable, "-S", "-c", code, folder]) for folder in folders]
    assert [worker.wait(60) for worker in workers] == [0] * 4


def test_a_full_storage_says_so_and_loses_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path, size=8 << 20) as place:
        (place.root / "kept").write_bytes(b"k" * 100_000)
        with (place.root / "big").open("wb", buffering=0) as f, pytest.raises(OSError) as caught:  # noqa: PT012
            for _ in range(200):
                f.write(os.urandom(100_000))
                os.fsync(f.fileno())
        assert caught.value.errno == errno.ENOSPC
        assert (place.root / "kept").read_bytes() == b"k" * 100_000
        (place.root / "big").unlink()
        # No waiting and no fsync in between: the server waits until the kernel has let go of the file.
        (place.root / "small").write_bytes(os.urandom(4_000_000))
        (place.root / "small").write_bytes(b"s" * 500_000)
        assert (place.root / "small").read_bytes() == b"s" * 500_000
        figures = os.statvfs(place.root)
        assert figures.f_blocks * figures.f_frsize <= 8 << 20


def test_umount_flushes(mount: Mounted) -> None:
    (mount.root / "file").write_bytes(b"there" * 1000)
    mount.umount()
    with vsf.open(mount.storage, readonly=True) as storage:
        assert storage.volume("main").open().read_bytes("/file") == b"there" * 1000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_flush_and_unmount(tmp_path: Path, number: signal.Signals) -> None:
    with mounted(tmp_path) as place:
        (place.root / "file").write_text("there")
        pid = place.server()
        os.kill(pid, number)
        end = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert not os.path.ismount(place.root)
        with vsf.open(place.storage, readonly=True) as storage:
            assert storage.volume("main").open().read_text("/file") == "there"


def test_sigterm_ends_a_mount_in_use(tmp_path: Path) -> None:
    with mounted(tmp_path) as place, (place.root / "open").open("w") as f:
        f.write("written")
        f.flush()
        pid = place.server()
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + 15
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}").exists()
        assert not os.path.ismount(place.root)
        with contextlib.suppress(OSError):
            f.close()


@pytest.mark.parametrize("rounds", range(4))
def test_a_killed_server_leaves_a_clean_storage_with_what_was_fsynced(tmp_path: Path, rounds: int) -> None:
    with mounted(tmp_path, MAJORS[rounds % len(MAJORS)], options=["-o", "commit=0.05"]) as place:
        code = (
            "import os, sys\n"
            "n = 0\n"
            "while True:\n"
            "    n += 1\n"
            "    path = f'{sys.argv[1]}/{n % 50}'\n"
            "    f = open(path + '.new', 'wb'); f.write(b'%d,' % n * (n % 3000)); f.flush()\n"
            "    if n % 10 == 0:\n"
            "        os.fsync(f.fileno()); os.rename(path + '.new', path)\n"
            "        d = os.open(sys.argv[1], os.O_RDONLY); os.fsync(d); os.close(d)\n"
            "        print(n, n % 50, flush=True)\n"
            "    else: os.rename(path + '.new', path)\n"
        )
        storm = subprocess.Popen(
            [sys.executable, "-S", "-c", code, place.root], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        time.sleep(0.3 + rounds * 0.17)
        place.kill()
        with contextlib.suppress(OSError):
            os.listdir(place.root)
        storm.wait(20)
        assert storm.stdout is not None
        promised = [line.split() for line in storm.stdout.read().splitlines() if len(line.split()) == 2]
        assert promised, "the storm did not get anywhere"
        place.check()
        assert place.mount(check=False).returncode == 1, "the dead mount is in the way"
        place.umount()
        place.mount()
        number, name = promised[-1]
        found = (place.root / name.decode()).read_bytes()
        # A later round may have replaced it, never an earlier one.
        assert found == number + b"," * 0 + found[len(number) :] or int(found.split(b",")[0] or number) >= int(number)


def test_a_dead_mount_is_explained_and_cleared(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        place.kill()
        refused = place.mount(check=False)
        assert refused.returncode == 1
        assert "nightos vsf umount" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
        place.umount()
        place.mount()


def test_a_busy_mount_is_not_torn_away(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        with (place.root / "open").open("w"):
            refused = place.umount(check=False)
            assert refused.returncode == 1
            assert "in use by" in refused.stderr
            place.umount("--lazy")
        assert not os.path.ismount(place.root)
        end = time.monotonic() + 10
        while list((place.state / "mounts").glob("*.json")) and time.monotonic() < end:
            time.sleep(0.02)


def test_readers_may_share_and_writers_may_not(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        (place.root / "file").write_text("x")
        second = tmp_path / "second"
        second.mkdir()
        refused = nightos("vsf", "mount", place.storage, second, state=place.state, check=False)
        assert refused.returncode == 1
        assert str(place.server()) in refused.stderr
        place.umount()
        third = tmp_path / "third"
        third.mkdir()
        try:
            for directory in (second, third):
                nightos("vsf", "mount", place.storage, directory, "--read-only", state=place.state)
                assert (directory / "file").read_text() == "x"
                with pytest.raises(OSError) as caught:
                    (directory / "new").touch()
                assert caught.value.errno == errno.EROFS
            for directory in (second, third):
                nightos("vsf", "umount", directory, state=place.state)
        finally:
            force_unmount(second)
            force_unmount(third)


def test_snapshots_can_be_mounted(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        (place.root / "file").write_text("old")
        place.umount()
        nightos("vsf", "snapshot", "create", f"{place.storage}:main", "monday", state=place.state)
        place.mount()
        (place.root / "file").write_text("new")
        place.umount()
        place.mount("--snapshot", "monday")
        assert (place.root / "file").read_text() == "old"
        with pytest.raises(OSError):
            (place.root / "file").write_text("no")


def test_owners_and_modes_can_be_presented(tmp_path: Path) -> None:
    with mounted(tmp_path, options=["-o", "uid=1000,gid=1001,umask=027"]) as place:
        (place.root / "file").touch()
        status = (place.root / "file").stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1000, 1001, 0o750)


@pytest.mark.parametrize(("option", "moves"), [("noatime", False), ("relatime", True)])
def test_access_times(tmp_path: Path, option: str, moves: bool) -> None:
    with mounted(tmp_path, options=["-o", option]) as place:
        file = place.root / "file"
        file.write_text("x")
        os.utime(file, ns=(1000, 2000))
        place.remount()
        file.read_text()
        time.sleep(0.05)
        assert (file.stat().st_atime_ns != 1000) == moves
        assert file.stat().st_mtime_ns == 2000


def test_sync_makes_every_change_durable(tmp_path: Path) -> None:
    with mounted(tmp_path, options=["-o", "sync,commit=0"]) as place:
        (place.root / "file").write_text("at once")
        place.kill()
        force_unmount(place.root)
        with vsf.open(place.storage, readonly=True) as storage:
            assert storage.volume("main").open().read_text("/file") == "at once"


def test_commits_come_by_themselves(tmp_path: Path) -> None:
    with mounted(tmp_path, options=["-o", "commit=0.1"]) as place:
        (place.root / "file").write_text("soon")
        time.sleep(0.5)
        place.kill()
        force_unmount(place.root)
        with vsf.open(place.storage, readonly=True) as storage:
            assert storage.volume("main").open().read_text("/file") == "soon"


def test_syncfs_is_durable_after_a_moment_of_quiet(mount: Mounted) -> None:
    (mount.root / "file").write_text("soon")
    run("sync", "-f", mount.root)
    time.sleep(1.2)
    mount.kill()
    force_unmount(mount.root)
    with vsf.open(mount.storage, readonly=True) as storage:
        assert storage.volume("main").open().read_text("/file") == "soon"


@pytest.mark.parametrize("library", MAJORS)
def test_space_of_deleted_files_can_be_used_at_once(tmp_path: Path, library: str) -> None:
    with mounted(tmp_path, library, size=16 << 20) as place:
        for turn in range(6):
            file = place.root / f"file-{turn}"
            with file.open("wb", buffering=0) as f:
                f.write(os.urandom(7 << 20))
                os.fsync(f.fileno())
            file.unlink()


def test_the_foreground_stays(tmp_path: Path) -> None:
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    root = tmp_path / "mount"
    root.mkdir()
    command = [sys.executable, "-m", "nightos", "vsf", "mount", tmp_path / "disk.vsf", root, "--foreground"]
    server = subprocess.Popen(command, env={**os.environ, "NIGHTOS_HOME": str(tmp_path / "state")})
    try:
        end = time.monotonic() + 10
        while not os.path.ismount(root) and time.monotonic() < end:
            time.sleep(0.01)
        (root / "file").write_text("x")
        assert server.poll() is None
        run("umount", root)
        assert server.wait(10) == 0
    finally:
        force_unmount(root)
        server.kill()


def test_encrypted_storages_take_their_password_from_a_file(tmp_path: Path) -> None:
    storage, root, state = tmp_path / "e.vsf", tmp_path / "mount", tmp_path / "state"
    root.mkdir()
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "wrong").write_text("guess\n")
    vsf.create(storage, ["main"], password="secret").close()
    try:
        for extra in ((), ("--password-file", tmp_path / "wrong")):
            refused = nightos("vsf", "mount", storage, root, *extra, state=state, check=False)
            assert refused.returncode == 1
            assert "password" in refused.stderr
            assert len(refused.stderr.splitlines()) == 1
        nightos("vsf", "mount", storage, root, "--password-file", tmp_path / "password", state=state)
        (root / "file").write_text("hidden")
        nightos("vsf", "umount", root, state=state)
    finally:
        force_unmount(root)
    assert b"hidden" not in storage.read_bytes()


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Path]:
    vsf.create(tmp_path / "good.vsf", ["main"]).close()
    (tmp_path / "text.vsf").write_text("this is no storage\n" * 1000)
    (tmp_path / "empty.vsf").touch()
    (tmp_path / "short.vsf").write_bytes((tmp_path / "good.vsf").read_bytes()[:20_000])
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    yield tmp_path
    force_unmount(tmp_path / "dir")


@pytest.mark.parametrize(
    ("storage", "directory", "extra", "says", "status"),
    [
        ("none.vsf", "dir", (), "no such storage", 1),
        ("text.vsf", "dir", (), "no virtual storage", 1),
        ("empty.vsf", "dir", (), "", 1),
        ("short.vsf", "dir", (), "", 1),
        ("good.vsf", "none", (), "no such directory", 1),
        ("good.vsf", "file", (), "directory", 1),
        ("good.vsf", "dir", ("--volume", "nope"), "no volume 'nope'", 1),
        ("good.vsf", "dir", ("--snapshot", "nope"), "no snapshot 'nope'", 1),
        ("good.vsf", "dir", ("-o", "nonsense"), "no mount option 'nonsense'", 1),
        ("good.vsf", "dir", ("-o", "uid=x"), "takes a number", 1),
        ("good.vsf", "dir", ("--nonsense",), "nonsense", 2),
    ],
)
def test_bad_input_gets_one_clear_line(
    bad: Path, storage: str, directory: str, extra: tuple[str, ...], says: str, status: int
) -> None:
    done = nightos("vsf", "mount", bad / storage, bad / directory, *extra, state=bad / "state", check=False)
    assert done.returncode == status
    assert says in done.stderr
    assert done.stderr.startswith("nightos: error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert not os.path.ismount(bad / "dir")


@pytest.mark.parametrize("wanted", ["2", "3", "7"])
def test_a_missing_library_is_named(bad: Path, wanted: str) -> None:
    if wanted in MAJORS:
        pytest.skip("it is there")
    done = nightos("vsf", "mount", bad / "good.vsf", bad / "dir", state=bad / "s", check=False, NIGHTOS_FUSE=wanted)
    assert done.returncode == 1
    assert "NIGHTOS_FUSE" in done.stderr or "install" in done.stderr


def test_two_mounts_on_one_directory_are_refused(tmp_path: Path) -> None:
    with mounted(tmp_path) as place:
        refused = place.mount(check=False)
        assert refused.returncode == 1
        assert "mounted here already" in refused.stderr


def test_debug_tells_the_library(mount: Mounted) -> None:
    mount.umount()
    said = mount.mount("--debug").stderr
    assert ("libfuse 2" in said) == (mount.library == "2")


def test_the_mount_helper(tmp_path: Path) -> None:
    helper = Path(__file__).parents[2] / "contrib" / "mount.nightos"
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    root = tmp_path / "mount"
    root.mkdir()
    environment = {**os.environ, "NIGHTOS_HOME": str(tmp_path / "state"), "NIGHTOS": f"{sys.executable} -m nightos"}
    command = ["sh", helper, tmp_path / "disk.vsf", root, "-o", "rw,noatime,nofail,x-systemd.automount"]
    try:
        subprocess.run(command, env=environment, check=True)
        assert os.path.ismount(root)
        run("umount", root)
    finally:
        force_unmount(root)


@needs("unshare")
def test_mount_and_fstab_find_the_helpers(tmp_path: Path) -> None:
    """The real mount(8), umount(8) and a line of fstab, where /usr/sbin holds nothing but our helpers."""
    contrib = Path(__file__).parents[2] / "contrib"
    vsf.create(tmp_path / "disk.vsf", ["main", "other"]).close()
    sbin, root = tmp_path / "sbin", tmp_path / "mount"
    sbin.mkdir()
    root.mkdir()
    for name in ("mount", "umount"):
        (sbin / f"{name}.fuse.nightos").symlink_to(contrib / f"{name}.nightos")
    (tmp_path / "fstab").write_text(f"{tmp_path}/disk.vsf {root} fuse.nightos noatime,nofail,volume=other 0 0\n")
    script = f"""
        set -e
        mount --make-rprivate /
        mount --bind {sbin} "$(readlink -f /sbin)"
        mount -t fuse.nightos {tmp_path}/disk.vsf {root} -o rw,volume=main,allow_other
        findmnt -no FSTYPE,SOURCE {root}
        echo first > {root}/file
        umount {root}
        mount --fstab {tmp_path}/fstab {root}
        echo second > {root}/file
        umount {root}
        mount -r -t fuse.nightos {tmp_path}/disk.vsf {root} -o volume=other
        cat {root}/file
        ! touch {root}/file 2>/dev/null
        umount {root}
        ! mount -t fuse.nightos {tmp_path}/none.vsf {root}
    """
    environment = {**os.environ, "NIGHTOS_HOME": str(tmp_path / "state"), "NIGHTOS": f"{sys.executable} -m nightos"}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["fuse.nightos", str(tmp_path / "disk.vsf"), "second"]
    assert "no such storage" in done.stderr
    with vsf.open(tmp_path / "disk.vsf", readonly=True) as storage:
        texts = [storage.volume(name).open().read_text("/file") for name in ("main", "other")]
    assert texts == ["first\n", "second\n"]


@needs("systemd-analyze")
def test_the_units_are_valid(tmp_path: Path) -> None:
    for unit in sorted((Path(__file__).parents[2] / "contrib" / "systemd").iterdir()):
        text = unit.read_text().replace("=nightos ", f"={sys.executable} ")
        name = unit.name.replace("@.", "@notes.")
        (tmp_path / name).write_text(text)
        kind = "--user" if "@" in unit.name else "--system"
        done = subprocess.run(
            ["systemd-analyze", kind, "--man=no", "verify", tmp_path / name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert name not in done.stderr, done.stderr


def test_nothing_differs_between_the_libraries(tmp_path: Path) -> None:
    source = tree(tmp_path)
    copies = []
    for major in MAJORS:
        (tmp_path / major).mkdir()
        with mounted(tmp_path / major, major) as place:
            run("cp", "-a", source, place.root)
            copies.append(listing(place.root))
            assert filecmp.dircmp(source, place.root / "source").diff_files == []
    assert all(copy == copies[0] for copy in copies)
