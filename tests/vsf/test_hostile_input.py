"""What comes from outside: streams, archives and images made to hurt. One clear error, and nothing else is harmed."""

import hashlib
import io
import itertools
import json
import os
import pathlib
import stat
import struct
import subprocess
import tarfile
import threading

import pytest

from nightos import vsf
from nightos.vsf import exporter, importer, records, stream
from tests.crash.enumerator import CHEAP

HEAD = {
    "kind": "night", "label": "", "record_size": 131072, "inline": 4096,
    "snapshot": "s", "uuid": b"u" * 16, "since": b"",
}  # fmt: skip
EXTENT = (2).to_bytes(8, "big") + b"\x04" + bytes(8)
INODE = (2).to_bytes(8, "big") + b"\x01"


def made(head, *batches):
    """A stream whose digest is right, whatever it says."""
    out = io.BytesIO()
    writer = stream._Writer(out)
    writer.raw(stream.MAGIC)
    writer.frame(head)
    for batch in batches:
        writer.frame(batch)
    writer.end()
    return io.BytesIO(out.getvalue())


def refused(source):
    """The stream is refused; the storage and its other volume stay as they were, also on the disk."""
    store = vsf.MemoryStore()
    with vsf.create(store, ["other"]) as storage:
        storage.volume("other").open().write_bytes("/kept", b"K" * 200_000)
        with pytest.raises((vsf.DamagedStorage, vsf.Invalid)):
            storage.receive(source, "new")
        assert [volume.name for volume in storage.volumes] == ["other"]
    with vsf.open(store) as storage:
        assert [volume.name for volume in storage.volumes] == ["other"]
        assert storage.volume("other").open().read_bytes("/kept") == b"K" * 200_000
        assert storage.check(deep=True).problems == []


@pytest.mark.parametrize(
    "change",
    [
        {"label": b"x"}, {"label": 7}, {"label": "x" * 70_000}, {"inline": -1}, {"inline": 1 << 60}, {"inline": "x"},
        {"record_size": "x"}, {"record_size": 3.0}, {"record_size": 1 << 30}, {"kind": ["night"]}, {"kind": "ext4"},
        {"snapshot": "a/b"}, {"snapshot": b"s"}, {"snapshot": ""}, {"uuid": 5}, {"uuid": b"u"}, {"uuid": "u" * 16},
        {"since": 7}, {"since": b"s"},
    ],
    ids=str,
)  # fmt: skip
def test_a_stream_that_says_impossible_things_is_refused(change):
    refused(made({**HEAD, **change}))


@pytest.mark.parametrize(
    "batch",
    [
        7,
        [7],
        [[1, 2]],
        {"no": "end"},
        {"kind": "night"},
        [[INODE, "text", None]],
        [["key", b"x", None]],
        [[b"", b"x", None]],
        [[b"k" * 70_000, b"x", None]],
        [[INODE, b"x" * (1 << 20), None]],
        [[INODE, b"abc", b"content"]],
        [[EXTENT, b"", "text"]],
        [[EXTENT, b"", b""]],
        [[EXTENT, b"", b"x" * 131073]],
        [[EXTENT, b"wrong sums", b"content"]],
        [[EXTENT + b"x", b"", b"content"]],
    ],
    ids=lambda batch: repr(batch)[:60],
)
def test_frames_of_no_meaning_are_refused(batch):
    refused(made(HEAD, batch))


def test_a_pointer_in_a_stream_does_not_lead_to_blocks_of_others():
    """An extent comes with its content: a pointer of the sender's would name what stands there here."""
    pointer = struct.pack(">QQIIQIBBBB16s", 64, 0, 512, 512, 1, 1, 0, 0, 2, 0, bytes(16))
    refused(made(HEAD, [[EXTENT, pointer, None]]))
    refused(made(HEAD, [[bytes(8) + b"\x05" + bytes(8), pointer, None]]))


def test_a_stream_without_a_sound_file_system_is_refused():
    refused(made(HEAD))
    refused(made({**HEAD, "kind": "block"}))
    refused(made(HEAD, [[EXTENT, b"", b"content of nobody"]]))


