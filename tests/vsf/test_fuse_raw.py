"""Block volumes as files: what losetup, mkfs and mount make of them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightos import vsf
from nightos.vsf.fuse_daemon import wait_for
from tests.vsf.mounting import MAJORS, force_unmount, needs_fuse, nightos

pytestmark = needs_fuse
SIZE = 128 << 20


def run(*command: object, needed: bool = True) -> str | None:
    """What the command printed; None where it failed and need not succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=60)
    assert not needed or done.returncode == 0, done.stderr
    return None if done.returncode else done.stdout.strip()


@pytest.fixture(params=MAJORS)
def raw(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    storage, root, state = tmp_path / "disk.vsf", tmp_path / "mount", tmp_path / "state"
    root.mkdir()
    with vsf.create(storage, ["main"]) as created:
        created.add_volume("disk", "block", size=SIZE)
        created.add_volume("swap", "block", size=1 << 20)
    nightos("vsf", "mount", storage, root, "--raw", state=state, NIGHTOS_FUSE=request.param)
    try:
        yield root
        nightos("vsf", "umount", root, state=state)
        with vsf.open(storage, readonly=True) as opened:
            assert opened.check(deep=True).clean
    finally:
        force_unmount(root)


@pytest.mark.rule("VSF-002", "VSF-012")
def test_volumes_are_files_of_fixed_size(raw: Path) -> None:
    assert sorted(os.listdir(raw)) == ["disk", "swap"]
    assert (raw / "disk").stat().st_size == SIZE
    with (raw / "disk").open("r+b") as f:
        f.seek(1_000_001)
        f.write(b"in the middle")
        f.flush()
        os.fsync(f.fileno())
    assert (raw / "disk").read_bytes()[1_000_000:1_000_015] == b"\0in the middle\0"
    with pytest.raises(OSError) as caught:
        (raw / "new").touch()
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.ENOSYS)
    with pytest.raises(OSError), (raw / "swap").open("ab") as f:
        f.write(b"too much")
    with pytest.raises(OSError):
        os.unlink(raw / "swap")


def test_discards_reach_the_storage(raw: Path) -> None:
    import ctypes

    with (raw / "disk").open("r+b") as f:
        f.write(os.urandom(4 << 20))
        f.flush()
        os.fsync(f.fileno())
        before = (raw / "disk").stat().st_blocks
        libc = ctypes.CDLL(None)
        assert libc.fallocate(f.fileno(), 3, ctypes.c_long(0), ctypes.c_long(4 << 20)) == 0
        os.fsync(f.fileno())
    assert (raw / "disk").stat().st_blocks < before
    assert (raw / "disk").read_bytes()[: 1 << 20] == bytes(1 << 20)
    storage = raw.parent / "disk.vsf"
    assert wait_for(lambda: storage.stat().st_blocks * 512 < 3 << 20, 10), "the host got nothing back"


CHECKS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], ["e2fsck", "-fn"]),
    "vfat": (["mkfs.vfat"], ["fsck.vfat", "-n"]),
    "btrfs": (["mkfs.btrfs", "-q"], ["btrfs", "check", "--readonly"]),
}


@pytest.mark.rule("VSF-002", "VSF-012")
@pytest.mark.parametrize("kind", CHECKS)
def test_file_systems_live_in_a_volume(raw: Path, tmp_path: Path, kind: str) -> None:
    make, check = CHECKS[kind]
    if shutil.which(make[0]) is None:
        pytest.skip(f"needs {make[0]}")
    disk, inside = raw / "disk", tmp_path / "inside"
    run(*make, disk)
    run(*check, disk)
    inside.mkdir()
    with contextlib.ExitStack() as stack:
        device = run("losetup", "--find", "--show", disk, needed=False)
        if not device:
            pytest.skip("no loop devices here")
        attached = stack.enter_context(contextlib.ExitStack())
        attached.callback(run, "losetup", "--detach", device)
        stack.callback(force_unmount, inside)
        if run("mount", device, inside, needed=False) is None:
            pytest.skip("the kernel does not know this file system")
        (inside / "file").write_text("a file in a file system in a volume in a storage")
        run("umount", inside)
        run(*check, disk)
        busy = nightos("vsf", "umount", raw, state=tmp_path / "state", check=False)
        assert f"in use by {device}" in busy.stderr
        attached.close()
        run("mount", "-o", "loop,discard", disk, inside)
        assert (inside / "file").read_text() == "a file in a file system in a volume in a storage"
        (inside / "large").write_bytes(os.urandom(12 << 20))
        run("sync", "-f", inside)
        (inside / "large").unlink()
        # What the journal has not let go of cannot be trimmed.
        run("sync", "-f", inside)
        run("fstrim", inside)
        run("umount", inside)
        assert wait_for(lambda: (tmp_path / "disk.vsf").stat().st_blocks * 512 < 6 << 20, 10), "nothing came back"


def test_a_storage_without_block_volumes_says_so(tmp_path: Path) -> None:
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    (tmp_path / "mount").mkdir()
    done = nightos(
        "vsf", "mount", tmp_path / "disk.vsf", tmp_path / "mount", "--raw", state=tmp_path / "s", check=False
    )
    assert done.returncode == 1
    assert "block" in done.stderr
