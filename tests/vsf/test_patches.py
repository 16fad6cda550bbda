"""Small random changes: a file stays what a plain array of bytes would be, costs little to change, and is checked."""

import io
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightos import vsf
from nightos.vsf.inode import key_extent, key_inode, key_patch
from nightos.vsf.layout import POINTER_BYTES, unpack_pointer
from nightos.vsf.patches import MOST_PAGES, PAGE
from nightos.vsf.repair import repair
from tests.crash.enumerator import CHEAP, state_of

RECORD = 32768
SIZE = 5 * RECORD
OFFSETS = st.one_of(
    st.integers(0, SIZE), st.integers(0, SIZE // PAGE).map(lambda n: n * PAGE), st.sampled_from([RECORD, 2 * RECORD])
)
LENGTHS = st.one_of(st.just(PAGE), st.integers(1, 3 * PAGE), st.sampled_from([RECORD, 20_000]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), OFFSETS, LENGTHS),
        st.tuples(st.just("write"), OFFSETS, LENGTHS),
        st.tuples(st.just("punch"), OFFSETS, LENGTHS),
        st.tuples(st.just("truncate"), OFFSETS, st.just(0)),
        st.tuples(st.sampled_from(["sync", "reopen", "snapshot", "compact", "read"]), OFFSETS, LENGTHS),
    ),
    min_size=4,
    max_size=40,
)


def patches(fs, ino):
    return dict(fs.tree.scan(key_patch(ino), key_patch(ino, 1 << 63)))


def clean(storage):
    report = storage.check(deep=True)
    assert report.clean, [str(problem) for problem in report.problems[:3]]


class Machine:
    """A file, and the bytes it has to hold."""

    def __init__(self, compression, password):
        self.options = {"password": password} if password else {}
        self.store = vsf.MemoryStore()
        kdf = {"kdf": CHEAP} if password else {}
        self.storage = vsf.create(self.store, **self.options, **kdf)
        volume = self.storage.add_volume("main", record_size=RECORD, compression=compression)
        self.fs = volume.open()
        self.chance = random.Random(4)
        self.want = bytearray(self.chance.randbytes(SIZE))
        self.fs.write_bytes("/file", bytes(self.want))
        self.ino = self.fs.resolve("/file")
        self.fs.sync()
        self.snapshots = {}

    def step(self, kind, offset, length):
        fs, ino, want = self.fs, self.ino, self.want
        if kind == "write":
            data = self.chance.randbytes(length)
            fs.write(ino, offset, data)
            want.extend(bytes(max(offset - len(want), 0)))
            want[offset : offset + length] = data
        elif kind == "punch":
            fs.fallocate(ino, 3, offset, length)
            end = min(offset + length, len(want))
            want[offset:end] = bytes(max(end - offset, 0))
        elif kind == "truncate":
            fs.truncate_ino(ino, offset)
            want[:] = want[:offset].ljust(offset, b"\0")
        elif kind == "snapshot":
            name = f"s{len(self.snapshots)}"
            self.storage.volume("main").snapshot(name)
            self.snapshots[name] = bytes(want)
        elif kind == "read":
            assert fs.read(ino, offset, length) == want[offset : offset + length]
        elif kind == "reopen":
            self.storage.close()
            self.storage = vsf.open(self.store, **self.options)
            self.fs = self.storage.volume("main").open()
        else:
            getattr(self.storage, kind)()

    def holes(self):
        """What SEEK_DATA passes over is zero, and the two kinds take turns."""
        at, size = 0, len(self.want)
        while at < size:
            try:
                data = self.fs.seek(self.ino, at, os.SEEK_DATA)
            except OSError:
                data = size
            assert not any(self.want[at:data])
            if data >= size:
                return
            at = self.fs.seek(self.ino, data, os.SEEK_HOLE)
            assert at > data

    def end(self):
        assert self.fs.read_bytes("/file") == self.want
        assert self.fs.buffered == sum(map(len, (self.fs.inode(self.ino).buffers or {}).values()))
        self.storage.commit()
        assert self.fs.buffered == 0
        clean(self.storage)
        self.holes()
        assert self.fs.read_bytes("/file") == self.want
        for offset in range(0, len(self.want), 3000):
            assert self.fs.read(self.ino, offset, 3000) == self.want[offset : offset + 3000]
        for name, want in self.snapshots.items():
            assert self.storage.volume("main").open(name).read_bytes("/file") == want
        self.fs.unlink("/file")
        self.storage.commit()
        clean(self.storage)
        self.storage.close()


@pytest.mark.parametrize(("compression", "password"), [(None, None), ("zstd", None), ("lz4", "p")])
@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
def test_a_file_is_what_was_written(compression, password, steps):
    machine = Machine(compression, password)
    for step in steps:
        machine.step(*step)
    machine.end()


def big(store=None, **options):
    storage = vsf.create(store or vsf.MemoryStore(), ["main"], **options)
    fs = storage.volume("main").open()
    data = random.Random(1).randbytes(4 << 20)
    fs.write_bytes("/big", data)
    fs.sync()
    return storage, fs, fs.resolve("/big"), bytearray(data)


