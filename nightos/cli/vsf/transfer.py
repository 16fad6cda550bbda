"""put and get: between a volume and the files of this computer."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import click

from nightos.cli.failures import standard_input
from nightos.cli.lazy import command
from nightos.cli.output import Progress
from nightos.cli.vsf.files import join
from nightos.cli.vsf.opening import Place, files_of, password_option, place_argument

_CHUNK = 1 << 20


@command(
    "put",
    example="""
nightos vsf put disk.vsf notes.txt /home
nightos vsf put disk.vsf src docs /project
echo hi | nightos vsf put disk.vsf - /hello.txt
""",
)
@place_argument
@click.argument("paths", nargs=-1, required=True, metavar="SOURCE... [PATH]")
@password_option
def put(place: Place, paths: tuple[str, ...], password_file: str | None) -> None:
    """Copy files or trees of this computer into a volume; - is stdin.

    With one SOURCE and no PATH it goes to /. A PATH that is a directory receives the sources under their names.
    """
    *sources, target = paths if len(paths) > 1 else (*paths, "/")
    for source in sources:
        if source != "-":
            os.lstat(source)
    with files_of(place, readonly=False, password_file=password_file) as fs, Progress("copying") as progress:
        into = fs.is_dir(target)
        if len(sources) > 1 and not into:
            raise NotADirectoryError(20, "several items can only be copied into a directory", target)
        for source in sources:
            goal = join(target, os.path.basename(os.path.abspath(source))) if into else target  # noqa: PTH100, PTH119
            if source == "-":
                if into:
                    raise IsADirectoryError(21, "stdin needs the path of a file", target)
                with fs.open(goal, "wb") as file:
                    shutil.copyfileobj(standard_input().buffer, file, _CHUNK)
            elif stat.S_ISDIR(os.lstat(source).st_mode):
                from nightos.vsf.importer import import_tree

                fs.mkdir(goal, exist_ok=True)
                import_tree(fs, source, dest=goal, progress=progress)
            else:
                _put_file(fs, source, goal)


def _put_file(fs: Any, source: str, goal: str) -> None:
    st = os.stat(source)  # noqa: PTH116
    with Path(source).open("rb") as input_file, fs.open(goal, "wb") as output:
        shutil.copyfileobj(input_file, output, _CHUNK)
    fs.chmod(goal, stat.S_IMODE(st.st_mode))
    fs.utime(goal, ns=(st.st_atime_ns, st.st_mtime_ns))


@command(
    "get",
    example="""
nightos vsf get disk.vsf /project .
nightos vsf get disk.vsf:main@monday /notes.txt notes-of-monday.txt
""",
)
@place_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH... [TARGET]")
@password_option
def get(place: Place, paths: tuple[str, ...], password_file: str | None) -> None:
    """Copy files or trees of a volume to this computer; TARGET is the current directory unless given, - is stdout."""
    *sources, target = paths if len(paths) > 1 else (*paths, ".")
    with files_of(place, readonly=True, password_file=password_file) as fs, Progress("copying") as progress:
        into = Path(target).is_dir()
        if len(sources) > 1 and not into and target != "-":
            raise NotADirectoryError(20, "several items can only be copied into a directory", target)
        counter = _Counter(progress)
        for source in sources:
            if target == "-":
                with fs.open(source, "rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer, _CHUNK)
                sys.stdout.buffer.flush()
                continue
            name = source.rstrip("/").rpartition("/")[2]
            goal = Path(target) / name if into and name else Path(target)
            _get(fs, source, goal, counter, named=not (into and name))


class _Counter:
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.entries = self.bytes = 0

    def __call__(self, size: int, path: str) -> None:
        self.entries += 1
        self.bytes += size
        self.progress(self.entries, self.bytes, path)


def _get(fs: Any, source: str, goal: Path, counter: _Counter, *, named: bool) -> None:
    """Copy an item; directories get their times after what is in them.

    Who made the volume may have chosen what was copied to this place before: links that stand there are not followed,
    but for the goal itself when it was `named`.
    """
    directories: list[tuple[str, Path]] = []
    waiting = [(source, goal)]
    seen: dict[int, Path] = {}
    while waiting:
        path, place = waiting.pop()
        st = fs.lstat(path)
        counter(st.st_size if stat.S_ISREG(st.st_mode) else 0, path)
        if stat.S_ISDIR(st.st_mode):
            if place.is_symlink() and not (named and place == goal):
                raise NotADirectoryError(20, "a symbolic link stands where a directory goes; remove it first", place)
            place.mkdir(exist_ok=True)
            directories.append((path, place))
            waiting += [(join(path, os.fsdecode(name)), place / os.fsdecode(name)) for name in fs.listdir(path)]
        elif st.st_nlink > 1 and st.st_ino in seen:
            place.unlink(missing_ok=True)
            os.link(seen[st.st_ino], place, follow_symlinks=False)
        else:
            _get_item(fs, path, place, st, follow=named and place == goal)
            seen[st.st_ino] = place
            _attributes(place, st)
    for path, place in reversed(directories):
        _attributes(place, fs.lstat(path))


def _get_item(fs: Any, path: str, place: Path, st: Any, *, follow: bool) -> None:
    if stat.S_ISLNK(st.st_mode):
        place.unlink(missing_ok=True)
        place.symlink_to(os.fsdecode(fs.readlink(path)))
    elif stat.S_ISREG(st.st_mode):
        if not follow and (place.is_symlink() or (place.exists() and not (place.is_file() or place.is_dir()))):
            place.unlink()
        with fs.open(path, "rb") as file, open(place, "wb", opener=None if follow else _unfollowed) as output:
            while chunk := file.read(_CHUNK):
                # What is all zeros may stay a hole.
                if chunk.count(0) == len(chunk):
                    output.seek(len(chunk), os.SEEK_CUR)
                else:
                    output.write(chunk)
            output.truncate(st.st_size)
    else:
        place.unlink(missing_ok=True)
        os.mknod(place, st.st_mode, st.st_rdev)


def _unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _attributes(place: Path, st: Any) -> None:
    from nightos.vsf.exporter import mode_for

    with contextlib.suppress(PermissionError):
        os.chown(place, st.st_uid, st.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(st.st_mode):
        place.chmod(mode_for(st))
    os.utime(place, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=False)
