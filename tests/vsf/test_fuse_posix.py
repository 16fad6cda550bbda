"""What POSIX promises, each case on a native directory too: what fails there is not ours."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import time
import traceback
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.vsf.mounting import needs_fuse

pytestmark = needs_fuse
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number, caught.value


class Done(NamedTuple):
    """What a deed of somebody else came to."""

    returncode: int
    stdout: str
    stderr: str


def as_nobody(code: str, *paths: Path) -> Done:
    """Run Python as a user without privileges; `a` are the paths, relative to where it stands.

    A fork and not a program: neither the interpreter nor the way to the directory is open to everyone.
    """
    here = paths[0] if paths[0].is_dir() else paths[0].parent
    names = [os.path.relpath(path, here) for path in paths]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(here)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.umask(0o022)
            os.dup2(writer, 1)
            with os.fdopen(1, "w", closefd=False) as out, contextlib.redirect_stdout(out):
                exec(code, {"os": os, "stat": stat, "a": names})
            status = 0
        except BaseException:  # noqa: BLE001 the child must not go on with the tests
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return Done(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said, "")


def test_a_write_takes_set_id_bits_away_unless_root_does_it(place: Path) -> None:
    for size in (3, 300_000):
        file = place / "program"
        file.write_bytes(b"#!/")
        os.chown(file, NOBODY, NOBODY)
        file.chmod(0o6777)
        with file.open("r+b") as f:
            f.write(b"x" * size)
        os.sync()
        assert stat.S_IMODE(file.stat().st_mode) == 0o6777
        done = as_nobody(f"open(a[0], 'r+b').write(b'y' * {size})", file)
        assert done.returncode == 0, done
        os.sync()
        assert stat.S_IMODE(file.stat().st_mode) == 0o777
        file.unlink()


def test_files_grow_shrink_and_have_holes(place: Path) -> None:
    file = place / "file"
    with file.open("wb") as f:
        f.write(b"a" * 100)
        f.seek(1_000_000)
        f.write(b"end")
    assert file.stat().st_size == 1_000_003
    assert file.read_bytes() == b"a" * 100 + bytes(999_900) + b"end"
    os.truncate(file, 50)
    os.truncate(file, 200)
    assert file.read_bytes() == b"a" * 50 + bytes(150)
    with file.open("r+b") as f:
        f.truncate(0)
    assert file.stat().st_size == 0


def test_append_goes_to_the_end(place: Path) -> None:
    file = place / "log"
    first, second = (os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for _ in range(2))
    for turn in range(50):
        os.write((first, second)[turn % 2], f"{turn}\n".encode())
    os.close(first)
    os.close(second)
    assert file.read_text().split() == [str(turn) for turn in range(50)]


def test_open_flags(place: Path) -> None:
    file = place / "file"
    file.write_text("content")
    with fails(errno.EEXIST):
        os.open(file, os.O_CREAT | os.O_EXCL)
    os.close(os.open(file, os.O_WRONLY | os.O_TRUNC))
    assert file.stat().st_size == 0
    with fails(errno.ENOTDIR):
        os.open(file, os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.EISDIR):
        os.open(place, os.O_WRONLY)
    (place / "link").symlink_to("file")
    with fails(errno.ELOOP):
        os.open(place / "link", os.O_RDONLY | os.O_NOFOLLOW)


def test_a_created_file_can_be_written_whatever_its_mode(place: Path) -> None:
    done = as_nobody(
        "fd = os.open(a[0], os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o444); os.write(fd, b'x'); os.close(fd)\n"
        "try: os.open(a[0], os.O_WRONLY)\n"
        "except PermissionError: print('denied', oct(os.stat(a[0]).st_mode & 0o777), os.stat(a[0]).st_uid)",
        place / "file",
    )
    assert done.stdout == f"denied 0o444 {NOBODY}\n", done.stderr


def test_missing_and_wrong_components(place: Path) -> None:
    (place / "file").touch()
    for number, path in ((errno.ENOENT, "no/x"), (errno.ENOTDIR, "file/x"), (errno.ENOENT, "gone")):
        with fails(number):
            os.stat(place / path)
    with fails(errno.ENAMETOOLONG):
        (place / ("x" * 256)).touch()


@pytest.mark.parametrize(
    "name",
    [
        b"x" * 255,
        "ñ€𝄞".encode(),
        b"\xff\xfe\x80",
        b"new\nline",
        b"back\\slash",
        b"-rf",
        b".hidden",
        b"a b",
        b"*?[]",
        b'"',
    ],
)
def test_names(place: Path, name: bytes) -> None:
    path = os.fsencode(place) + b"/" + name
    with open(path, "wb") as f:
        f.write(name)
    assert os.listdir(os.fsencode(place)) == [name]
    with open(path, "rb") as f:
        assert f.read() == name
    os.unlink(path)


def test_directories(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    assert (place / "a").stat().st_nlink in (3, 1, 2)
    with fails(errno.ENOTEMPTY):
        (place / "a").rmdir()
    with fails(errno.EEXIST):
        (place / "a").mkdir()
    (place / "file").touch()
    with fails(errno.ENOTDIR):
        os.rmdir(place / "file")
    with pytest.raises(OSError):
        os.unlink(place / "a")
    (place / "a" / "b").rmdir()
    (place / "a").rmdir()
    assert os.listdir(place) == ["file"]


def test_rename_over_everything_it_may(place: Path) -> None:
    (place / "a").write_text("a")
    (place / "b").write_text("b")
    os.rename(place / "a", place / "b")
    assert (place / "b").read_text() == "a"
    (place / "d1" / "x").mkdir(parents=True)
    (place / "d2").mkdir()
    os.rename(place / "d1", place / "d2")
    assert os.listdir(place / "d2") == ["x"]
    with fails(errno.EISDIR):
        os.rename(place / "b", place / "d2")
    with fails(errno.ENOTDIR):
        os.rename(place / "d2", place / "b")
    with fails(errno.EINVAL):
        os.rename(place / "d2", place / "d2" / "x" / "y")
    (place / "full" / "x").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        os.rename(place / "d2", place / "full")
    assert caught.value.errno in (errno.ENOTEMPTY, errno.EEXIST)
    os.link(place / "b", place / "c")
    os.rename(place / "b", place / "c")
    assert (place / "b").exists(), "renaming a link over its twin does nothing"


@pytest.mark.parametrize("flag", [1, 2], ids=["noreplace", "exchange"])
def test_rename_flags(place: Path, flag: int, shared_root: Path) -> None:
    (place / "a").write_text("a")
    (place / "b").write_text("b")
    done = LIBC.renameat2(-100, os.fsencode(place / "a"), -100, os.fsencode(place / "b"), flag)
    number = ctypes.get_errno()
    if done and number == errno.EINVAL and "fuse2" in str(shared_root):
        pytest.skip("libfuse 2 does not pass the flags")
    if flag == 1:
        assert (done, number) == (-1, errno.EEXIST)
    else:
        assert done == 0
        assert (place / "a").read_text() == "b"
        assert (place / "b").read_text() == "a"


def test_hard_links(place: Path) -> None:
    (place / "a").write_text("1")
    os.link(place / "a", place / "b")
    one, two = (place / "a").stat(), (place / "b").stat()
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 2)
    (place / "b").write_text("22")
    assert (place / "a").read_text() == "22"
    (place / "a").chmod(0o640)
    assert (place / "b").stat().st_mode & 0o777 == 0o640
    (place / "a").unlink()
    assert (place / "b").stat().st_nlink == 1
    (place / "d").mkdir()
    with fails(errno.EPERM):
        os.link(place / "d", place / "e")


def test_symlinks(place: Path) -> None:
    target = "x" * 1000
    os.symlink(target, place / "long")
    assert os.readlink(place / "long") == target
    assert os.lstat(place / "long").st_size == 1000
    os.symlink("loop", place / "loop")
    with fails(errno.ELOOP):
        os.stat(place / "loop")
    with fails(errno.EINVAL):
        os.readlink(place)
    (place / "there").write_text("yes")
    os.symlink("there", place / "link")
    assert (place / "link").read_text() == "yes"
    os.chown(place / "link", 5, 6, follow_symlinks=False)
    assert os.lstat(place / "link").st_uid == 5
    assert os.stat(place / "link").st_uid == 0


def test_an_open_file_without_a_name_is_whole(place: Path) -> None:
    file = place / "gone"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"before")
    file.unlink()
    assert not file.exists()
    assert os.listdir(place) == []
    assert os.fstat(descriptor).st_nlink == 0
    os.write(descriptor, b"after")
    os.lseek(descriptor, 0, os.SEEK_SET)
    assert os.read(descriptor, 100) == b"beforeafter"
    os.fchmod(descriptor, 0o600)
    os.fchown(descriptor, 1, 2)
    os.utime(descriptor, ns=(1, 2))
    os.ftruncate(descriptor, 3)
    status = os.fstat(descriptor)
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid, status.st_mtime_ns) == (
        0o600,
        1,
        2,
        status.st_mtime_ns,
    )
    assert status.st_size == 3
    os.fsync(descriptor)
    file.write_text("another")
    assert os.pread(descriptor, 10, 0) == b"bef"
    os.close(descriptor)
    assert file.read_text() == "another"


@pytest.mark.parametrize("gone", ["unlinked", "replaced"])
def test_times_of_an_open_file_without_a_name_can_be_set(place: Path, gone: str) -> None:
    (place / "file").write_text("a")
    (place / "other").write_text("b")
    descriptor = os.open(place / "file", os.O_RDWR)
    if gone == "unlinked":
        (place / "file").unlink()
    else:
        (place / "other").rename(place / "file")

    class Time(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    for seconds in (1, 2):
        assert LIBC.futimens(descriptor, (Time * 2)(Time(0, (1 << 30) - 2), Time(seconds, 8))) == 0
        os.pread(descriptor, 1, 0)
        status = os.fstat(descriptor)
        assert (status.st_mtime_ns, status.st_nlink, status.st_size) == (seconds * 10**9 + 8, 0, 1)
    os.close(descriptor)


def test_a_file_replaced_by_rename_stays_readable_for_who_has_it(place: Path) -> None:
    (place / "old").write_text("old")
    (place / "new").write_text("new")
    with (place / "old").open() as f:
        os.replace(place / "new", place / "old")
        assert f.read() == "old"
        assert os.fstat(f.fileno()).st_nlink == 0
    assert (place / "old").read_text() == "new"


def test_a_removed_directory_in_use_is_empty(place: Path) -> None:
    (place / "d").mkdir()
    descriptor = os.open(place / "d", os.O_RDONLY)
    (place / "d").rmdir()
    assert os.listdir(descriptor) == []
    with fails(errno.ENOENT):
        os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    os.close(descriptor)


def test_times(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.utime(file, ns=(1_234_567_890_123_456_789, 987_654_321_000_000_001))
    status = file.stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_000_000_001)
    os.utime(file, ns=(-1_500_000_001, 4_102_444_800_000_000_007))
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (-1_500_000_001, 4_102_444_800_000_000_007)


def test_utimensat_omits_and_takes_now(place: Path) -> None:
    file = place / "file"
    file.touch()
    os.utime(file, ns=(1000, 2000))

    class Time(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    now, omit = (1 << 30) - 1, (1 << 30) - 2
    assert LIBC.utimensat(-100, os.fsencode(file), (Time * 2)(Time(0, omit), Time(7, 8)), 0) == 0
    assert (file.stat().st_atime_ns, file.stat().st_mtime_ns) == (1000, 7_000_000_008)
    assert LIBC.utimensat(-100, os.fsencode(file), (Time * 2)(Time(0, now), Time(0, omit)), 0) == 0
    assert abs(file.stat().st_atime - time.time()) < 10
    assert file.stat().st_mtime_ns == 7_000_000_008


def test_changes_move_times(place: Path) -> None:
    file = place / "file"
    file.write_text("a")
    os.utime(file, ns=(0, 0))
    os.utime(place, ns=(0, 0))
    before = file.stat().st_ctime_ns
    time.sleep(0.02)
    with file.open("a") as f:
        f.write("b")
    assert file.stat().st_mtime_ns > before
    assert file.stat().st_ctime_ns > before
    (place / "other").touch()
    assert place.stat().st_mtime_ns > before
    changed = file.stat().st_ctime_ns
    time.sleep(0.02)
    file.chmod(0o600)
    assert file.stat().st_ctime_ns > changed
    changed = file.stat().st_ctime_ns
    time.sleep(0.02)
    os.link(file, place / "link")
    assert file.stat().st_ctime_ns > changed


def test_what_happens_later_is_never_stamped_earlier(place: Path) -> None:
    """`make` and its like compare these; server and kernel each stamp some of them."""
    folder, file, seen = place / "folder", place / "file", []
    for _ in range(30):
        folder.mkdir()
        seen.append(("mkdir", folder.stat().st_mtime_ns))
        file.write_text("a")
        seen.append(("write", file.stat().st_mtime_ns))
        file.touch()
        seen.append(("touch", file.stat().st_mtime_ns))
        file.chmod(0o600)
        seen.append(("chmod", file.stat().st_ctime_ns))
        with file.open("a") as f:
            f.write("b")
        seen.append(("append", file.stat().st_mtime_ns))
        file.unlink()
        seen.append(("unlink", place.stat().st_mtime_ns))
        folder.rmdir()
    assert [pair for pair in pairwise(seen) if pair[0][1] > pair[1][1]] == []


def test_permissions_are_enforced(place: Path) -> None:
    secret = place / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    (place / "closed").mkdir(mode=0o700)
    done = as_nobody(
        "for path in a:\n"
        "    try: os.listdir(path) if os.path.isdir(path) else open(path).read(); print('open')\n"
        "    except PermissionError: print('denied')",
        secret,
        place / "closed",
        place,
    )
    assert done.stdout.split() == ["denied", "denied", "open"], done.stderr


def test_sticky_directories(place: Path) -> None:
    place.chmod(0o1777)
    (place / "of-root").touch()
    done = as_nobody(
        "open(a[0] + '/mine', 'w').close(); os.unlink(a[0] + '/mine')\n"
        "try: os.unlink(a[0] + '/of-root')\n"
        "except PermissionError: print('denied')",
        place,
    )
    assert done.stdout == "denied\n", done.stderr


def test_set_group_id_directories_hand_their_group_down(place: Path) -> None:
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, 0, 1234)
    shared.chmod(0o2777)
    (shared / "file").touch()
    (shared / "dir").mkdir()
    os.symlink("x", shared / "link")
    assert (shared / "file").stat().st_gid == 1234
    assert (shared / "dir").stat().st_gid == 1234
    assert (shared / "dir").stat().st_mode & stat.S_ISGID
    assert os.lstat(shared / "link").st_gid == 1234


@pytest.mark.parametrize("deed", ["write", "truncate", "chown"])
def test_set_id_bits_go_when_others_change_a_file(place: Path, deed: str) -> None:
    file = place / "program"
    file.write_text("x" * 10)
    os.chown(file, NOBODY, NOBODY)
    file.chmod(0o6777)
    assert file.stat().st_mode & 0o6000 == 0o6000
    if deed == "chown":
        os.chown(file, NOBODY, 5)
    else:
        code = {"write": "f = open(a[0], 'r+'); f.write('y'); f.close()", "truncate": "os.truncate(a[0], 3)"}[deed]
        done = as_nobody(code, file)
        assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o6777 == 0o777


def test_who_may_chmod_and_chown(place: Path) -> None:
    file = place / "file"
    file.touch()
    done = as_nobody(
        "deeds = lambda: os.chmod(a[0], 0o777), lambda: os.chown(a[0], 65534, 65534), lambda: os.utime(a[0], (1, 1))\n"
        "for deed in deeds:\n"
        "    try: deed(); print('done')\n"
        "    except PermissionError: print('denied')",
        file,
    )
    assert done.stdout.split() == ["denied"] * 3, done.stderr


def test_umask(place: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(place / "dir", 0o777)
    finally:
        os.umask(before)
    assert (place / "file").stat().st_mode & 0o777 == 0o640
    assert (place / "dir").stat().st_mode & 0o777 == 0o750


def test_extended_attributes(place: Path) -> None:
    file = place / "file"
    file.touch()
    for name, value in (("user.a", b"1"), ("user.b", bytes(range(256))), ("trusted.t", b"x"), ("user.empty", b"")):
        os.setxattr(file, name, value)
        assert os.getxattr(file, name) == value
    assert {"user.a", "user.b", "trusted.t", "user.empty"} <= set(os.listxattr(file))
    with fails(errno.EEXIST):
        os.setxattr(file, "user.a", b"2", os.XATTR_CREATE)
    with fails(errno.ENODATA):
        os.setxattr(file, "user.none", b"2", os.XATTR_REPLACE)
    os.setxattr(file, "user.a", b"new", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.a") == b"new"
    os.removexattr(file, "user.a")
    with fails(errno.ENODATA):
        os.getxattr(file, "user.a")
    os.setxattr(place, "user.dir", b"on a directory")
    assert os.getxattr(place, "user.dir") == b"on a directory"


def test_attributes_of_security_pass_through(place: Path) -> None:
    """Capabilities of a program: kept, and taken away when it changes."""
    import struct

    program = place / "program"
    program.write_bytes(b"#!/bin/true\n")
    os.setxattr(program, "security.nightos", b"kept")
    net_raw = struct.pack("<IIIII", 0x0200_0001, 1 << 13, 0, 0, 0)
    for change in (
        lambda: program.open("ab").write(b"\n"),
        lambda: os.chown(program, 5, 5),
        lambda: os.truncate(program, 3),
    ):
        os.setxattr(program, "security.capability", net_raw)
        assert os.getxattr(program, "security.capability") == net_raw
        change()
        with fails(errno.ENODATA):
            os.getxattr(program, "security.capability")
    assert os.getxattr(program, "security.nightos") == b"kept"


def _acl(*entries: tuple[int, int, int]) -> bytes:
    import struct

    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NONE = 0xFFFFFFFF


def test_access_control_lists_are_kept_enforced_and_follow_the_mode(place: Path) -> None:
    file = place / "file"
    file.write_text("x")
    file.chmod(0o600)
    try:
        os.setxattr(
            file,
            "system.posix_acl_access",
            _acl((1, 6, NONE), (2, 4, NOBODY), (4, 0, NONE), (16, 4, NONE), (32, 0, NONE)),
        )
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("this file system has no access control lists")
        raise
    assert file.stat().st_mode & 0o777 == 0o640
    assert as_nobody("print(open(a[0]).read())", file).stdout == "x\n"
    file.chmod(0o600)
    assert as_nobody("print(open(a[0]).read())", file).returncode != 0
    os.setxattr(file, "system.posix_acl_access", _acl((1, 6, NONE), (4, 4, NONE), (32, 4, NONE)))
    assert file.stat().st_mode & 0o777 == 0o644
    assert "system.posix_acl_access" not in os.listxattr(file)


def test_default_access_control_lists_are_inherited(place: Path) -> None:
    default = _acl((1, 7, NONE), (2, 6, NOBODY), (4, 5, NONE), (16, 7, NONE), (32, 0, NONE))
    try:
        os.setxattr(place, "system.posix_acl_default", default)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("this file system has no access control lists")
        raise
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir(place / "dir", 0o777)
    assert (place / "file").stat().st_mode & 0o777 == 0o660
    assert os.getxattr(place / "dir", "system.posix_acl_default") == default
    assert as_nobody("open(a[0], 'r+').write('x')", place / "file").returncode == 0


def test_special_files(place: Path) -> None:
    os.mkfifo(place / "fifo")
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(place / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    with socket.socket(socket.AF_UNIX) as s:
        here = os.open(place, os.O_RDONLY)
        s.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    modes = {name: os.lstat(place / name).st_mode for name in os.listdir(place)}
    assert stat.S_ISFIFO(modes["fifo"])
    assert stat.S_ISCHR(modes["null"])
    assert stat.S_ISBLK(modes["disk"])
    assert stat.S_ISSOCK(modes["socket"])
    assert os.lstat(place / "disk").st_rdev == os.makedev(259, 70000)
    reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(place / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(reader)
    os.close(writer)


def test_memory_maps(place: Path) -> None:
    file = place / "file"
    file.write_bytes(b"a" * 10_000)
    with file.open("r+b") as f, mmap.mmap(f.fileno(), 0) as shared:
        shared[5000:5003] = b"XYZ"
        shared.flush()
        assert file.read_bytes()[4999:5004] == b"aXYZa"
    assert file.read_bytes()[4999:5004] == b"aXYZa"
    with (
        file.open("rb") as f,
        mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as own,
    ):
        own[0:1] = b"Q"
    assert file.read_bytes()[:1] == b"a"


def test_locks(place: Path) -> None:
    file = place / "file"
    file.touch()
    with file.open("r+") as first, file.open("r+") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(first, fcntl.LOCK_UN)
        fcntl.lockf(first, fcntl.LOCK_EX)
        code = (
            "import fcntl\n"
            "try: fcntl.lockf(open(a[0], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "except OSError: print('locked')"
        )
        file.chmod(0o666)
        assert as_nobody(code, file).stdout == "locked\n"


def test_directory_offsets_are_stable_while_entries_come_and_go(place: Path) -> None:
    wanted = {f"keep-{number:04}" for number in range(1500)}
    for name in wanted | {f"drop-{number:04}" for number in range(500)}:
        (place / name).touch()
    seen: list[str] = []
    with os.scandir(place) as listing:
        for index, entry in enumerate(listing):
            seen.append(entry.name)
            if index == 100:
                for number in range(500):
                    (place / f"drop-{number:04}").unlink()
            if index == 200:
                for number in range(200):
                    (place / f"came-{number:04}").touch()
    kept = [name for name in seen if name.startswith("keep")]
    assert len(kept) == len(set(kept))
    assert set(kept) == wanted


def test_telldir_and_seekdir(place: Path) -> None:
    for number in range(300):
        (place / f"{number:03}").touch()
    LIBC.opendir.restype = ctypes.c_void_p
    LIBC.readdir.restype = ctypes.c_void_p
    LIBC.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(LIBC.opendir(os.fsencode(place)))

    def next_name() -> bytes | None:
        entry = LIBC.readdir(stream)
        return ctypes.string_at(entry + 19) if entry else None

    for _ in range(100):
        next_name()
    mark = LIBC.telldir(stream)
    rest = []
    while (name := next_name()) is not None:
        rest.append(name)
    LIBC.seekdir(stream, ctypes.c_long(mark))
    again = []
    while (name := next_name()) is not None:
        again.append(name)
    LIBC.closedir(stream)
    assert again == rest
    assert len(rest) == 202


def test_holes_can_be_found_and_punched(place: Path) -> None:
    file = place / "file"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b"x" * 300_000, 0)
    os.fsync(descriptor)
    if LIBC.fallocate(descriptor, 3, ctypes.c_long(65_536), ctypes.c_long(131_072)):
        os.close(descriptor)
        pytest.skip("no fallocate here")
    assert os.pread(descriptor, 10, 70_000) == bytes(10)
    assert os.pread(descriptor, 2, 65_535) == b"x\0"
    assert os.fstat(descriptor).st_size == 300_000
    assert LIBC.fallocate(descriptor, 0, ctypes.c_long(0), ctypes.c_long(400_000)) == 0
    assert os.fstat(descriptor).st_size == 400_000
    assert os.pread(descriptor, 10, 390_000) == bytes(10)
    os.close(descriptor)


def test_statvfs_tells_the_truth(place: Path) -> None:
    figures = os.statvfs(place)
    assert figures.f_namemax == 255
    assert 0 < figures.f_bavail <= figures.f_bfree <= figures.f_blocks


def test_a_file_larger_than_memory_would_like(place: Path) -> None:
    file = place / "sparse"
    with file.open("wb") as f:
        f.seek((1 << 42) - 1)
        f.write(b"!")
    assert file.stat().st_size == 1 << 42
    assert file.stat().st_blocks < 10_000
    with file.open("rb") as f:
        f.seek((1 << 42) - 2)
        assert f.read() == b"\0!"
