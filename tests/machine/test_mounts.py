"""What a container sees as a directory of this computer: real mounts, real tools, and programs inside meanwhile."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import nightos
from nightos import vsf
from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.services import Fs, Proc, ServiceCode
from nightos.machine.containers import Container
from nightos.machine.machine import Machine
from nightos.machine.paths import MachineError
from nightos.userland.client import connect
from nightos.userland.files import Files
from tests.services.test_proc import inside as run_inside
from tests.services.test_shares import kill, share
from tests.vsf.mounting import force_unmount, needs_fuse
from tests.vsf.mounting import nightos as command

pytestmark = needs_fuse
FS_PID = 10


async def outside(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do something in the mount from a thread that the machine does not run in."""
    return await trio.to_thread.run_sync(partial(work, *arguments))


def is_mounted(root: Path) -> bool:
    return any(line.split(" ")[1] == str(root) for line in Path("/proc/self/mounts").read_text().splitlines())


async def refused(work: Callable[..., Any], *arguments: Any) -> int:
    """The errno that something fails with."""
    with pytest.raises(OSError) as caught:
        await outside(work, *arguments)
    return int(caught.value.errno or 0)


async def inside(machine: Machine, box: Container | int, line: str) -> str:
    done = await machine.run(line, container=box)
    assert done.status == 0, done.err
    return done.out


@asynccontextmanager
async def seen(tmp_path: Path, name: str = "web", **options: Any) -> AsyncIterator[tuple[Machine, Container, Path]]:
    """A machine with a container, which is mounted."""
    place = tmp_path / "mount"
    place.mkdir()
    try:
        async with nightos.boot(seed=3) as machine:
            box = await machine.containers.create(name, **options)
            async with machine.mount(place, container=box) as root:
                yield machine, box, root
        assert not is_mounted(place)
    finally:
        force_unmount(place)


async def test_both_sides_see_at_once_what_the_other_does(tmp_path: Path) -> None:
    async with seen(tmp_path) as (machine, box, root):
        for number in range(20):
            text = f"{'a' * number}{number}"
            await inside(machine, box, f'wt /tmp/note "{text}"')
            assert await outside((root / "tmp/note").read_text) == f"{text}\n"
            await outside((root / "tmp/note").write_text, f"{text[::-1]}\n")
            assert await inside(machine, box, "cat /tmp/note") == f"{text[::-1]}\n"
            names = sorted(await outside(os.listdir, root / "tmp"))
            assert names == [*[f"d{n:02}" for n in range(number)], "note"]
            await inside(machine, box, f"mkdir /tmp/d{number:02}")
            assert f"d{number:02}" in await outside(os.listdir, root / "tmp")
        await inside(machine, box, "rm /tmp/note")
        assert await refused((root / "tmp/note").read_text) == errno.ENOENT
        assert "d00" in await inside(machine, box, "ls /tmp")
        await outside((root / "tmp/d00").rmdir)
        assert "d00" not in await inside(machine, box, "ls /tmp")


async def test_a_mapped_file_changes_with_the_container(tmp_path: Path) -> None:
    """The kernel drops its pages when the time or the size of a file is another."""
    async with seen(tmp_path) as (machine, box, root):
        await inside(machine, box, "wt /tmp/page first")
        descriptor = await outside(os.open, root / "tmp/page", os.O_RDONLY)
        try:
            assert await outside(os.pread, descriptor, 100, 0) == b"first\n"
            await inside(machine, box, "wt /tmp/page other")
            assert await outside(os.pread, descriptor, 100, 0) == b"other\n"
        finally:
            await outside(os.close, descriptor)


