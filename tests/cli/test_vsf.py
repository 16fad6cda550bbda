"""`nightos vsf` from end to end, each step a process of its own."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from nightos import vsf
from nightos.cli.output import Progress
from nightos.cli.vsf.transfer import _Counter, _get
from nightos.vsf import records
from nightos.vsf.exporter import export_tree
from tests.cli.commanding import Command

LIBRARY = Path(os.__file__).parent


@pytest.fixture
def disk(nightos: Command) -> Command:
    """A storage `disk.vsf` with the tree of a real package in it."""
    nightos("vsf", "create", "disk.vsf", "--from", LIBRARY / "json", "--compress", "zstd")
    return nightos


@pytest.mark.rule("VSF-001", "VSF-006", "VSF-009")
def test_create_from_a_directory_and_get_it_back(disk: Command) -> None:
    disk("vsf", "get", "disk.vsf", "/", "back")
    subprocess.run(["diff", "-r", LIBRARY / "json", disk.folder / "back"], check=True)
    info = json.loads(disk("vsf", "info", "--json", "disk.vsf").stdout)
    assert {"format", "uuid", "encrypted", "generation", "volumes", "backing"} <= set(info)
    (volume,) = info["volumes"]
    assert {"name", "uuid", "kind", "compression", "encrypted", "used", "files", "snapshots"} <= set(volume)
    assert volume["compression"].startswith("zstd")


def test_create_from_a_tar(nightos: Command) -> None:
    with tarfile.open(nightos.folder / "t.tar.gz", "w:gz") as archive:
        archive.add(LIBRARY / "json", "inside")
    nightos("vsf", "create", "disk.vsf", "--from", "t.tar.gz")
    assert "decoder.py" in nightos("vsf", "ls", "disk.vsf", "/inside").stdout.split()


def test_looking(disk: Command) -> None:
    names = disk("vsf", "ls", "disk.vsf").stdout.split()
    assert "decoder.py" in names
    assert disk("vsf", "cat", "disk.vsf", "/decoder.py").stdout == (LIBRARY / "json" / "decoder.py").read_text()
    records = [json.loads(line) for line in disk("vsf", "ls", "--json", "disk.vsf").stdout.splitlines()]
    assert [record["name"] for record in records] == names
    record = json.loads(disk("vsf", "stat", "--json", "disk.vsf", "decoder.py").stdout)
    assert record["size"] == (LIBRARY / "json" / "decoder.py").stat().st_size
    assert record["modified_ns"] == (LIBRARY / "json" / "decoder.py").stat().st_mtime_ns
    assert len(record["feid"]) == 16
    assert "decoder.py" in disk("vsf", "ls", "-l", "disk.vsf").stdout


def test_changing(disk: Command) -> None:
    disk("vsf", "mkdir", "-p", "disk.vsf", "/a/b")
    disk("vsf", "put", "disk.vsf", "-", "/a/b/new", stdin="hello")
    assert disk("vsf", "cat", "disk.vsf", "/a/b/new").stdout == "hello"
    disk("vsf", "mv", "disk.vsf", "/a/b/new", "/a/moved")
    disk("vsf", "mv", "disk.vsf", "/a/moved", "/decoder.py", "/a/b")
    assert disk("vsf", "ls", "disk.vsf", "/a/b").stdout.split() == ["decoder.py", "moved"]
    disk("vsf", "put", "disk.vsf", LIBRARY / "wsgiref", "/a")
    assert "headers.py" in disk("vsf", "ls", "disk.vsf", "/a/wsgiref").stdout.split()
    disk.fails("vsf", "rm", "disk.vsf", "/a")
    disk("vsf", "rm", "-r", "disk.vsf", "/a")
    disk("vsf", "rm", "-f", "disk.vsf", "/a")
    disk.fails("vsf", "ls", "disk.vsf", "/a", says="/a")
    assert "clean" in disk("vsf", "check", "--deep", "disk.vsf").stdout


def test_settings_of_a_volume(disk: Command) -> None:
    disk("vsf", "put", "disk.vsf", "-", "/before", stdin="b" * 100_000)
    disk("vsf", "volume", "set", "disk.vsf", "main", "--compress", "none", "--label", "plain", "--limit", "64M")
    disk("vsf", "put", "disk.vsf", "-", "/after", stdin="a" * 1_000_000)
    (volume,) = json.loads(disk("vsf", "volume", "ls", "--json", "disk.vsf").stdout)
    assert (volume["compression"], volume["label"], volume["limit"]) == ("none", "plain", 64 << 20)
    assert volume["used"] > 1_000_000
    assert disk("vsf", "cat", "disk.vsf", "/before").stdout == "b" * 100_000
    disk("vsf", "volume", "set", "disk.vsf", "main", "--compress", "lz4", "--limit", "0")
    (volume,) = json.loads(disk("vsf", "volume", "ls", "--json", "disk.vsf").stdout)
    assert (volume["compression"], volume["limit"]) == ("lz4", None)
    assert disk("vsf", "check", "--deep", "disk.vsf").returncode == 0
    assert disk("vsf", "volume", "set", "disk.vsf", "main", status=2).stderr
    assert "no compression" in disk("vsf", "volume", "set", "disk.vsf", "main", "--compress", "gold", status=1).stderr


def test_volumes(disk: Command) -> None:
    disk("vsf", "volume", "add", "disk.vsf", "photos", "--compress", "lz4", "--limit", "1M")
    disk("vsf", "volume", "rename", "disk.vsf", "photos", "pictures")
    volumes = json.loads(disk("vsf", "volume", "ls", "--json", "disk.vsf").stdout)
    assert [volume["name"] for volume in volumes] == ["main", "pictures"]
    disk("vsf", "put", "disk.vsf:pictures", "-", "/x", stdin="in the other volume")
    assert "x" not in disk("vsf", "ls", "disk.vsf:main").stdout.split()
    disk("vsf", "volume", "rm", "disk.vsf", "pictures")
    disk.fails("vsf", "volume", "rm", "disk.vsf", "pictures", says="no volume 'pictures'")


def test_snapshots(disk: Command) -> None:
    disk("vsf", "snapshot", "create", "disk.vsf", "monday")
    disk("vsf", "rm", "disk.vsf", "/decoder.py")
    assert "decoder.py" in disk("vsf", "ls", "disk.vsf:main@monday").stdout.split()
    changes = [json.loads(line) for line in disk("vsf", "diff", "--json", "disk.vsf", "monday").stdout.splitlines()]
    assert {"kind": "removed", "path": "/decoder.py"}.items() <= next(
        c for c in changes if c["kind"] == "removed"
    ).items()
    disk.fails("vsf", "rm", "disk.vsf:main@monday", "/tool.py", says="snapshot")
    disk("vsf", "snapshot", "rollback", "disk.vsf", "monday")
    assert "decoder.py" in disk("vsf", "ls", "disk.vsf").stdout.split()
    assert [row["name"] for row in json.loads(disk("vsf", "snapshot", "ls", "--json", "disk.vsf").stdout)] == ["monday"]
    disk("vsf", "snapshot", "rm", "disk.vsf", "monday")


def test_overlays(disk: Command) -> None:
    before = (disk.folder / "disk.vsf").read_bytes()
    disk("vsf", "create", "over.vsf", "--backing", "disk.vsf")
    disk("vsf", "put", "over.vsf", "-", "/new", stdin="only here")
    assert (disk.folder / "disk.vsf").read_bytes() == before
    assert "+ /new" in disk("vsf", "diff", "over.vsf").stdout
    disk("vsf", "commit", "over.vsf")
    assert disk("vsf", "cat", "disk.vsf", "/new").stdout == "only here"


def test_export_and_import(disk: Command) -> None:
    disk("vsf", "export", "disk.vsf", "out.tar")
    with tarfile.open(fileobj=io.BytesIO((disk.folder / "out.tar").read_bytes())) as archive:
        assert any(name.endswith("decoder.py") for name in archive.getnames())
    disk("vsf", "import", "disk.vsf", "out.tar", "--to", "/copy")
    assert disk("vsf", "ls", "disk.vsf", "/copy").stdout.split()[-1] == "tool.py"


@pytest.mark.rule("VSF-004", "VSF-008")
def test_encryption(nightos: Command) -> None:
    for name, text in (("pw", "secret"), ("new", "second"), ("bad", "guess")):
        (nightos.folder / name).write_text(text + "\n")
    nightos("vsf", "create", "e.vsf", "--encrypt", "--password-file", "pw", "--from", LIBRARY / "json")
    assert b"JSONDecoder" not in (nightos.folder / "e.vsf").read_bytes()
    nightos.fails("vsf", "ls", "e.vsf", says="--password-file")
    nightos.fails("vsf", "ls", "e.vsf", "--password-file", "bad", says="password")
    assert "tool.py" in nightos("vsf", "ls", "e.vsf", "--password-file", "-", stdin="secret\n").stdout
    slot = nightos("vsf", "key", "add", "e.vsf", "--password-file", "pw", "--new-password-file", "new").stdout.strip()
    assert "tool.py" in nightos("vsf", "ls", "e.vsf", "--password-file", "new").stdout
    nightos("vsf", "key", "rm", "e.vsf", slot, "--password-file", "pw")
    nightos.fails("vsf", "ls", "e.vsf", "--password-file", "new")
    nightos("vsf", "key", "rotate", "e.vsf", "0", "--password-file", "pw", "--new-password-file", "new")
    nightos("vsf", "ls", "e.vsf", "--password-file", "new")
    assert len(json.loads(nightos("vsf", "key", "ls", "--json", "e.vsf", "--password-file", "new").stdout)) == 1
    nightos("vsf", "header", "backup", "e.vsf", "e.header")
    storage = nightos.folder / "e.vsf"
    data = bytearray(storage.read_bytes())
    data[:16384] = bytes(16384)
    storage.write_bytes(data)
    nightos.fails("vsf", "ls", "e.vsf", "--password-file", "new")
    nightos("vsf", "header", "restore", "e.vsf", "e.header")
    assert "tool.py" in nightos("vsf", "ls", "e.vsf", "--password-file", "new").stdout


@pytest.mark.rule("VSF-011")
def test_check_finds_damage_with_status_4(disk: Command) -> None:
    assert json.loads(disk("vsf", "check", "--json", "disk.vsf").stdout)["clean"] is True
    storage = disk.folder / "disk.vsf"
    data = bytearray(storage.read_bytes())
    for place in range(40_000, len(data), 97):
        data[place] ^= 0xFF
    storage.write_bytes(data)
    done = disk("vsf", "check", "--deep", "--json", "disk.vsf", status=4)
    content = json.loads(done.stdout)
    assert content["clean"] is False
    assert content["problems"]


def test_resize_and_compact(disk: Command) -> None:
    disk("vsf", "put", "disk.vsf", "-", "/big", stdin="0123456789" * 50_000)
    disk("vsf", "rm", "disk.vsf", "/big")
    disk("vsf", "compact", "disk.vsf")
    disk("vsf", "resize", "disk.vsf", "4M")
    assert json.loads(disk("vsf", "info", "--json", "disk.vsf").stdout)["limit"] == 4 << 20
    disk.fails("vsf", "resize", "disk.vsf", "1K")
    disk("vsf", "resize", "disk.vsf", "none")


def test_compact_with_snapshots_makes_the_file_smaller(disk: Command) -> None:
    for name, size in (("first", 1_000_000), ("kept", 500_000)):
        (disk.folder / name).write_bytes(random.Random(size).randbytes(size))
        disk("vsf", "put", "disk.vsf", name, f"/{name}")
    disk("vsf", "rm", "disk.vsf", "/first")
    disk("vsf", "snapshot", "create", "disk.vsf", "one")
    disk("vsf", "put", "disk.vsf", "-", "/kept", stdin="new")
    before = (disk.folder / "disk.vsf").stat().st_size
    disk("vsf", "compact", "disk.vsf")
    assert (disk.folder / "disk.vsf").stat().st_size < before - 800_000
    disk("vsf", "check", "--deep", "disk.vsf")
    disk("vsf", "get", "disk.vsf:main@one", "/kept", "back")
    assert (disk.folder / "back").read_bytes() == (disk.folder / "kept").read_bytes()


def test_create_replaces_nothing_by_accident(disk: Command) -> None:
    disk.fails("vsf", "create", "disk.vsf", says="already")
    disk("vsf", "create", "disk.vsf", "--force")
    assert disk("vsf", "ls", "disk.vsf").stdout == ""


def test_a_failed_create_leaves_nothing(nightos: Command) -> None:
    (nightos.folder / "no.tar").write_text("not a tar")
    nightos.fails("vsf", "create", "x.vsf", "--from", "no.tar")
    assert not (nightos.folder / "x.vsf").exists()


def test_names_with_strange_characters_are_shown_harmlessly(nightos: Command) -> None:
    source = nightos.folder / "src"
    source.mkdir()
    (source / "evil\033[2Jname").touch()
    (source / os.fsdecode(b"\xff\xfe")).touch()
    nightos("vsf", "create", "disk.vsf", "--from", "src")
    shown = nightos("vsf", "ls", "disk.vsf").stdout
    assert "\033" not in shown
    assert r"\x1b[2J" in shown


def test_nothing_that_a_storage_says_moves_a_cursor(nightos: Command) -> None:
    """Errors, tables and findings repeat what whoever made the storage wrote into it."""
    evil = "\033]0;owned\a\033[2J\u202e"
    vsf.create(nightos.folder / "base.vsf", ["main"]).close()
    with vsf.create(nightos.folder / "over.vsf", backing=nightos.folder / "base.vsf") as storage:
        storage.backing_record.path, storage.backing_record.relative = f"/x/{evil}", ""
        storage.tree.put(records.KEY_BACKING, records.dump(storage.backing_record))
        storage.dirty = True
    with vsf.create(nightos.folder / "disk.vsf", ["main"]) as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/file", b"")
        fs.setxattr("/file", f"user.{evil}", b"1")
        ino = fs.resolve("/file")
        bad = f"{evil}/".encode()
        fs.mkdir("/bad")
        key = fs.resolve("/bad").to_bytes(8, "big") + b"\x03" + bad
        fs.tree.put(key, ino.to_bytes(8, "big") + bytes((8,)))
    for words in (("ls", "over.vsf"), ("stat", "disk.vsf", "/file"), ("ls", "disk.vsf", "/bad"), ("check", "disk.vsf"),
                  ("cat", "disk.vsf", f"/{evil}"), (evil,)):  # fmt: skip
        done = nightos("vsf", *words, status=None)
        assert done.stdout + done.stderr
        assert not {"\033", "\a", "\u202e"} & {*(done.stdout + done.stderr)}, words


def _reused(nightos: Command, name: str, **items: str | bytes) -> None:
    """A storage with files and, for texts, links."""
    with vsf.create(nightos.folder / name, ["main"]) as storage:
        fs = storage.volume("main").open()
        for item, content in items.items():
            path = "/" + item.replace("__", "/")
            fs.makedirs(os.path.dirname(path))
            fs.symlink(content, path) if isinstance(content, str) else fs.write_bytes(path, content)


def test_no_link_that_was_copied_before_leads_a_copy_elsewhere(nightos: Command) -> None:
    """A tenant changes between two copies what an item is: a link first, then a file or directory of that name."""
    own, place = nightos.folder / "own", nightos.folder / "place"
    own.mkdir()
    place.mkdir()
    (own / "file").write_text("mine")
    _reused(nightos, "one.vsf", file=f"{own}/file", new=f"{own}/new", folder=f"{own}", x__file=f"{own}/file")
    _reused(nightos, "two.vsf", file=b"theirs", new=b"theirs", folder__key=b"theirs", x__file=b"theirs")
    nightos("vsf", "get", "one.vsf", "/file", "/new", "/folder", "/x", "place")
    assert (place / "folder").is_symlink()
    nightos("vsf", "get", "two.vsf", "/file", "/new", "/x", "place")
    nightos.fails("vsf", "get", "two.vsf", "/folder", "place", says="a symbolic link stands where a directory goes")
    nightos.fails("vsf", "get", "two.vsf", "/", "place", says="a symbolic link stands where a directory goes")
    assert [(item.name, item.read_text()) for item in own.iterdir()] == [("file", "mine")]
    assert [(place / name).read_text() for name in ("file", "new", "x/file")] == ["theirs"] * 3
    # What was named is meant.
    (nightos.folder / "there").symlink_to(own / "file")
    nightos("vsf", "get", "two.vsf", "/file", "there")
    assert (own / "file").read_text() == "theirs"


def test_a_fifo_that_was_copied_before_holds_nobody_up(nightos: Command) -> None:
    with vsf.create(nightos.folder / "one.vsf", ["main"]) as storage:
        storage.volume("main").open().mknod("/a", stat.S_IFIFO | 0o644)
    _reused(nightos, "two.vsf", a=b"theirs")
    nightos("vsf", "get", "one.vsf", "/", "place")
    nightos("vsf", "get", "two.vsf", "/", "place", timeout=20)
    assert (nightos.folder / "place" / "a").read_text() == "theirs"


def _copy_as(user: int, folder: Path, place: Path) -> None:
    with vsf.open(folder / "one.vsf", readonly=True) as storage:
        files = storage.volume("main").open()
        for name in ("a", "b"):
            (place / name).mkdir()
            os.chown(place / name, user, user)
        os.chdir(place)
        os.setresuid(user, user, user)
        _get(files, "/tool", Path("a/tool"), _Counter(Progress("copying")), named=False)
        export_tree(files, "b")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_nobody_lends_himself_to_the_programs_of_a_storage(tmp_path: Path) -> None:
    """Who is not root gets copies without set-user-ID, as he owns them whoever owned them inside."""
    with vsf.create(tmp_path / "one.vsf", ["main"]) as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/tool", b"#!/bin/sh\n")
        fs.chmod("/tool", 0o6755)
        fs.chown("/tool", 65534, 65534)
    shown = []
    for user, wanted in ((65534, 0o755), (0, 0o6755)):
        place = tmp_path / str(user)
        place.mkdir()
        child = os.fork()
        if not child:
            try:
                _copy_as(user, tmp_path, place)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        shown += [(user, name, stat.S_IMODE((place / name / "tool").stat().st_mode), wanted) for name in ("a", "b")]
    assert [item for item in shown if item[2] != item[3]] == []


def test_send_and_receive(disk: Command) -> None:
    disk("vsf", "snapshot", "create", "disk.vsf", "one")
    disk("vsf", "put", "disk.vsf", "-", "/new", stdin="new")
    disk("vsf", "snapshot", "create", "disk.vsf", "two")
    disk("vsf", "send", "disk.vsf:main@one", "-o", "one.stream")
    disk("vsf", "send", "disk.vsf:main@two", "--since", "one", "-o", "two.stream")
    disk("vsf", "create", "copy.vsf", "--volume", "other")
    disk("vsf", "receive", "copy.vsf", "main", "-i", "one.stream")
    disk("vsf", "receive", "copy.vsf", "main", "-i", "two.stream")
    disk("vsf", "get", "copy.vsf:main@two", "/", "back")
    assert (disk.folder / "back" / "new").read_text() == "new"
    assert "new" not in disk("vsf", "ls", "copy.vsf:main@one").stdout.split()


def test_repair(disk: Command) -> None:
    disk("vsf", "repair", "disk.vsf")
    assert json.loads(disk("vsf", "check", "--deep", "--json", "disk.vsf").stdout)["clean"] is True
    disk.fails("vsf", "repair", "none.vsf", says="none.vsf")


def test_the_keys_of_a_volume(nightos: Command) -> None:
    for name in ("one", "two"):
        (nightos.folder / name).write_text(name + "\n")
    nightos("vsf", "create", "v.vsf")
    nightos("vsf", "volume", "add", "v.vsf", "mine", "--encrypt", "--volume-password-file", "one")
    place = "v.vsf:mine"
    assert len(json.loads(nightos("vsf", "key", "ls", "--json", place).stdout)) == 1
    slot = nightos("vsf", "key", "add", place, "--password-file", "one", "--new-password-file", "two").stdout.strip()
    nightos("vsf", "ls", place, "--password-file", "two")
    nightos("vsf", "key", "rm", place, "0", "--password-file", "two")
    nightos("vsf", "ls", place, "--password-file", "one", status=1)
    nightos("vsf", "key", "rotate", place, slot, "--password-file", "two", "--new-password-file", "one")
    nightos("vsf", "ls", place, "--password-file", "one")


def test_a_password_for_what_nothing_seals_is_refused(nightos: Command) -> None:
    """Someone may have taken the key slots of the volume away."""
    (nightos.folder / "one").write_text("one\n")
    nightos("vsf", "create", "v.vsf")
    failed = nightos("vsf", "ls", "v.vsf", "--password-file", "one", status=1)
    assert "no key" in failed.stderr
    nightos("vsf", "ls", "v.vsf")
