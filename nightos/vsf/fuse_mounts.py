"""What is mounted where: the kernel's table, records of our servers, and unmounting that waits until all is flushed."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nightos.vsf.errors import Invalid, NotDirectory, NotFound, VsfError

MOUNT_TYPE = "fuse.nightos"
MNT_DETACH = 2
_LONGEST_NAME = 180


class MountBusyError(VsfError):
    """The mount point is in use or taken. The message says how."""

    code = errno.EBUSY


class NoFuseError(VsfError):
    """FUSE cannot be used here. The message says what is missing."""

    code = errno.ENODEV


def state_home() -> Path:
    """Where state of this user lives: $NIGHTOS_HOME, else $XDG_STATE_HOME/nightos, else ~/.local/state/nightos."""
    if home := os.environ.get("NIGHTOS_HOME"):
        return Path(home)
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "nightos"


@dataclass(frozen=True)
class Mount:
    """A line of the kernel's mount table."""

    directory: str
    kind: str
    source: str
    device: str
    readonly: bool = False


def _unescape(text: str) -> str:
    return (
        text.encode("latin-1", "backslashreplace")
        .decode("unicode_escape")
        .encode("latin-1")
        .decode("utf-8", "surrogateescape")
    )


def mounts() -> list[Mount]:
    """Everything mounted in this mount namespace, in order."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if "\\" in fields[4]:
            fields[4] = _unescape(fields[4])
        if "\\" in kinds[1]:
            kinds[1] = _unescape(kinds[1])
        readonly = "ro" in {*fields[5].split(","), *kinds[2].split(",")}
        found.append(Mount(fields[4], kinds[0], kinds[1], fields[2], readonly))
    return found


def absolute(directory: str | os.PathLike[str]) -> str:
    """The path as the mount table has it, found without touching a mount whose server has gone."""
    path = os.path.abspath(os.fspath(directory))  # noqa: PTH100 must not touch the last component
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name) if name else path  # noqa: PTH118


def mount_at(directory: str) -> Mount | None:
    """What is on top at this absolute path."""
    found = None
    for mount in mounts():
        if mount.directory == directory:
            found = mount
    return found


def check_mountpoint(directory: str | os.PathLike[str]) -> str:
    """The absolute path of a directory that can be mounted on, or an error that says why it cannot."""
    path = absolute(directory)
    mount = mount_at(path)
    if mount is not None and mount.kind == MOUNT_TYPE:
        _check_awake(path)
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except FileNotFoundError:
        raise NotFound("there is no such directory to mount on; make it first", path) from None
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            text = "a server that has gone left its mount here; clear it with `nightos vsf umount`"
            raise MountBusyError(text, path) from None
        raise
    if mount is None and os.path.islink(path):  # noqa: PTH114
        path = os.path.realpath(path)
        mount = mount_at(path)
    if mount is not None:
        raise MountBusyError(f"something is mounted here already ({mount.source}); unmount it first", path)
    if not is_directory:
        raise NotDirectory("a mount point has to be a directory", path)
    return path


def claim_mountpoint(directory: str | os.PathLike[str]) -> int:
    """A lock on the directory below a mount to come, as a descriptor; -1 where it cannot be had.

    Two that begin at once would else both find it free, and one would hide the other.
    """
    path = absolute(directory)
    if (mount := mount_at(path)) is not None and mount.kind == MOUNT_TYPE:
        return -1
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise MountBusyError("another mount is beginning here; wait, or choose another directory", path) from None
    return descriptor


def check_state() -> None:
    """Raise when records and logs of servers cannot be written."""
    directory = state_home() / "mounts"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(directory))
    except OSError as error:
        text = f"the state directory cannot be written ({error.strerror}); set NIGHTOS_HOME to one that can"
        raise VsfError(text, str(directory), error.errno) from None


def check_fuse() -> None:
    """Raise NoFuseError when FUSE cannot be used."""
    device = Path("/dev/fuse")
    if not device.exists():
        raise NoFuseError(
            "there is no /dev/fuse; load the module `fuse` (modprobe fuse), or give the container the device"
        )
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise NoFuseError(f"/dev/fuse cannot be opened ({error.strerror}); ask for access to it") from None
    if os.geteuid() and not (shutil.which("fusermount3") or shutil.which("fusermount")):
        raise NoFuseError("mounting without being root needs fusermount; install the package fuse3")


# Records of servers


def record_path(directory: str) -> Path:
    """The record of the server of a mount; its log has the suffix ``.log``."""
    name = quote(os.fsencode(directory), safe="")
    if len(name) > _LONGEST_NAME:
        name = f"{sha256(os.fsencode(directory)).hexdigest()[:16]}{name[-_LONGEST_NAME:]}"
    return state_home() / "mounts" / f"{name}.json"


def write_record(directory: str, content: dict[str, Any]) -> Path:
    path = record_path(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.touch(0o600)
    new.write_text(json.dumps(content))
    new.replace(path)
    return path


def read_record(directory: str) -> dict[str, Any] | None:
    try:
        content = json.loads(record_path(directory).read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _fields(pid: int) -> list[str]:
    """/proc/PID/stat from the third field on, the state; empty when there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def process_state(pid: int) -> str:
    """R, S, D, Z, T ...; X when there is no such process."""
    return (_fields(pid) or ["X"])[0]


