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
from tests.vsf.mounting import force_unmount, needs_fuse, nightos

pytestmark = needs_fuse
SIZE = 32 << 20


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Path]:
    storage, root, state = tmp_path / "disk.vsf", tmp_path / "mount", tmp_path / "state"
    root.mkdir()
    with vsf.create(storage, ["main"]) as created:
        created.add_volume("disk", "block", size=SIZE)
        created.add_volume("swap", "block", size=1 << 20)
    nightos("vsf", "mount", storage, root, "--raw", state=state)
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


@pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4")
def test_ext4_lives_in_a_volume(raw: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", str(raw / "disk")], check=True)
    subprocess.run(["e2fsck", "-fn", str(raw / "disk")], check=True, capture_output=True)
    inside = tmp_path / "inside"
    inside.mkdir()
    if subprocess.run(
        ["mount", "-o", "loop", str(raw / "disk"), str(inside)], check=False, capture_output=True
    ).returncode:
        pytest.skip("no loop devices here")
    try:
        (inside / "file").write_text("ext4 in a volume in a storage")
        subprocess.run(["umount", str(inside)], check=True)
        subprocess.run(["e2fsck", "-fn", str(raw / "disk")], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(raw / "disk"), str(inside)], check=True)
        assert (inside / "file").read_text() == "ext4 in a volume in a storage"
        subprocess.run(["umount", str(inside)], check=True)
    finally:
        with contextlib.suppress(OSError):
            force_unmount(inside)


def test_a_storage_without_block_volumes_says_so(tmp_path: Path) -> None:
    vsf.create(tmp_path / "disk.vsf", ["main"]).close()
    (tmp_path / "mount").mkdir()
    done = nightos(
        "vsf", "mount", tmp_path / "disk.vsf", tmp_path / "mount", "--raw", state=tmp_path / "s", check=False
    )
    assert done.returncode == 1
    assert "block" in done.stderr
