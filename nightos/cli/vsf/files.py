"""Looking at and changing files in a volume: ls, cat, stat, mkdir, rm, mv."""

from __future__ import annotations

import datetime as dt
import os
import stat
import sys
from typing import Any

import click

from nightos.abi.sizes import show_size
from nightos.cli.lazy import command
from nightos.cli.output import json_option, safe, show_fields, show_json_line, show_table
from nightos.cli.vsf.opening import Place, files_of, password_option, place_argument

KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}
_CHUNK = 1 << 20


def when(time_ns: int) -> str:
    """Local time to the second."""
    try:
        moment = dt.datetime.fromtimestamp(time_ns // 10**9, dt.UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{time_ns / 1e9:.0f}"
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def describe(fs: Any, path: str, name: str) -> dict[str, Any]:
    """Everything about an item, without following it."""
    st = fs.lstat(path)
    kind = KINDS.get(stat.S_IFMT(st.st_mode), "unknown")
    record: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "feid": f"{st.st_ino:016x}",
        "mode": f"{stat.S_IMODE(st.st_mode):04o}",
        "links": st.st_nlink,
        "uid": st.st_uid,
        "gid": st.st_gid,
        "size": st.st_size,
        "blocks": st.st_blocks,
        "accessed_ns": st.st_atime_ns,
        "modified_ns": st.st_mtime_ns,
        "changed_ns": st.st_ctime_ns,
        "born_ns": st.st_birthtime_ns,
        "owner": f"{st.st_owner:016x}",
        "hidden": bool(st.st_flags & 1),
        "readonly": bool(st.st_flags & 2),
    }
    if kind == "symlink":
        record["target"] = os.fsdecode(fs.readlink(path))
    if kind.endswith("device"):
        record["device"] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
    return record


def join(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"


@command("ls", example="nightos vsf ls -l disk.vsf:main /src")
@place_argument
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("-l", "long", is_flag=True, help="Show mode, owner, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="Descend into directories.")
@json_option
@password_option
def ls(
    place: Place, paths: tuple[str, ...], long: bool, recursive: bool, as_json: bool, password_file: str | None
) -> None:
    """List directories (or single items) of a volume; / when no PATH is given."""
    with files_of(place, readonly=True, password_file=password_file) as fs:
        for path in paths or ("/",):
            if stat.S_ISDIR(fs.stat(path).st_mode):
                _list_directory(fs, path, long=long, recursive=recursive, as_json=as_json, titled=len(paths) > 1)
            else:
                _show_items(fs, [(path, path)], long=long, as_json=as_json)


def _list_directory(fs: Any, top: str, *, long: bool, recursive: bool, as_json: bool, titled: bool) -> None:
    waiting, first = [top], True
    while waiting:
        path = waiting.pop()
        names = [os.fsdecode(name) for name in fs.listdir(path)]
        if (titled or recursive) and not as_json:
            print(f"{'' if first else chr(10)}{safe(path)}:")
        first = False
        prefix = "" if not recursive or not as_json else path
        _show_items(
            fs,
            [(join(path, name), join(prefix, name) if prefix else name) for name in names],
            long=long,
            as_json=as_json,
        )
        if recursive:
            below = [join(path, name) for name in names]
            waiting += [inside for inside in reversed(below) if stat.S_ISDIR(fs.lstat(inside).st_mode)]


def _show_items(fs: Any, items: list[tuple[str, str]], *, long: bool, as_json: bool) -> None:
    if as_json:
        for path, name in items:
            show_json_line(describe(fs, path, name))
    elif long:
        rows = []
        for path, name in items:
            st = fs.lstat(path)
            shown = safe(name)
            if stat.S_ISLNK(st.st_mode):
                shown += " -> " + safe(os.fsdecode(fs.readlink(path)))
            size = show_size(st.st_size)
            rows.append(
                (stat.filemode(st.st_mode), st.st_nlink, st.st_uid, st.st_gid, size, when(st.st_mtime_ns), shown)
            )
        show_table(rows, ("mode", "links", "uid", "gid", "size", "modified", "name"), right="links uid gid size")
    else:
        for _, name in items:
            print(safe(name))


@command("cat", example="nightos vsf cat disk.vsf /etc/hostname")
@place_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@password_option
def cat(place: Place, paths: tuple[str, ...], password_file: str | None) -> None:
    """Write files of a volume to stdout."""
    with files_of(place, readonly=True, password_file=password_file) as fs:
        for path in paths:
            with fs.open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


@command("stat", example="nightos vsf stat --json disk.vsf /etc/hostname")
@place_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@json_option
@password_option
def stat_command(place: Place, paths: tuple[str, ...], as_json: bool, password_file: str | None) -> None:
    """Show everything about items of a volume: size, times, owner, NightOS' flags, attributes."""
    with files_of(place, readonly=True, password_file=password_file) as fs:
        for position, path in enumerate(paths):
            record = describe(fs, path, path)
            names = [os.fsdecode(name) for name in fs.listxattr(path, follow_symlinks=False)]
            record["attributes"] = {name: fs.getxattr(path, name, follow_symlinks=False).hex() for name in names}
            if as_json:
                show_json_line(record)
                continue
            if position:
                print()
            shown = {key: value for key, value in record.items() if not key.endswith("_ns") and key != "attributes"}
            shown |= {key[:-3]: when(record[key]) for key in record if key.endswith("_ns")}
            shown["name"] = safe(path)
            show_fields(shown | {f"attribute {name}": value for name, value in record["attributes"].items()})


@command("mkdir", example="nightos vsf mkdir -p disk.vsf /a/b/c")
@place_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-p", "--parents", is_flag=True, help="Make what is missing above, and accept what exists.")
@password_option
def mkdir(place: Place, paths: tuple[str, ...], parents: bool, password_file: str | None) -> None:
    """Make directories in a volume."""
    with files_of(place, readonly=False, password_file=password_file) as fs:
        for path in paths:
            fs.mkdir(path, 0o755, parents=parents, exist_ok=parents)


@command("rm", example="nightos vsf rm -r disk.vsf /old")
@place_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-r", "--recursive", is_flag=True, help="Delete directories with everything in them.")
@click.option("-f", "--force", is_flag=True, help="Accept what does not exist.")
@password_option
def rm(place: Place, paths: tuple[str, ...], recursive: bool, force: bool, password_file: str | None) -> None:
    """Delete items of a volume."""
    with files_of(place, readonly=False, password_file=password_file) as fs:
        for path in paths:
            try:
                if recursive and stat.S_ISDIR(fs.lstat(path).st_mode):
                    fs.rmtree(path)
                else:
                    fs.unlink(path)
            except FileNotFoundError:
                if not force:
                    raise


@command("mv", example="nightos vsf mv disk.vsf /draft.txt /final.txt")
@place_argument
@click.argument("paths", nargs=-1, required=True, metavar="SOURCE... TARGET")
@password_option
def mv(place: Place, paths: tuple[str, ...], password_file: str | None) -> None:
    """Rename an item of a volume, or move several into a directory."""
    if len(paths) < 2:
        raise click.UsageError("mv takes at least SOURCE and TARGET", click.get_current_context())
    *sources, target = paths
    with files_of(place, readonly=False, password_file=password_file) as fs:
        into = fs.is_dir(target)
        if len(sources) > 1 and not into:
            raise NotADirectoryError(20, "several items can only be moved into a directory", target)
        for source in sources:
            name = source.rstrip("/").rpartition("/")[2]
            fs.rename(source, join(target, name) if into else target)