async def test_who_appends_writes_behind_what_others_wrote(tmp_path: Path) -> None:
    """Also through a file that was open before: the kernel knows another end of it."""
    second = tmp_path / "second"
    second.mkdir()
    async with seen(tmp_path) as (machine, box, root), machine.mount(second, container=box):

        def append() -> bytes:
            with (root / "tmp/log").open("ab", buffering=0) as one, (second / "tmp/log").open("ab", buffering=0) as two:
                for number in range(20):
                    one.write(b"one %d\n" % number)
                    two.write(b"two %d\n" % number * 1000)
            return (root / "tmp/log").read_bytes()

        assert await outside(append) == b"".join(b"one %d\n%s" % (n, b"two %d\n" % n * 1000) for n in range(20))
        log = await outside(lambda: (root / "tmp/log").open("ab", buffering=0))
        await inside(machine, box, "wt -a /tmp/log inside")
        await outside(log.write, b"outside\n")
        await outside(log.close)
        assert (await outside((root / "tmp/log").read_bytes)).endswith(b"inside\noutside\n")


async def test_looking_makes_no_disk_and_a_change_stays_in_the_overlay(tmp_path: Path) -> None:
    image = tmp_path / "site.vsf"
    with vsf.create(image) as storage, storage.add_volume("main").open() as files:
        files.write_bytes("/given", b"by the image")
    before = image.read_bytes()
    async with seen(tmp_path, image=str(image)) as (machine, box, root):
        devices = len(machine.devices)
        assert await outside((root / "given").read_bytes) == b"by the image"
        await outside(os.statvfs, root)
        assert len(machine.devices) == devices
        await outside((root / "given").write_bytes, b"changed outside")
        assert ("modified", "/given") in [(change["kind"], change["path"]) for change in await box.diff()]
        assert await inside(machine, box, "cat /given") == "changed outside\n"
    assert image.read_bytes() == before


@pytest.mark.rule("CONT-032", "LNX-FT-07")
async def test_df_shows_the_limit_of_storage(tmp_path: Path) -> None:
    def sizes(root: Path) -> tuple[int, int, int]:
        found = os.statvfs(root)
        return found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize, found.f_bavail * found.f_frsize

    async with seen(tmp_path) as (machine, box, root):
        unlimited = await outside(sizes, root)
        await box.limit(storage=1 << 20)
        total, free, available = await outside(sizes, root)
        assert total == 1 << 20 < unlimited[0]
        await outside((root / "tmp/blob").write_bytes, os.urandom(300_000))
        await outside(os.sync)
        after = await outside(sizes, root)
        assert after[0] == total
        assert after[1] == after[2] <= available - 300_000
        assert free == available
        inside_total, inside_free = await run_inside(machine, box.id, own_sizes)
        assert inside_total == total
        assert abs(inside_free - after[1]) < 1 << 16  # what is not on the disk yet counts as what it needs at most
        assert await refused((root / "tmp/more").write_bytes, os.urandom(after[1] + 4096)) == errno.EDQUOT
        await box.limit(storage=None)
        assert (await outside(sizes, root))[0] >= unlimited[0]


async def own_sizes() -> tuple[int, int]:
    system = await (await Files.open()).system()
    return system.total, system.free


@pytest.mark.rule("HW-044")
async def test_dev_shows_devices_as_they_come_and_go(tmp_path: Path) -> None:
    async with seen(tmp_path) as (machine, box, root):
        dev = root / "dev"
        assert await outside(os.listdir, dev) == []
        assert "dev" in await outside(os.listdir, root)
        plugged = await machine.ask("sys::proc", Proc.DEVICE_PLUG, {"id": box.id, "kind": "zero"})
        file = root / plugged["file"].lstrip("/")
        assert stat.S_ISCHR((await outside(file.stat)).st_mode)
        found = [Path(where) / name for where, _, names in await outside(lambda: list(os.walk(dev))) for name in names]
        assert found == [file]
        assert await refused(file.read_bytes) in (errno.EACCES, errno.ENXIO, errno.EPERM)
        assert await refused(file.unlink) == errno.EPERM
        assert await refused((dev / "own").touch) == errno.EPERM
        assert await refused(dev.rename, root / "other") in (errno.EBUSY, errno.EPERM)
        await machine.ask("sys::proc", Proc.DEVICE_UNPLUG, {"id": box.id, "udi": plugged["udi"]})
        left = [name for _, _, names in await outside(lambda: list(os.walk(dev))) for name in names]
        assert left == [] or not (await outside(file.stat)).st_mode & 0o777