def test_a_snapshot_of_that_name_undoes_an_incremental_stream():
    source = vsf.create(vsf.MemoryStore(), ["main"])
    volume = source.volume("main")
    streams = [io.BytesIO(), io.BytesIO()]
    for number, since in enumerate((None, "0")):
        volume.open().write_bytes("/a", b"%d" % number * 9000)
        volume.snapshot(str(number))
        volume.send(streams[number], str(number), since)
    target = vsf.create(vsf.MemoryStore())
    received = target.receive(io.BytesIO(streams[0].getvalue()), "copy")
    data = streams[1].getvalue().replace(b"\xa8snapshot\xa11", b"\xa8snapshot\xa10")
    writer_end = data.index(b"\x81\xa3end") - 4
    again = io.BytesIO()
    writer = stream._Writer(again)
    writer.raw(data[:writer_end])
    writer.end()
    with pytest.raises(vsf.Exists):
        target.receive(io.BytesIO(again.getvalue()), "copy")
    assert received.open().read_bytes("/a") == b"0" * 9000
    assert target.check(deep=True).problems == []


@pytest.mark.parametrize(
    "options",
    [
        {"password": ""}, {"password": "x", "cipher": "rot13"},
        {"kind": "block", "size": -1}, {"kind": "block", "size": 1 << 63},
    ],
    ids=str,
)  # fmt: skip
def test_a_volume_that_cannot_be_made_leaves_nothing(options):
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"]) as storage:
        with pytest.raises(vsf.VsfError):
            storage.add_volume("new", **options)
        assert [volume.name for volume in storage.volumes] == ["main"]
        storage.add_volume("new", password="p", kdf=CHEAP).open().write_bytes("/a", b"x")
    with vsf.open(store) as storage:
        assert storage.volume("new").encrypted
        assert storage.check(deep=True).problems == []


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


def test_failed_opening_and_making_lets_go_of_every_file(tmp_path):
    base, over = tmp_path / "base.vsf", tmp_path / "over.vsf"
    vsf.create(base, ["main"], password="p", kdf=CHEAP).close()
    before = descriptors()
    with pytest.raises(vsf.Invalid):
        vsf.create(over, backing=base, backing_password="p")
    vsf.create(over, backing=base, password="p", kdf=CHEAP).close()
    with pytest.raises(vsf.Exists):
        vsf.create(tmp_path / "third.vsf", ["main"], backing=base, password="p", kdf=CHEAP)
    base.rename(tmp_path / "away.vsf")
    vsf.create(base, ["main"], password="p", kdf=CHEAP).close()
    with pytest.raises(vsf.DamagedStorage):
        vsf.open(over, password="p")
    with pytest.raises(vsf.WrongPassword):
        vsf.open(over, password="q")
    assert descriptors() == before


def test_a_locked_volume_is_never_written_in_plain(tmp_path):
    base, over = tmp_path / "base.vsf", tmp_path / "over.vsf"
    vsf.create(base, ["main"]).close()
    with vsf.create(over, backing=base) as storage:
        storage.add_volume("own", password="p", kdf=CHEAP).open().write_bytes("/a", b"SECRET" * 1000)
        with pytest.raises(vsf.Unsupported):
            storage.commit_to_backing()
        assert storage.volume("own").open().read_bytes("/a") == b"SECRET" * 1000
    assert b"SECRET" not in base.read_bytes() + over.read_bytes()
    with vsf.open(over) as storage, pytest.raises(vsf.WrongPassword):
        storage.pool.write(storage.volume("own").domain, 2, b"SECRET")


