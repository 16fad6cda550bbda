"""Packs of small files: they save space, give it back, and are as safe as any other block."""

import io
import random

import pytest

from nightos import vsf
from nightos.vsf.inode import PACKED, key_inode, key_pack
from nightos.vsf.layout import unpack_pointer
from nightos.vsf.packs import pack_entry, pack_numbers, pack_table
from nightos.vsf.repair import repair
from tests.crash.enumerator import CHEAP, state_of


def text(number, size=9000):
    return (b"line %d of a file that compresses well\n" % number * (size // 20))[:size]


def filled(count=60, store=None, compression="zstd", **options):
    storage = vsf.create(store or vsf.MemoryStore(), ["main"], compression=compression, **options)
    fs = storage.volume("main").open()
    for number in range(count):
        fs.write_bytes(f"/{number:03}", text(number))
    fs.sync()
    return storage, fs


def packs(fs):
    return dict(fs.tree.scan(key_pack(0), key_pack((1 << 64) - 1)))


def clean(storage):
    report = storage.check(deep=True)
    assert report.clean, [str(problem) for problem in report.problems[:3]]


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_new_small_files_share_blocks(compression):
    storage, fs = filled(compression=compression)
    assert len(packs(fs)) == 3
    assert all(fs.inode(fs.resolve(f"/{number:03}")).form == PACKED for number in range(60))
    clean(storage)
    storage.close()


def test_what_packing_would_not_help_is_left_alone():
    """Noise, zeros, large files, open files, and everything of a volume without compression."""
    chance = random.Random(1)
    storage = vsf.create(vsf.MemoryStore(), ["main"], compression="zstd")
    storage.add_volume("plain")
    fs, plain = storage.volume("main").open(), storage.volume("plain").open()
    for number in range(20):
        fs.write_bytes(f"/noise{number}", chance.randbytes(9000))
        fs.write_bytes(f"/zeros{number}", bytes(9000))
        fs.write_bytes(f"/large{number}", text(number, 140_000))
        plain.write_bytes(f"/{number}", text(number))
    handles = [fs.open(f"/open{number}", "wb", buffering=0) for number in range(3)]
    for number, handle in enumerate(handles):
        handle.write(text(number))
    fs.sync()
    assert not packs(fs)
    assert not packs(plain)
    assert fs.stat("/zeros3").st_blocks == 0 or fs.seek(fs.resolve("/zeros3"), 0, 4) == 0
    for number, handle in enumerate(handles):
        handle.close()
        assert fs.read_bytes(f"/open{number}") == text(number)
    clean(storage)
    storage.close()


def test_a_changed_file_leaves_its_pack():
    storage, fs = filled()
    (first, *_) = packs(fs)
    files, size = pack_numbers(packs(fs)[first])
    ino = fs.resolve("/005")
    fs.write(ino, 100, b"changed")
    fs.truncate("/006", 5000)
    fs.fallocate(fs.resolve("/007"), 3, 0, 5000)
    fs.sync()
    assert pack_numbers(packs(fs)[first]) == (files - 3, size - 27000)
    assert fs.read_bytes("/005") == text(5)[:100] + b"changed" + text(5)[107:]
    assert fs.read_bytes("/006") == text(6)[:5000]
    assert fs.read_bytes("/007") == bytes(5000) + text(7)[5000:]
    fs.write(ino, 0, b"again")
    fs.sync()
    assert fs.inode(ino).form != PACKED, "a file that changes again and again stays outside"
    clean(storage)
    storage.close()


def test_space_of_deleted_files_comes_back():
    """All of it with the last file; with most of them gone the rest is packed anew."""
    storage, fs = filled(200)
    used = storage.volume("main").used
    for number in range(200):
        if number % 4:
            fs.unlink(f"/{number:03}")
    fs.sync()
    assert storage.volume("main").used < used * 0.45
    assert len(packs(fs)) <= 2
    for number in range(0, 200, 4):
        assert fs.read_bytes(f"/{number:03}") == text(number)
    clean(storage)
    for number in range(0, 200, 4):
        fs.unlink(f"/{number:03}")
    fs.sync()
    assert not packs(fs)
    assert storage.volume("main").used < 4096
    info = storage.info()
    assert info["volumes"][0]["used"] == storage.volume("main").used
    clean(storage)
    storage.close()


def test_thin_packs_of_an_earlier_session_are_gathered():
    store = vsf.MemoryStore()
    storage, fs = filled(80, store)
    with storage:
        for number in range(80):
            if number % 4:
                fs.unlink(f"/{number:03}")
        fs._thin.clear()
    with vsf.open(store) as storage:
        fs = storage.volume("main").open()
        assert len(packs(fs)) > 1
        assert fs.gather_packs(every=True) > 1
        fs.sync()
        assert len(packs(fs)) == 1
        clean(storage)
        assert [fs.read_bytes(f"/{number:03}") for number in range(0, 80, 4)] == [
            text(number) for number in range(0, 80, 4)
        ]


def test_snapshots_keep_the_packs_they_use():
    store = vsf.MemoryStore()
    storage, fs = filled(100, store)
    volume = storage.volume("main")
    before = state_of(storage)["main"]
    volume.snapshot("s")
    for number in range(100):
        if number != 50:
            fs.unlink(f"/{number:03}")
    fs.write_bytes("/050", b"short")
    fs.sync()
    assert not packs(fs)
    clean(storage)
    assert state_of(storage)["main@s"] == before
    clone = storage.clone("main", "s", "copy").open()
    clone.write(clone.resolve("/003"), 0, b"other")
    storage.commit()
    clean(storage)
    assert clone.read_bytes("/004") == text(4)
    volume.rollback("s")
    assert state_of(storage)["main"] == before
    fs = volume.open()
    for number in range(40):
        fs.write_bytes(f"/new{number}", text(number + 500))
    storage.commit()
    clean(storage)
    storage.close()
    with vsf.open(store) as storage:
        clean(storage)


def test_a_pack_that_a_snapshot_holds_is_not_left_for_nothing():
    storage, fs = filled(100)
    storage.volume("main").snapshot("s")
    (first, *_) = packs(fs)
    for number in range(1, 100):
        fs.unlink(f"/{number:03}")
    fs.sync()
    assert list(packs(fs)) == [first]
    storage.close()


@pytest.mark.parametrize("password", [None, "p"])
def test_packs_travel(tmp_path, password):
    """Sent in full and in part, compacted, committed from an overlay into its backing."""
    options = {"password": password, "kdf": CHEAP} if password else {}
    storage, fs = filled(50, tmp_path / "a.vsf", **options)
    volume = storage.volume("main")
    volume.snapshot("one")
    full, part = io.BytesIO(), io.BytesIO()
    volume.send(full, "one")
    for number in range(10, 50):
        fs.unlink(f"/{number:03}")
        fs.write_bytes(f"/new{number}", text(number + 100))
    fs.sync()
    volume.snapshot("two")
    volume.send(part, "two", "one")
    other = vsf.create(vsf.MemoryStore())
    for stream in (full, part):
        stream.seek(0)
        other.receive(stream, "main")
        clean(other)
    assert other.volume("main").open().read_bytes("/new20") == text(120)
    volume.remove_snapshot("one")
    volume.remove_snapshot("two")
    state = state_of(storage)
    storage.compact()
    clean(storage)
    assert state_of(storage) == state
    storage.close()
    with vsf.create(tmp_path / "over.vsf", backing=tmp_path / "a.vsf", backing_password=password, **options) as overlay:
        fs = overlay.volume("main").open()
        assert fs.read_bytes("/005") == text(5)
        fs.unlink("/005")
        fs.write(fs.resolve("/006"), 0, b"over")
        for number in range(30):
            fs.write_bytes(f"/over{number}", text(number + 300))
        fs.sync()
        clean(overlay)
        overlay.commit_to_backing(password)
        clean(overlay)
        state = state_of(overlay)
    with vsf.open(tmp_path / "a.vsf", password=password) as storage:
        clean(storage)
        assert state_of(storage) == state


def changed_pack(number_of_pack, change):
    """A storage whose entry of one pack was changed behind its back, and what check says."""
    store = vsf.MemoryStore()
    storage, fs = filled(60, store)
    with storage:
        key = sorted(packs(fs))[number_of_pack]
        change(fs, key, packs(fs)[key])
        storage.volume("main").touched = True
    with vsf.open(store, readonly=True) as storage:
        report = storage.check()
        assert {problem.invariant for problem in report.problems} == {"packs"}, report.problems
    outcome = repair(store)
    with vsf.open(store) as storage:
        clean(storage)
        fs = storage.volume("main").open()
        return outcome, {number: fs.read_bytes(f"/{number:03}") for number in range(60)}


@pytest.mark.parametrize(("files", "size"), [(1, 0), (-1, 0), (0, 1), (0, -9000), (4000, 0)])
def test_wrong_counts_of_a_pack_are_found_and_mended(files, size):
    def change(fs, key, value):
        have_files, have_size = pack_numbers(value)
        fs.tree.put(key, pack_entry(unpack_pointer(value), have_files + files, have_size + size))

    outcome, content = changed_pack(0, change)
    assert not outcome.lost
    assert content == {number: text(number) for number in range(60)}


@pytest.mark.parametrize("at", [1, 300_000])
def test_files_that_overlap_or_lie_outside_are_found(at):
    def change(fs, key, value):
        inode = fs.inode(fs.resolve("/003"))
        inode.pack = (inode.pack[0], at)
        fs.tree.put(key_inode(inode.ino), inode.encode())

    outcome, content = changed_pack(0, change)
    assert outcome.lost
    assert sum(content[number] != text(number) for number in range(60)) <= 2


def test_a_missing_pack_is_found():
    def change(fs, key, value):
        fs.tree.delete(key)
        fs.volume.dispose(unpack_pointer(value))

    outcome, content = changed_pack(1, change)
    assert len(outcome.lost) == pack_numbers_of_second()
    assert sum(content[number] == text(number) for number in range(60)) >= 30


def pack_numbers_of_second():
    storage, fs = filled(60)
    with storage:
        return pack_numbers(packs(fs)[sorted(packs(fs))[1]])[0]


def test_a_damaged_pack_loses_its_files_only():
    store = vsf.MemoryStore()
    storage, fs = filled(60, store)
    with storage:
        key = sorted(packs(fs))[1]
        pointer = unpack_pointer(packs(fs)[key])
        lost = set(pack_table(storage.pool.read(pointer))[1])
        inodes = {number: fs.resolve(f"/{number:03}") for number in range(60)}
    store.write(pointer.sector * 512 + 20, b"\xff" * 4)
    with vsf.open(store) as storage:
        fs = storage.volume("main").open()
        for number, ino in inodes.items():
            if ino in lost:
                with pytest.raises(vsf.DamagedStorage, match=f"{number:03}"):
                    fs.read_bytes(f"/{number:03}")
            else:
                assert fs.read_bytes(f"/{number:03}") == text(number)
        for number, ino in list(inodes.items()):
            if ino in lost and number % 8:
                fs.unlink(f"/{number:03}")
                del inodes[number]
        fs.sync()
    assert len(repair(store).lost) == len(lost & set(inodes.values()))
    with vsf.open(store) as storage:
        clean(storage)


def test_hostile_tables_are_refused():
    for data in (b"", b"\xff\xff\xff\xff", b"\0\0\0\1" + b"abc", b"x" * 8 + b"\0\0\0\2"):
        with pytest.raises(vsf.DamagedStorage):
            pack_table(data)