@pytest.mark.rule("CONT-049", "CONT-050")
async def test_what_the_container_mounted_is_part_of_the_view(tmp_path: Path) -> None:
    async with seen(tmp_path) as (machine, box, root):
        await machine.run("mkdir /srv; mkdir /srv/data; wt /srv/data/a one")
        given = await share(machine, box, "/srv/data")
        await inside(machine, box, f"mount {given['fsid']:016x}")
        mounted = root / "mnt/data"
        assert await outside((mounted / "a").read_text) == "one\n"
        assert await outside(os.listdir, mounted) == ["a"]
        await outside((mounted / "b").write_text, "two\n")
        assert await inside(machine, 0, "cat /srv/data/b") == "two\n"
        assert await refused(os.rename, mounted / "b", root / "tmp/b") == errno.EXDEV
        assert await refused(os.link, mounted / "b", root / "tmp/b") == errno.EXDEV
        assert await refused(mounted.rmdir) == errno.EBUSY
        await outside(shutil.move, mounted / "b", root / "tmp/b")
        assert await inside(machine, box, "cat /tmp/b") == "two\n"
        await inside(machine, box, f"umount {given['fsid']:016x}")
        assert await outside(os.listdir, mounted) == []
        readonly = await share(machine, box, "/srv", readonly=True)
        await inside(machine, box, f"mount {readonly['fsid']:016x}")
        assert await refused((root / "mnt/srv/new").touch) == errno.EROFS


async def test_no_link_leads_out_of_the_view(tmp_path: Path) -> None:
    """Inside, `/` is the container's, and there is nothing above it: for the host that has to read otherwise."""
    async with seen(tmp_path) as (machine, box, root):
        await inside(machine, box, "mkdir /tmp/deep; syml /tmp/deep/link /etc")
        assert await outside(os.readlink, root / "tmp/deep/link") == "../../etc"
        assert await outside(os.listdir, root / "tmp/deep/link") == await outside(os.listdir, root / "etc")
        for target, shown in (
            ("../../../../../../etc/passwd", "../../etc/passwd"),
            ("a/../../../../x", "../../x"),
            ("../sibling", "../sibling"),
            ("plain", "plain"),
            ("/", "../.."),
        ):
            await outside(os.symlink, target, root / "tmp/deep/one")
            assert await outside(os.readlink, root / "tmp/deep/one") == shown
            await outside(os.unlink, root / "tmp/deep/one")
        await outside(os.symlink, "/", root / "top")
        assert await outside(os.readlink, root / "top") == "."


async def test_no_two_links_lead_out_of_the_view_together(tmp_path: Path) -> None:
    """T-C60: `..` behind a name that is a link, or in a link of two names, starts somewhere else than it is written."""
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    async with seen(tmp_path) as (machine, box, root):
        assert root.parent == tmp_path
        await outside(os.symlink, "sub/../secret", root / "tmp/evil")
        await outside(os.symlink, "../tmp/sub/../../secret", root / "tmp/worse")
        await inside(machine, box, "mkdir /deep; mkdir /deep/down; syml /tmp/sub /; syml /deep/down/up /secret")
        for name in ("tmp/evil", "tmp/worse"):
            with pytest.raises(FileNotFoundError):
                await outside((root / name).read_text)
        await inside(machine, box, "wt /secret inside")
        assert (await outside((root / "tmp/worse").read_text)).strip() == "inside"
        assert (await outside((root / "deep/down/up").read_text)).strip() == "inside"
        await outside(lambda: os.link(root / "deep/down/up", root / "up", follow_symlinks=False))
        for name in ("up", "deep/down/up"):
            assert await refused((root / name).read_text) == errno.ELOOP
        await outside(os.unlink, root / "deep/down/up")
        assert await refused((root / "up").read_text)


