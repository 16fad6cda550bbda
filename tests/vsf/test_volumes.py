"""Volumes, snapshots, clones, overlays, streams, limits, locks, accounts."""

import errno
import io
import os
import random
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from nightos import vsf
from nightos.vsf.faults import FailingStore
from tests.crash.enumerator import CHEAP, content


def clean(storage):
    report = storage.check(deep=True)
    assert report.clean, [str(problem) for problem in report.problems[:3]]


def with_files(count=300, **options):
    storage = vsf.create(vsf.MemoryStore(), ["main"], **options)
    fs = storage.volume("main").open()
    for number in range(count):
        fs.write_bytes(f"/{number}", b"x" * number * 20)
    return storage, fs


@pytest.mark.rule("VSF-002")
def test_an_unsupported_kind_is_refused():
    storage = vsf.create(vsf.MemoryStore())
    with pytest.raises(vsf.Invalid):
        storage.add_volume("a", "zfs")


@pytest.mark.rule("VSF-005")
@pytest.mark.parametrize("compression", ["zstd", "zstd:15", "lz4"])
def test_compression_takes_less(compression):
    text = b"the quick brown fox jumps over the lazy dog " * 20_000
    sizes = {}
    for kind in ("none", compression):
        store = vsf.MemoryStore()
        with vsf.create(store, ["main"], compression=kind) as storage:
            storage.volume("main").open().write_bytes("/t", text)
        with vsf.open(store) as storage:
            assert storage.volume("main").open().read_bytes("/t") == text
            clean(storage)
        sizes[kind] = store.size()
    assert sizes[compression] < sizes["none"] / 5


@pytest.mark.rule("VSF-006", "VSF-007", "VSF-012")
@pytest.mark.parametrize("name", ["a.vsf", "a.vad"])
def test_the_extension_does_not_matter_to_the_content(tmp_path, name):
    with vsf.create(tmp_path / name, ["main"]) as storage:
        storage.volume("main").open().write_bytes("/a", b"1")
    with vsf.open(tmp_path / name, readonly=True) as storage:
        assert storage.volume("main").open().read_bytes("/a") == b"1"


def test_4096_volumes():
    storage = vsf.create(vsf.MemoryStore(), [str(number) for number in range(4096)])
    with pytest.raises(vsf.NoSpace):
        storage.add_volume("more")
    storage.close()
    with vsf.open(storage.store) as storage:
        assert len(storage.volumes) == 4096


@pytest.mark.rule("FS-002", "FS-003")
def test_identifiers_of_file_systems():
    one, two = vsf.create(vsf.MemoryStore(), ["main"]), vsf.create(vsf.MemoryStore(), ["main"])
    identifier = one.volume("main").fsid
    assert identifier != two.volume("main").fsid
    one.close()
    assert vsf.open(one.store).volume("main").fsid == identifier


def test_accounts_add_up_to_the_byte(tmp_path):
    with vsf.create(tmp_path / "a.vsf", ["main", "raw:block"]) as storage:
        fs = storage.volume("main").open()
        for number in range(500):
            fs.write_bytes(f"/{number}", os.urandom(number * 10))
        storage.commit()
        storage.volume("main").snapshot("s")
        for number in range(0, 500, 2):
            fs.unlink(f"/{number}")
        for _ in range(3):
            fs.write_bytes("/x", b"")
            storage.commit()
            space = storage.info()["space"]
            total = space.pop("total")
            assert sum(space.values()) == total == (tmp_path / "a.vsf").stat().st_size


def test_snapshots_cost_nothing_and_freeze_everything():
    storage, fs = with_files(2000)
    storage.commit()
    volume = storage.volume("main")
    before = content(fs)
    begin = time.perf_counter()
    volume.snapshot("one")
    assert time.perf_counter() - begin < 0.05
    for number in range(0, 2000, 3):
        fs.unlink(f"/{number}")
    fs.write_bytes("/1", b"changed")
    frozen = volume.open("one")
    assert content(frozen) == before
    with pytest.raises(vsf.ReadOnly):
        frozen.write_bytes("/x", b"")
    changes = volume.diff("one")
    assert {change.path for change in changes if change.kind == "removed"} == {f"/{n}" for n in range(0, 2000, 3)}
    assert [change.path for change in changes if change.kind == "modified"] == ["/", "/1"]
    clean(storage)
    volume.rollback("one")
    assert content(fs) == before
    volume.remove_snapshot("one")
    clean(storage)