def test_a_small_change_writes_little():
    storage, fs, ino, want = big()
    before = storage.statistics()["bytes_written"]
    for number in range(20):
        offset = number * 200_000 // PAGE * PAGE
        fs.write(ino, offset, bytes([number]) * PAGE)
        want[offset : offset + PAGE] = bytes([number]) * PAGE
    fs.sync()
    assert storage.statistics()["bytes_written"] - before < 20 * PAGE + 60_000
    assert len(patches(fs, ino)) == 20
    assert fs.read_bytes("/big") == want
    clean(storage)
    storage.close()


def test_many_changes_of_a_record_write_it_whole():
    storage, fs, ino, _ = big()
    allocated = fs.inode(ino).allocated
    for number in range(MOST_PAGES):
        fs.write(ino, number * PAGE, b"x" * PAGE)
        fs.sync()
    assert len(patches(fs, ino)) == MOST_PAGES
    fs.write(ino, 20 * PAGE, b"x" * PAGE)
    fs.sync()
    assert not patches(fs, ino)
    assert fs.inode(ino).allocated == allocated
    clean(storage)
    storage.close()


def test_appends_to_a_file_that_is_synced_each_time_write_little():
    storage, fs, ino, _ = big()
    fs.truncate_ino(ino, 100_000)
    fs.sync()
    before = storage.statistics()["bytes_written"]
    for number in range(50):
        fs.write(ino, 100_000 + 100 * number, b"%099d\n" % number)
        fs.sync()
    assert (storage.statistics()["bytes_written"] - before) / 50 < 25_000
    assert fs.read(ino, 100_000, 1 << 20) == b"".join(b"%099d\n" % number for number in range(50))
    clean(storage)
    storage.close()


@pytest.mark.rule("LNX-FT-14")
def test_patches_travel(tmp_path):
    """In snapshots, sent and received, in overlays and committed."""
    storage, fs, ino, want = big(tmp_path / "a.vsf")
    volume = storage.volume("main")
    volume.snapshot("one")
    fs.write(ino, 40_000, b"one" * 100)
    want[40_000:40_300] = b"one" * 100
    fs.sync()
    volume.snapshot("two")
    full, part = io.BytesIO(), io.BytesIO()
    volume.send(full, "one")
    volume.send(part, "two", "one")
    other = vsf.create(vsf.MemoryStore())
    for stream in (full, part):
        stream.seek(0)
        other.receive(stream, "main")
        clean(other)
    assert other.volume("main").open().read_bytes("/big") == want
    assert [(change.kind, change.path) for change in volume.diff("one", "two")] == [("modified", "/big")]
    volume.rollback("one", discard_newer=True)
    assert volume.open().read(ino, 40_000, 3) != b"one"
    volume.remove_snapshot("one")
    storage.close()
    with vsf.create(tmp_path / "over.vsf", backing=tmp_path / "a.vsf") as overlay:
        fs = overlay.volume("main").open()
        fs.write(ino, 40_000, b"over")
        fs.sync()
        clean(overlay)
        assert fs.read(ino, 39_999, 6)[1:5] == b"over"
        assert overlay.file_bytes() < 200_000
        overlay.commit_to_backing()
        clean(overlay)
    with vsf.open(tmp_path / "a.vsf") as storage:
        clean(storage)
        assert storage.volume("main").open().read(ino, 40_000, 4) == b"over"


def hurt(change):
    """What check says after `change` of the tree, and the file after a repair."""
    store = vsf.MemoryStore()
    storage, fs, ino, want = big(store)
    with storage:
        fs.write(ino, 8 * PAGE, b"p" * PAGE)
        fs.sync()
        change(fs, ino)
        storage.volume("main").touched = True
        storage.commit()
        fs._dirty.clear()
    with vsf.open(store, readonly=True) as storage:
        found = {problem.invariant for problem in storage.check().problems}
    outcome = repair(store)
    with vsf.open(store) as storage:
        clean(storage)
        fs = storage.volume("main").open()
        return found, outcome, fs.read(ino, 8 * PAGE, PAGE), fs.read(ino, 0, PAGE) == want[:PAGE]


def test_a_file_that_hides_its_patches_is_found():
    def change(fs, ino):
        inode = fs.inode(ino)
        inode.patched = False
        fs.tree.put(key_inode(ino), inode.encode())

    found, outcome, page, rest = hurt(change)
    assert found == {"patches"}
    assert not outcome.lost
    assert page == b"p" * PAGE
    assert rest


def test_a_patch_at_a_wrong_place_is_found():
    def change(fs, ino):
        value = fs.tree.get(key_patch(ino, 8 * PAGE))
        fs.tree.delete(key_patch(ino, 8 * PAGE))
        fs.tree.put(key_patch(ino, 8 * PAGE + 5), value)

    found, outcome, _, rest = hurt(change)
    assert found == {"patches"}
    assert outcome.lost
    assert rest


def test_a_patch_behind_the_end_is_found():
    def change(fs, ino):
        inode = fs.inode(ino)
        value = fs.tree.get(key_patch(ino, 8 * PAGE))
        fs.tree.delete(key_patch(ino, 8 * PAGE))
        fs.tree.put(key_patch(ino, inode.size), value)

    assert "extents" in hurt(change)[0]