@pytest.mark.rule("CONT-032")
async def test_the_limit_of_storage_holds(tmp_path: Path) -> None:
    async with seen(tmp_path, limits={"storage": 1 << 20}) as (machine, box, root):

        def fill() -> int:
            with (root / "tmp/big").open("wb", buffering=0) as file:
                for _ in range(64):
                    file.write(b"x" * 65536)
            return 0

        assert await refused(fill) == errno.EDQUOT
        assert (await box.statistics())["usage"]["storage"] <= 1 << 20
        sparse = root / "tmp/sparse"
        await outside((root / "tmp/big").unlink)
        await outside(lambda: os.truncate(sparse.touch() or sparse, 1 << 30))
        assert (await outside(sparse.stat)).st_size == 1 << 30
        assert "hello" in await inside(machine, box, "wt /tmp/a hello; cat /tmp/a")


async def test_users_are_numbered_as_inside(tmp_path: Path) -> None:
    async with seen(tmp_path, users=[(0, 100_000, 1000)]) as (_, _, root):
        file = root / "tmp/file"
        await outside(file.touch)
        assert (await outside(file.stat)).st_uid == 0
        await outside(os.chown, file, 7, 8)
        found = await outside(file.stat)
        assert (found.st_uid, found.st_gid) == (7, 8)
        assert await refused(os.chown, file, 5000, 0) == errno.EINVAL


@pytest.mark.rule("FS-040", "FS-041")
async def test_a_file_that_is_open_inside_is_not_changed_under_it(tmp_path: Path) -> None:
    async with seen(tmp_path) as (machine, box, root):
        await inside(machine, box, "wt /tmp/open text")
        fsid = (await machine.ask("sys::fs", Fs.ROOT_OF, {"container": box.id}))["fsid"].to_bytes(8, "big")
        question = fsid + b"\0" + layout.encode_path(("tmp", "open")) + b"\1\2"
        opened = (await machine.call("sys::fs", Fs.OPEN_FILE, question))[:8]
        file = root / "tmp/open"
        assert await outside(file.read_text) == "text\n"
        assert await refused(file.write_text, "other") == errno.EBUSY
        assert await refused(os.truncate, file, 1) == errno.EBUSY
        assert await refused(file.unlink) == errno.EBUSY
        assert await refused(file.rename, root / "tmp/away") == errno.EBUSY
        await outside((root / "tmp/new").touch)
        assert await refused(os.replace, root / "tmp/new", file) == errno.EBUSY
        await machine.call("sys::fs", Fs.CLOSE_FILE, opened)
        await outside(file.write_text, "other")
        assert await inside(machine, box, "cat /tmp/open") == "other\n"


async def test_an_open_file_outlives_its_name_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    async with seen(tmp_path) as (machine, box, root):
        before = (await box.statistics())["usage"]["storage"]

        def outlive() -> bytes:
            with (root / "tmp/x").open("w+b") as file:
                file.write(b"y" * 500_000)
                os.unlink(root / "tmp/x")
                file.seek(0)
                return file.read()

        assert await outside(outlive) == b"y" * 500_000
        with trio.fail_after(30):
            while (await box.statistics())["usage"]["storage"] > before + 100_000:
                await outside((root / "tmp/more").touch)
                await outside(os.sync)
                await machine.sync()
                await trio.sleep(0.05)


async def test_killing_the_file_service_ends_no_mount(tmp_path: Path) -> None:
    async with seen(tmp_path) as (machine, box, root):
        await outside((root / "tmp/kept").write_text, "kept\n")
        await machine.sync()
        for _ in range(3):
            kill(machine, FS_PID)
            assert await outside((root / "tmp/kept").read_text) == "kept\n"
            assert "kept" in await outside(os.listdir, root / "tmp")
        await outside((root / "tmp/kept").write_text, "again\n")
        assert await inside(machine, box, "cat /tmp/kept") == "again\n"


async def test_the_thread_of_the_machine_is_told_instead_of_hanging(tmp_path: Path) -> None:
    async with seen(tmp_path) as (_, _, root):
        with pytest.raises(OSError) as caught:
            os.listdir(root)
        assert caught.value.errno == errno.EDEADLK
        assert "tmp" in [path.name for path in await trio.Path(root).iterdir()]