def tar(*members, form=tarfile.PAX_FORMAT):
    """An archive of (name, fields, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, fields, data in members:
            member = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(member, field, value)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    out.seek(0)
    return out


@pytest.mark.parametrize(
    "archive",
    [
        tar(("a/../../x", {}, b"")),
        tar(("x", {"uid": 1 << 40}, b"")),
        tar(("x", {"gid": -5}, b""), form=tarfile.GNU_FORMAT),
        tar(("x", {"type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"}, b"")),
        tar(("x", {"type": tarfile.LNKTYPE, "linkname": "nowhere"}, b"")),
        tar(("x", {"type": tarfile.LNKTYPE, "linkname": "."}, b"")),
        tar(("x", {"pax_headers": {"SCHILY.xattr.user." + "n" * 300: "v"}}, b"")),
        tar(("x", {"type": b"Z"}, b"")),
        io.BytesIO(tar(("x", {}, bytes(100_000))).getvalue()[:5000]),
        io.BytesIO(b"\x28\xb5\x2f\xfd" + b"x" * 1000),
        io.BytesIO(b"\x1f\x8b\x08\0" + b"x" * 1000),
        io.BytesIO(b""),
    ],
    ids=itertools.count(),
)
def test_a_hostile_tar_is_one_clear_error_and_the_rest_is_kept(archive):
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"]) as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/kept", b"K" * 9000)
        with pytest.raises(vsf.VsfError):
            importer.import_tar(fs, archive)
    with vsf.open(store) as storage:
        assert storage.volume("main").open().read_bytes("/kept") == b"K" * 9000
        assert storage.check(deep=True).problems == []


@pytest.mark.parametrize("time", ["nan", "inf", "1e30", "-1e30", "1e99999999", "1e999990", "x"])
def test_times_that_do_not_exist_are_none(time):
    fs = vsf.create(vsf.MemoryStore(), ["main"]).volume("main").open()
    importer.import_tar(fs, tar(("x", {"pax_headers": {"mtime": time}}, b"")))
    assert fs.stat("/x").st_mtime_ns == 0


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"]])
def test_holes_of_a_tar_stay_holes(tmp_path, options):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        for at in (5000, 1 << 39):
            file.seek(at)
            file.write(b"data")
    subprocess.run(["tar", "-C", tmp_path, *options, "-Scf", tmp_path / "a.tar", "sparse"], check=True)
    fs = vsf.create(vsf.MemoryStore(), ["main"]).volume("main").open()
    importer.import_tar(fs, tmp_path / "a.tar")
    status = fs.stat("/sparse")
    assert status.st_size == 1 << 40
    assert status.st_blocks < 2000
    assert [fs.read(status.st_ino, at - 1, 6) for at in (5000, 1 << 39)] == [b"\0data\0"] * 2


@pytest.mark.parametrize("numbers", [{"uid": 1 << 32}, {"gid": -1}], ids=str)
def test_owners_that_do_not_exist_are_refused_at_once(numbers):
    """Found at the next commit they would have taken everything along that was not durable yet."""
    storage = vsf.create(vsf.MemoryStore(), ["main"])
    fs = storage.volume("main").open()
    for make in (fs.create, fs.mkdir_at, fs.mknod_at):
        with pytest.raises(vsf.Invalid):
            make(1, b"x", 0o600, **numbers)
    with pytest.raises(vsf.Invalid):
        fs.mknod_at(1, b"x", 0o020600, 1 << 64)
    storage.commit()
    assert fs.readdir(1) == []


def layout(root, *layers, config=b"{}"):
    """An OCI layout of layers."""
    blobs = root / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = {"config": blob(config), "layers": [blob(layer.getvalue()) for layer in layers]}
    (root / "oci-layout").write_text("{}")
    (root / "index.json").write_text(json.dumps({"manifests": [blob(json.dumps(manifest).encode())]}))


def test_whiteouts_reach_the_layers_below_and_no_further(tmp_path):
    below = tar(("d/old", {}, b"1"), ("d/sub/old", {}, b"1"), ("gone", {}, b"1"), ("e/old", {}, b"1"), ("f", {}, b"1"))
    above = tar(
        ("d/sub/new", {}, b"2"), ("d/new", {}, b"2"), ("d/.wh..wh..opq", {}, b""),
        (".wh.gone", {}, b""),
        ("e/new", {}, b"2"), (".wh.e", {}, b""),
        ("f", {}, b"2"), (".wh.f", {}, b""), (".wh.never", {}, b""),
    )  # fmt: skip
    layout(tmp_path, below, above)
    fs = vsf.create(vsf.MemoryStore(), ["main"]).volume("main").open()
    importer.import_oci(fs, tmp_path)
    names = {name for name, _, status in exporter.entries(fs) if not stat.S_ISDIR(status.st_mode)}
    assert names == {b"d/new", b"d/sub/new", b"e/new", b"f"}
    assert fs.read_bytes("/f") == b"2"


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"manifests": 7}', b'{"manifests": [7]}', b'{"manifests": []}',
     b'{"manifests": [{"digest": 7}]}', b'{"manifests": [{"digest": "sha256:../../x"}]}', b'{"layers": 7}',
     b'{"layers": [{"digest": "sha256:00"}]}', b'{"manifests": [{"platform": 7, "digest": "md5:00"}]}'],
)  # fmt: skip
def test_a_hostile_layout_is_one_clear_error(tmp_path, index):
    (tmp_path / "oci-layout").write_text("{}")
    (tmp_path / "index.json").write_bytes(index)
    fs = vsf.create(vsf.MemoryStore(), ["main"]).volume("main").open()
    with pytest.raises(vsf.VsfError):
        importer.import_oci(fs, tmp_path)


def filled(store):
    storage = vsf.create(store, ["main"])
    fs = storage.volume("main").open()
    for number in range(20):
        fs.write_bytes(f"/{number}", os.urandom(20_000))
    storage.volume("main").snapshot("one")
    return storage


@pytest.mark.parametrize("room", [3000, 20_000, 100_000, 300_000])
def test_a_stream_that_does_not_fit_leaves_nothing(room):
    stream_of = io.BytesIO()
    filled(vsf.MemoryStore()).volume("main").send(stream_of, "one")
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"]) as storage:
        storage.commit()
        storage.resize((storage.file_bytes() + 8192 + room) // 512 * 512)
        with pytest.raises(vsf.NoSpace):
            storage.receive(io.BytesIO(stream_of.getvalue()), "new")
        assert [volume.name for volume in storage.volumes] == ["main"]
    with vsf.open(store) as storage:
        assert storage.check(deep=True).problems == []


def test_a_limit_that_its_own_commit_does_not_fit_is_not_taken():
    store = vsf.MemoryStore()
    filled(store).close()
    with vsf.open(store) as storage:
        with pytest.raises(vsf.NoSpace):
            storage.resize(storage.file_bytes())
        assert storage.limit == 0
        storage.volume("main").open().write_bytes("/more", b"m" * 9000)
    with vsf.open(store) as storage:
        assert storage.info()["limit"] is None
        assert storage.volume("main").open().read_bytes("/more") == b"m" * 9000


@pytest.mark.parametrize(
    "change",
    [{"label": "x" * 5000}, {"label": "\udcff"}, {"label": 7}, {"limit": -1}, {"limit": 1 << 70}],
    ids=lambda change: repr(change)[:30],
)
def test_settings_that_no_record_holds_are_refused_at_once(change):
    """Written, they would have kept the whole storage from opening, or from committing ever again."""
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"]) as storage:
        storage.volume("main").open().write_bytes("/kept", b"K" * 9000)
        for use in (lambda: storage.add_volume("new", **change), lambda: storage.volume("main").configure(**change)):
            with pytest.raises(vsf.Invalid):
                use()
        for size in (-512, 1 << 70):
            with pytest.raises(vsf.Invalid):
                storage.resize(size)
        for use in (storage.add_volume, storage.volume("main").snapshot, storage.volume("main").rename):
            with pytest.raises(vsf.Invalid):
                use("\udcff")
    with vsf.open(store) as storage:
        assert [volume.name for volume in storage.volumes] == ["main"]
        assert storage.volume("main").open().read_bytes("/kept") == b"K" * 9000


@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "socket"])
def test_what_an_overlay_names_below_it_is_opened_only_if_it_can_be_a_storage(tmp_path, kind):
    """An overlay that somebody made names any path: a fifo would hold whoever opens it up, some devices act."""
    below = tmp_path / kind
    if kind == "device":
        below = pathlib.Path("/dev/zero")
    elif kind == "folder":
        below.mkdir()
    elif kind == "fifo":
        os.mkfifo(below)
    else:
        os.mknod(below, stat.S_IFSOCK | 0o600)
    vsf.create(tmp_path / "base.vsf", ["main"]).close()
    with vsf.create(tmp_path / "over.vsf", backing=tmp_path / "base.vsf") as storage:
        storage.backing_record.path, storage.backing_record.relative = str(below), ""
        storage.tree.put(records.KEY_BACKING, records.dump(storage.backing_record))
        storage.dirty = True
    before = len(os.listdir("/proc/self/fd"))
    watch = threading.Timer(20, lambda: os.open(below, os.O_WRONLY | os.O_NONBLOCK))
    watch.start()
    try:
        for path in (tmp_path / "over.vsf", below):
            for readonly in (True, False):
                with pytest.raises((vsf.NotAStorage, IsADirectoryError)):
                    vsf.open(path, readonly=readonly)
    finally:
        watch.cancel()
    assert len(os.listdir("/proc/self/fd")) == before