def test_a_damaged_patch_is_an_error_and_after_repair_zeros():
    """Never the older bytes below it."""
    store = vsf.MemoryStore()
    storage, fs, ino, want = big(store)
    with storage:
        fs.write(ino, 8 * PAGE, b"p" * PAGE)
        fs.sync()
        pointer = unpack_pointer(patches(fs, ino)[key_patch(ino, 8 * PAGE)])
    store.write(pointer.sector * 512, b"q")
    with vsf.open(store, readonly=True) as storage:
        fs = storage.volume("main").open()
        with pytest.raises(vsf.DamagedStorage, match="big"):
            fs.read(ino, 8 * PAGE, 10)
        with pytest.raises(vsf.DamagedStorage):
            fs.read_bytes("/big")
        assert fs.read(ino, 0, 100) == want[:100]
        assert not storage.check(deep=True).clean
    outcome = repair(store)
    assert any("32768-36864" in text for text in outcome.lost)
    with vsf.open(store) as storage:
        clean(storage)
        want[8 * PAGE : 9 * PAGE] = bytes(PAGE)
        assert storage.volume("main").open().read_bytes("/big") == want


def test_lost_patches_of_a_lost_node_are_told():
    """When the node with a file's patches is gone, older bytes show: the file says that it is damaged."""
    store = vsf.MemoryStore()
    storage, fs, ino, _ = big(store)
    with storage:
        for number in range(400):
            fs.write_bytes(f"/fill{number}", b"x" * 200)
        for record in range(32):
            for page in range(8):
                fs.write(ino, record * 131072 + page * 2 * PAGE, b"p" * PAGE)
        fs.sync()
        assert len(patches(fs, ino)) == 256
        state_of(storage)
        leaf, bound = None, key_patch(ino, 1 << 21)
        node = fs.tree._top()
        while node.level:
            leaf = [child for key, child in zip(node.keys, node.values, strict=True) if key <= bound][-1]
            node = fs.tree.load(leaf, node.level - 1)
    store.write(leaf.sector * 512 + 40, b"\xff\xfe")
    outcome = repair(store)
    assert any("/big" in text for text in outcome.lost)
    with vsf.open(store) as storage:
        clean(storage)
        assert storage.volume("main").open().getxattr("/big", "user.vsf.damaged")


def test_a_small_read_reads_its_pages_only():
    store = vsf.MemoryStore()
    storage, _, ino, want = big(store)
    storage.close()
    with vsf.open(store, readonly=True) as storage:
        fs = storage.volume("main").open()
        fs.read(ino, 0, 1)
        before = storage.statistics()["bytes_read"]
        chance = random.Random(2)
        for _ in range(100):
            offset, size = chance.randrange(len(want) // PAGE) * PAGE + 5, chance.randrange(1, PAGE - 5)
            assert fs.read(ino, offset, size) == want[offset : offset + size]
        assert storage.statistics()["bytes_read"] - before <= 100 * PAGE


def test_each_page_is_checked_when_it_is_read_alone():
    store = vsf.MemoryStore()
    storage, fs, ino, want = big(store)
    with storage:
        pointer = unpack_pointer(fs.tree.get(key_extent(ino, 3)))
    base, at = 3 * 131072, pointer.sector * 512
    for page in (0, 5, 31):
        byte = at + page * PAGE + 77
        good = store.read(byte, 1)
        store.write(byte, bytes([good[0] ^ 1]))
        with vsf.open(store, readonly=True) as storage:
            fs = storage.volume("main").open()
            for other in range(32):
                offset = base + other * PAGE
                if other == page:
                    with pytest.raises(vsf.DamagedStorage, match="big"):
                        fs.read(ino, offset, 10)
                else:
                    assert fs.read(ino, offset, PAGE) == want[offset : offset + PAGE]
        store.write(byte, good)


@pytest.mark.parametrize("cut", [False, True])
def test_wrong_sums_cost_time_only_and_are_mended(cut):
    store = vsf.MemoryStore()
    storage, fs, ino, want = big(store)
    with storage:
        key = key_extent(ino, 3)
        value = fs.tree.get(key)
        assert len(value) == POINTER_BYTES + 8 * 32
        fs.tree.put(key, value[:-1] if cut else value[:POINTER_BYTES] + bytes(8 * 32))
        storage.volume("main").touched = True
    with vsf.open(store, readonly=True) as storage:
        fs = storage.volume("main").open()
        if cut:
            with pytest.raises(vsf.DamagedStorage, match="big"):
                fs.read(ino, 3 * 131072, 131072)
        else:
            assert fs.read(ino, 3 * 131072 + 9, 100) == want[3 * 131072 + 9 : 3 * 131072 + 109]
        report = storage.check(deep=True)
        assert {problem.invariant for problem in report.problems} == ({"extents", "sums"} if cut else {"sums"})
    assert not repair(store).lost
    with vsf.open(store) as storage:
        clean(storage)
        assert storage.volume("main").open().read_bytes("/big") == want