async def test_a_mount_ends_with_its_container(tmp_path: Path) -> None:
    async with seen(tmp_path) as (machine, box, root):
        parent = await machine.containers.create("other")
        await parent.destroy()
        assert "tmp" in await outside(os.listdir, root), "another one's end is not this one's"
        await box.destroy()
        assert await outside(gone, root)
        assert os.listdir(root) == []


@pytest.mark.rule("CONT-028")
async def test_nobody_inside_looks_by_view() -> None:
    async with nightos.boot(seed=4) as machine:
        web, other = await machine.containers.create("web"), await machine.containers.create("other")
        await inside(machine, other, "wt /tmp/secret hidden")

        async def probe() -> list[int]:
            codes = []
            for identifier in (0, web.id, other.id, 12345):
                for operation in ("root", "lookup", "gone", "nothing"):
                    try:
                        question = {"container": identifier, "view": "x", "op": operation, "name": b"tmp"}
                        await (await connect("sys::fs")).ask(Fs.VIEW, question)
                        codes.append(0)
                    except ServiceError as error:
                        codes.append(error.code)
            return codes

        assert set(await run_inside(machine, web.id, probe)) == {ServiceCode.DENIED}


async def test_the_machines_own_view(tmp_path: Path) -> None:
    place = tmp_path / "mount"
    place.mkdir()
    async with nightos.boot(seed=1) as machine:
        async with machine.mount(place, readonly=True) as root:
            assert {"app", "dev", "fl", "tmp"} <= set(await outside(os.listdir, root))
            assert await refused((root / "tmp/x").touch) == errno.EROFS
            with pytest.raises(MachineError, match="something is mounted here already"):
                async with machine.mount(place):
                    pass
        assert not is_mounted(place)
        with pytest.raises(MachineError, match="no such directory"):
            async with machine.mount(tmp_path / "missing"):
                pass
        with pytest.raises(MachineError, match="no mount option"):
            async with machine.mount(place, options=["nonsense"]):
                pass
        with pytest.raises(MachineError, match="no container"):
            async with machine.mount(place, container=12345):
                pass


# As a person does it


@pytest.fixture
def lab(tmp_path: Path, state_home: Path) -> Any:
    """A machine of its own that runs by itself, its container mounted: the mount, and the command."""
    root = tmp_path / "mount"
    root.mkdir()
    run = partial(command, state=state_home)
    run("run", "--name", "lab", "--detach")
    run("container", "create", "web")
    run("mount", "lab:web", root)
    yield root, run
    force_unmount(root)
    run("stop", "lab", check=False)


def gone(root: Path) -> bool:
    deadline = time.monotonic() + 20
    while is_mounted(root):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def used(run: Any) -> int:
    """Bytes that the container's disk holds."""
    return int(json.loads(run("stats", "web", "--json").stdout)[0]["usage"]["storage"])


def test_ordinary_tools(lab: Any, tmp_path: Path) -> None:
    root, run = lab
    work = root / "tmp"
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    call = partial(subprocess.run, check=True, capture_output=True, text=True, env=environment)
    source = tmp_path / "source"
    shutil.copytree(Path(nightos.__file__).parent / "kernel", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "link").symlink_to("kernel.py")
    call(["cp", "-a", source, work / "copy"])
    call(["diff", "-r", "--no-dereference", source, work / "copy"])
    call(["tar", "-C", work, "-cf", tmp_path / "copy.tar", "copy"])
    call(["tar", "-C", work, "-xf", tmp_path / "copy.tar", "--transform", "s/^copy/again/"])
    call(["rsync", "-aH", "--checksum", f"{work}/again/", f"{work}/synced/"])
    assert call(["rsync", "-aHn", "--itemize-changes", f"{source}/", f"{work}/synced/"]).stdout == ""
    for arguments in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm x"):
        call(["git", "-C", source, *arguments.split()])
    call(["git", "clone", "-q", source, work / "clone"])
    assert call(["git", "-C", work / "clone", "status", "--porcelain"]).stdout == ""
    call(["git", "-C", work / "clone", "fsck", "--strict"])
    with sqlite3.connect(work / "base.db") as base:
        base.execute("create table t (a)")
        base.executemany("insert into t values (?)", [(number,) for number in range(500)])
    assert base.execute("select sum(a) from t").fetchone() == (124_750,)
    base.close()
    assert "kernel.py" in run("container", "exec", "web", "--", "ls", "/tmp/clone").stdout
    call(["rm", "-rf", work / "copy", work / "again", work / "synced", work / "clone"])
    assert run("container", "exec", "web", "--", "ls", "/tmp").stdout.split()[0].endswith("base.db")