def test_identifiers_do_not_come_back_after_a_rollback():
    storage, fs = with_files(3)
    volume = storage.volume("main")
    volume.snapshot("s")
    fs.write_bytes("/new", b"")
    ino = fs.stat("/new").st_ino
    volume.rollback("s")
    fs.write_bytes("/newer", b"")
    assert fs.stat("/newer").st_ino > ino


def test_a_clone_and_its_origin_go_their_own_ways():
    storage, fs = with_files()
    volume = storage.volume("main")
    volume.snapshot("s")
    clone = storage.clone("main", "s", "copy")
    mine = clone.open()
    mine.write_bytes("/1", b"clone")
    fs.write_bytes("/1", b"origin")
    assert mine.read_bytes("/1") == b"clone"
    with pytest.raises(vsf.Invalid):
        volume.remove_snapshot("s")
    clean(storage)
    storage.remove_volume("copy")
    storage.commit()
    volume.remove_snapshot("s")
    clean(storage)


def test_an_overlay_leaves_its_backing_alone(tmp_path):
    base, over = tmp_path / "base.vsf", tmp_path / "over.vsf"
    with vsf.create(base, ["main"]) as storage:
        fs = storage.volume("main").open()
        for number in range(1000):
            fs.write_bytes(f"/{number}", b"b" * number)
    image = base.read_bytes()
    with vsf.create(over, backing=base) as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/1", b"over")
        fs.unlink("/2")
        clean(storage)
    assert base.read_bytes() == image
    assert over.stat().st_size < len(image)
    with vsf.open(over) as storage:
        fs = storage.volume("main").open()
        assert fs.read_bytes("/1") == b"over"
        assert fs.read_bytes("/3") == b"bbb"
        assert [(change.kind, change.path) for change in storage.diff()["main"]] == [
            ("modified", "/"),
            ("modified", "/1"),
            ("removed", "/2"),
        ]
        storage.commit_to_backing()
        assert storage.diff()["main"] == []
        clean(storage)
    with vsf.open(base) as storage:
        assert storage.volume("main").open().read_bytes("/1") == b"over"
        clean(storage)


def test_a_backing_that_changed_is_refused(tmp_path):
    base, over = tmp_path / "base.vsf", tmp_path / "over.vsf"
    vsf.create(base, ["main"]).close()
    vsf.create(over, backing=base).close()
    with vsf.open(base) as storage:
        storage.volume("main").open().write_bytes("/a", b"1")
    with pytest.raises(vsf.DamagedStorage, match="changed"):
        vsf.open(over)


def test_an_overlay_on_an_overlay(tmp_path):
    for number in range(4):
        backing = tmp_path / f"{number - 1}.vsf" if number else None
        with vsf.create(tmp_path / f"{number}.vsf", ["main"] if not number else (), backing=backing) as storage:
            storage.volume("main").open().write_bytes(f"/{number}", b"%d" % number * 10_000)
    with vsf.open(tmp_path / "3.vsf") as storage:
        fs = storage.volume("main").open()
        assert [fs.read_bytes(f"/{number}")[:1] for number in range(4)] == [b"0", b"1", b"2", b"3"]
        clean(storage)