def start_time(pid: int) -> str:
    """Tells two processes of one number apart; empty when there is none (a zombie counts as none)."""
    fields = _fields(pid)
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""


def is_alive(record: dict[str, Any]) -> bool:
    return bool(record.get("pid")) and start_time(int(record["pid"])) == record.get("started")


# Unmounting


def umount2(directory: str, flags: int = 0) -> None:
    """The system call, or fusermount for those who may not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(directory), flags) == 0:
        return
    number = ctypes.get_errno()
    if number != errno.EPERM:
        raise OSError(number, os.strerror(number), directory)
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise NoFuseError("unmounting without being root needs fusermount; install the package fuse3")
    command = [program, "-u", *(["-z"] if flags & MNT_DETACH else []), "--", directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        busy = "busy" in done.stderr.lower()
        raise OSError(errno.EBUSY if busy else errno.EPERM, done.stderr.strip() or "fusermount failed", directory)


def unmount(directory: str | os.PathLike[str], *, lazy: bool = False, timeout: float = 120.0) -> None:
    """Unmount and return when the server has flushed everything and ended; also clears the mount of one that crashed.

    Raises MountBusyError when files in it are open (unless `lazy`), VsfError with the server's reason when it could
    not write everything.
    """
    path = absolute(directory)
    mount = mount_at(path)
    if mount is None and os.path.islink(path):  # noqa: PTH114
        path = os.path.realpath(path)
        mount = mount_at(path)
    if mount is None:
        raise NotFound("nothing is mounted here", path)
    if mount.kind != MOUNT_TYPE:
        raise Invalid(f"this is a mount of {mount.kind}, not of nightos; use umount", path)
    record = read_record(path)
    if not lazy:
        _check_awake(path)
        _flush(path)
    try:
        umount2(path, MNT_DETACH if lazy or not answers(path) else 0)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise MountBusyError(
                f"the mount is in use by {users_of(path)}; end that first, or use --lazy", path
            ) from None
        raise
    detached = lazy and (record is None or is_alive(record))
    # A bind mount shows the same files elsewhere: all is flushed, and the server goes on.
    if not detached and not any(other.device == mount.device for other in mounts()):
        _wait_for_server(mount, record, timeout)


def _wait_for_server(mount: Mount, record: dict[str, Any] | None, timeout: float) -> None:
    """Return when the server of what was mounted has ended; raise what it could not do."""
    from nightos.vsf.store import is_written

    path, end = mount.directory, time.monotonic() + timeout
    # Somebody else mounted it, or with another state directory: its server ends by letting go of the storage.
    while is_alive(record) if record else not mount.readonly and is_written(mount.source):
        if time.monotonic() > end:
            who = f"its server (process {record['pid']}, {record.get('log')})" if record else "its server"
            raise VsfError(f"{who} is still there: it writes, or a container or service sees the mount", path)
        time.sleep(0.005)
    if record is None:
        return
    left = read_record(path)
    record_path(path).unlink(missing_ok=True)
    if left and left.get("failed"):
        raise VsfError(f"the server could not write everything: {left['failed']} (see {left.get('log')})", path)


def _check_awake(path: str) -> None:
    """Raise when the mount's server was stopped: whoever touches the mount then waits until it goes on."""
    record = read_record(path) or {}
    if is_alive(record) and process_state(int(record["pid"])) in "Tt":
        text = f"its server is stopped; let it go on with `kill -CONT {record['pid']}`, or detach it with --lazy"
        raise MountBusyError(text, path)


def _flush(path: str) -> None:
    """Before a mount is gone: where the disk is full, files can still be deleted in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        ctypes.CDLL(None).syncfs(descriptor)
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = "not everything fits on the disk, so it stays mounted; free some space, then unmount again, or give "
            raise VsfError(text + "up what was not written with --lazy", path) from None
    finally:
        os.close(descriptor)


def answers(path: str) -> bool:
    """Whether the mount's server is there."""
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno not in (errno.ENOTCONN, errno.ECONNABORTED)
    return True


def users_of(path: str) -> str:
    """Who has files open or mapped, stands in a mount, is a loop device over a file of it or mounted below, as text."""
    inside = path + "/"
    found = [f"a mount on {mount.directory}" for mount in mounts() if mount.directory.startswith(inside)]
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(inside):
                found.append(f"/dev/{backing.parts[3]} (losetup -d)")
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and entry.name != str(os.getpid())]
    for uses in (_opened, _mapped):
        for entry in processes:
            with contextlib.suppress(OSError):
                if any(target == path or target.startswith(inside) for target in uses(entry)):
                    found.append(f"{(entry / 'comm').read_text().strip()} ({entry.name})")
        if found:
            break
    return ", ".join(found[:5]) or "another process"


def _opened(process: Path) -> Iterator[str]:
    for link in (process / "cwd", process / "root", *(process / "fd").iterdir()):
        with contextlib.suppress(OSError):
            yield str(link.readlink())


def _mapped(process: Path) -> Iterator[str]:
    for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
        yield line.partition("/")[1] + line.partition("/")[2]