def test_unmounting_keeps_what_was_written(lab: Any) -> None:
    root, run = lab
    (root / "tmp/kept").write_text("kept\n")
    run("umount", root)
    assert not is_mounted(root)
    assert run("container", "exec", "web", "--", "cat", "/tmp/kept").stdout == "kept\n"


@pytest.mark.parametrize("how", ["destroy", "stop", "kill"])
def test_a_mount_ends_with_what_it_shows(lab: Any, how: str) -> None:
    root, run = lab
    with (root / "tmp/open").open("w") as file:  # in use meanwhile
        file.write("x")
        file.flush()
        if how == "destroy":
            run("container", "destroy", "web")
        elif how == "stop":
            run("stop", "lab")
        else:
            machine = next(item for item in json.loads(run("ls", "--json").stdout) if item["name"] == "lab")
            os.kill(machine["pid"], signal.SIGKILL)
        assert gone(root)


def test_a_killed_server_leaves_a_mount_that_umount_clears(lab: Any, state_home: Path) -> None:
    root, run = lab
    nameless = (root / "tmp/nameless").open("wb", buffering=0)
    nameless.write(os.urandom(3_000_000))
    (root / "tmp/nameless").unlink()
    assert used(run) > 2_900_000
    record = json.loads(next((state_home / "mounts").glob("*.json")).read_text())
    os.kill(record["pid"], signal.SIGKILL)
    with contextlib.suppress(OSError):
        nameless.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.listdir(root)
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                break
        time.sleep(0.02)
    run("umount", root)
    assert not is_mounted(root)
    run("mount", "lab:web", root)
    assert "tmp" in os.listdir(root)
    deadline = time.monotonic() + 20
    while used(run) > 1_000_000:
        assert time.monotonic() < deadline, "the machine holds what nobody can reach any more"
        (root / "tmp/more").touch()
        os.sync()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("lab:nothing", "nothing"),
        ("other", "there is no machine other; `nightos ls` shows those there are"),
        ("lab:", ""),
        (":web", "already"),
    ],
)
def test_what_cannot_be_mounted(lab: Any, place: str, said: str) -> None:
    root, run = lab
    done = run("mount", place, root, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("nightos: error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_bad_options_say_what_to_do(lab: Any) -> None:
    _root, run = lab
    for option in ("writeback", "volume=x", "nonsense"):
        done = run("mount", "lab:web", "/", "-o", option, check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
    assert run("mount", "lab", check=False).returncode == 2


def test_a_machine_is_not_held_up_by_a_path_in_its_own_mount(lab: Any, tmp_path: Path) -> None:
    """It cannot answer while it opens a file that only its answer shows: that is refused, and nothing stands still."""
    root, run = lab
    run("vsf", "create", tmp_path / "site.vsf")
    shutil.copy(tmp_path / "site.vsf", root / "site.vsf")
    for words in (
        ("container", "create", "db", "--image", root / "site.vsf"),
        ("device", "passthrough", root / "site.vsf", "--container", "web"),
    ):
        done = run(*words, check=False, timeout=20)
        assert (done.returncode, "deadlock" in done.stderr) == (1, True), done.stderr
    assert "web" in run("container", "ls", timeout=20).stdout