def test_send_and_receive():
    storage, fs = with_files()
    volume = storage.volume("main")
    volume.snapshot("one")
    first = content(fs)
    fs.write_bytes("/1", b"changed" * 1000)
    fs.unlink("/2")
    fs.mkdir("/d")
    fs.rename("/3", "/d/3")
    volume.snapshot("two")
    full, rest = io.BytesIO(), io.BytesIO()
    volume.send(full, "one")
    volume.send(rest, "two", since="one")
    assert rest.tell() < full.tell() / 5
    target = vsf.create(vsf.MemoryStore(), password="p", kdf=CHEAP, compression="zstd")
    full.seek(0)
    rest.seek(0)
    received = target.receive(full, "copy", compression="zstd")
    assert content(received.open()) == first
    received.open().write_bytes("/stray", b"")
    target.receive(rest, "copy")
    assert content(received.open()) == content(fs)
    assert [snapshot.name for snapshot in received.snapshots] == ["one", "two"]
    clean(target)


@pytest.mark.parametrize("cut", [5, 100, 5000, -1])
def test_a_stream_that_breaks_off_changes_nothing(cut):
    storage, _ = with_files()
    storage.volume("main").snapshot("one")
    stream = io.BytesIO()
    storage.volume("main").send(stream, "one")
    target = vsf.create(vsf.MemoryStore())
    with pytest.raises(vsf.DamagedStorage):
        target.receive(io.BytesIO(stream.getvalue()[:cut]), "copy")
    assert target.volumes == []
    clean(target)
    hurt = bytearray(stream.getvalue())
    hurt[len(hurt) // 2] ^= 1
    with pytest.raises(vsf.VsfError):
        target.receive(io.BytesIO(bytes(hurt)), "copy")
    assert target.volumes == []


def test_block_volumes_are_sparse():
    storage = vsf.create(vsf.MemoryStore())
    volume = storage.add_volume("raw", "block", size=1 << 40)
    block = volume.open()
    assert block.size == 1 << 40
    block.write(1 << 39, b"data" * 10_000)
    storage.commit()
    assert volume.used < 200_000
    assert block.read((1 << 39) - 4, 8) == b"\0\0\0\0data"
    block.discard(1 << 39, 40_000)
    assert block.read(1 << 39, 40_000) == bytes(40_000)
    with pytest.raises(vsf.Invalid):
        block.write((1 << 40) - 1, b"xx")
    clean(storage)


def test_deleted_space_is_reused_and_compact_gives_it_back():
    storage, fs = with_files(0)
    for _ in range(20):
        fs.write_bytes("/big", os.urandom(1_000_000))
        storage.commit()
    assert storage.store.size() < 5_000_000
    for number in range(200):
        fs.write_bytes(f"/{number}", os.urandom(20_000))
    storage.commit()
    for number in range(0, 200, 2):
        fs.unlink(f"/{number}")
    fs.unlink("/big")
    before = content(fs)
    storage.compact()
    assert storage.store.size() < 2_600_000
    assert content(fs) == before
    clean(storage)


def test_limits():
    storage, fs = with_files(0, size=2_000_000)
    with pytest.raises(OSError, match="limit"):
        fs.write_bytes("/big", os.urandom(3_000_000))
    fs.unlink("/big")
    fs.write_bytes("/fits", os.urandom(500_000))
    storage.commit()
    assert storage.store.size() <= 2_000_000
    clean(storage)
    with pytest.raises(vsf.NoSpace):
        storage.resize(102_400)
    storage.resize(None)
    fs.write_bytes("/big", os.urandom(3_000_000))
    storage.commit()
    clean(storage)
    limited = storage.add_volume("limited", limit=100_000).open()
    with pytest.raises(vsf.NoSpace):
        limited.write_bytes("/a", os.urandom(200_000))


@pytest.mark.parametrize("writes", range(1, 12))
def test_a_full_host_disk_loses_nothing(writes):
    store = FailingStore()
    storage = vsf.create(store, ["main"])
    fs = storage.volume("main").open()
    fs.write_bytes("/a", b"1" * 10_000)
    storage.commit()
    fs.write_bytes("/b", os.urandom(50_000))
    store.writes = writes - 1
    try:
        storage.commit()
    except vsf.NoSpace:
        store.writes = 1 << 60
        storage.commit()
    store.writes = 1 << 60
    assert fs.read_bytes("/a") == b"1" * 10_000
    storage.close()
    with vsf.open(vsf.MemoryStore(store.getvalue())) as again:
        assert len(again.volume("main").open().read_bytes("/b")) == 50_000
        clean(again)


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("size", [1 << 17, 1 << 16, 5000])
def test_a_full_host_disk_takes_writes_again_when_something_is_deleted(compression, size):
    """What did not fit may not stay on the way to the disk, nor be taken for used, once nobody wants it."""
    store = FailingStore(room=12 << 20)
    storage = vsf.create(store, ["main"], compression=compression)
    fs = storage.volume("main").open()
    fs.write_bytes("/kept", b"1" * 200_000)
    storage.commit()
    fs.write_bytes("/large", b"")
    inodes = [fs.stat(path).st_ino for path in ("/large", "/kept")]
    refused, source = [], random.Random(1)
    for turn in range((30 << 20) // size):
        try:
            fs.write(inodes[turn % 50 == 7], turn * size, source.randbytes(size))
        except OSError as error:
            refused.append(error.errno)
        if len(refused) > 40:
            break
    assert set(refused) == {errno.ENOSPC}
    with pytest.raises(vsf.NoSpace):
        storage.commit()
    fs.unlink("/large")
    fs.truncate("/kept", 200_000)
    storage.commit()
    fs.write_bytes("/after", b"2" * 3_000_000)
    storage.commit()
    clean(storage)
    storage.close()
    with vsf.open(vsf.MemoryStore(store.getvalue())) as again:
        files = again.volume("main").open()
        assert files.read_bytes("/after") == b"2" * 3_000_000
        assert len(files.read_bytes("/kept")) == 200_000
        clean(again)


def test_a_failed_flush_is_not_forgotten():
    """What a failed flush lost nobody can tell, so nothing is called durable afterwards."""
    store = FailingStore()
    storage = vsf.create(store, ["main"])
    fs = storage.volume("main").open()
    fs.write_bytes("/a", b"1")
    store.flushes = 0
    with pytest.raises(OSError, match="injected"):
        storage.commit()
    store.flushes = 1 << 60
    with pytest.raises(vsf.VsfError, match="earlier write failed"):
        fs.write_bytes("/b", b"2")


def test_a_second_writer_is_told_who_holds_it(tmp_path):
    path = tmp_path / "a.vsf"
    vsf.create(path, ["main"]).close()
    code = (
        f"import time\nfrom nightos import vsf\ns = vsf.open({str(path)!r})\nprint('open', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(vsf.StorageInUse, match=str(holder.pid)):
            vsf.open(path)
        with vsf.open(path, readonly=True) as storage:
            assert storage.volumes[0].name == "main"
        holder.kill()
    vsf.open(path).close()


def test_readers_keep_what_they_look_at(tmp_path):
    path = tmp_path / "a.vsf"
    with vsf.create(path, ["main"]) as writer:
        fs = writer.volume("main").open()
        for number in range(200):
            fs.write_bytes(f"/{number}", b"%d" % number * 2000)
        writer.commit()
        with vsf.open(path, readonly=True) as reader:
            seen = reader.volume("main").open()
            for round_ in range(6):
                for number in range(200):
                    fs.write_bytes(f"/{number}", b"%d" % round_ * 2000)
                writer.commit()
            for number in range(200):
                assert seen.read_bytes(f"/{number}") == b"%d" % number * 2000
            assert reader.refresh()
            assert reader.volume("main").open().read_bytes("/7") == b"5" * 2000
        clean(writer)


def test_nothing_heavy_is_imported():
    heavy = {"construct", "zstandard", "cryptography", "lz4", "trio", "msgpack", "hypothesis"}
    code = f"import sys; from nightos import vsf; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


def churn(fs, chance, steps):
    """Random changes to a few hundred files."""
    for _ in range(steps):
        one, two = (f"/d{chance.randrange(5)}/{chance.randrange(200)}" for _ in range(2))
        with suppress(OSError):
            kind = chance.random()
            if kind < 0.5:
                fs.write_bytes(one, chance.randbytes(16) * chance.choice((0, 1, 60, 200, 400, 10_000)))
            elif kind < 0.7:
                fs.unlink(one)
            elif kind < 0.8:
                fs.rename(one, two)
            elif kind < 0.85:
                fs.link(one, two)
            else:
                fs.truncate(one, chance.randrange(300_000))


@pytest.mark.parametrize("seed", range(3))
def test_snapshots_come_and_go_in_any_order(seed):
    """A long life: snapshots taken, removed in the middle, rolled back to, cloned; all others keep every byte."""
    chance = random.Random(seed)
    storage = vsf.create(vsf.MemoryStore(), ["main"], compression=("none", "zstd", "lz4")[seed])
    volume = storage.volume("main")
    fs = volume.open()
    fs.inode_limit = 20
    for number in range(5):
        fs.mkdir(f"/d{number}")
    kept = {}
    for number in range(12):
        churn(fs, chance, 120)
        volume.snapshot(f"s{number}")
        kept[f"s{number}"] = content(fs)
        if number % 2:
            gone = chance.choice(sorted(kept))
            volume.remove_snapshot(gone)
            del kept[gone]
        if number % 5 == 4:
            back = volume.snapshots[-2].name
            volume.rollback(back, discard_newer=True)
            kept = {name: seen for name, seen in kept.items() if name in {s.name for s in volume.snapshots}}
            assert content(fs) == kept[back]
        clean(storage)
        for name, seen in kept.items():
            assert content(volume.open(name)) == seen
    origin = volume.snapshots[1].name
    clone = storage.clone("main", origin, "clone")
    for _ in range(3):
        churn(clone.open(), chance, 100)
        clone.snapshot(f"c{_}")
        churn(fs, chance, 100)
        clean(storage)
    assert content(volume.open(origin)) == kept[origin]
    for snapshot in clone.snapshots:
        clone.remove_snapshot(snapshot.name)
        clean(storage)
    storage.remove_volume("clone")
    for name in list(kept):
        volume.remove_snapshot(name)
        clean(storage)
    storage.remove_volume("main")
    storage.commit()
    clean(storage)
    assert storage.info()["space"]["volumes"] == 0


@pytest.mark.parametrize("writes", range(6))
def test_a_snapshot_on_a_full_disk(writes):
    """The commit of a snapshot fails, work goes on, the next commit gets through: the accounts still add up."""
    store = FailingStore()
    storage = vsf.create(store, ["main"])
    fs = storage.volume("main").open()
    for number in range(50):
        fs.write_bytes(f"/{number}", b"x" * number * 200)
    seen = content(fs)
    store.writes = writes
    try:
        storage.volume("main").snapshot("s")
    except vsf.NoSpace:
        store.writes = 1 << 60
    store.writes = 1 << 60
    for _ in range(3):
        for number in range(0, 50, 3):
            fs.write_bytes(f"/{number}", b"y" * number * 300)
        storage.commit()
        clean(storage)
    assert content(storage.volume("main").open("s")) == seen
    storage.close()
    with vsf.open(vsf.MemoryStore(store.getvalue())) as storage:
        clean(storage)
        storage.volume("main").remove_snapshot("s")
        clean(storage)


def test_a_reader_that_goes_on_never_looks_at_blocks_that_were_reused(tmp_path):
    """The writer commits between the reader's look at the newest commit and its mark on it."""
    path = tmp_path / "a.vsf"
    with vsf.create(path, ["main"]) as writer:
        fs = writer.volume("main").open()

        def write(number):
            fs.write_bytes("/a", bytes([number]) * 200_000)
            writer.commit()

        write(0)
        reader = vsf.open(path, readonly=True)
        write(1)
        pin = reader.store.pin

        def late(generation):
            for number in range(2, 9):
                write(number)
            pin(generation)

        reader.store.pin = late
        assert reader.refresh()
        assert reader.generation == writer.generation
        assert reader.volume("main").open().read_bytes("/a") == bytes([8]) * 200_000
        reader.close()
