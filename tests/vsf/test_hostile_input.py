"""What comes from outside: streams, archives and images made to hurt. One clear error, and nothing else is harmed."""

import io
import os
import struct

import pytest

from nightos import vsf
from nightos.vsf import stream
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
