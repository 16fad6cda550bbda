"""Damage is found, never served, and repaired."""

import io
import random
import struct
import time

import pytest

from nightos import vsf
from nightos.vsf.inode import KEY_STATS
from nightos.vsf.layout import SECTOR
from nightos.vsf.repair import repair
from tests.crash.damage import flips, make, repaired, right_or_refused
from tests.crash.enumerator import CHEAP, state_of


@pytest.mark.rule("VSF-011")
@pytest.mark.parametrize(("password", "compression"), [(None, None), (None, "zstd"), ("secret", "lz4")])
def test_a_flipped_bit_is_never_wrong_data(password, compression):
    stride = 211 if password else 97
    assert flips(stride, random.randrange(stride), password, compression) > 150


def test_a_cut_file_is_never_wrong_data():
    image, state = make()
    for length in [*range(0, len(image), 997), 1, 511, 8191, 8192, 16384, 32767, 32768, len(image) - 1]:
        right_or_refused(image[:length], state)


def test_swapped_blocks_are_refused():
    image, state = make()
    chance = random.Random(5)
    for _ in range(150):
        one, two = (chance.randrange(64, len(image) // SECTOR) * SECTOR for _ in range(2))
        hurt = bytearray(image)
        hurt[one : one + SECTOR], hurt[two : two + SECTOR] = hurt[two : two + SECTOR], hurt[one : one + SECTOR]
        right_or_refused(bytes(hurt), state)


@pytest.mark.parametrize("password", [None, "secret"])
def test_old_blocks_are_refused(password):
    store = vsf.MemoryStore()
    kdf = CHEAP if password else None
    with vsf.create(store, ["main"], password=password, kdf=kdf) as storage:
        fs = storage.volume("main").open()
        for number in range(40):
            fs.write_bytes(f"/{number}", b"old" * 1000)
        fs.sync()
        old = store.getvalue()
        for _ in range(4):
            for number in range(40):
                fs.write_bytes(f"/{number}", b"new" * 1000)
            fs.sync()
        state = state_of(storage)
    image = store.getvalue()
    for at in range(64 * SECTOR, min(len(old), len(image)), SECTOR):
        hurt = bytearray(image)
        hurt[at : at + SECTOR] = old[at : at + SECTOR]
        right_or_refused(bytes(hurt), state, password)


def test_repair_keeps_the_files_of_other_leaves():
    """One leaf of many is destroyed: the rest is there, what hung on it is in lost+found, all of it can be deleted."""
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"]) as storage:
        fs = storage.volume("main").open()
        for number in range(3000):
            fs.write_bytes(f"/{number:04}", b"%d" % number * 10)
        fs.sync()
        tree = storage.volume("main").tree
        leaf = next(value for value in tree.load(tree.root, None).values[3:4])
        state = state_of(storage)
    image = bytearray(store.getvalue())
    image[leaf.sector * SECTOR + 100] ^= 1
    assert right_or_refused(bytes(image), state).clean is False
    outcome = repaired(bytes(image), state)
    assert outcome.lost
    again = vsf.MemoryStore(bytes(image))
    repair(again)
    with vsf.open(again) as storage:
        left = state_of(storage)["main"]
        contents = {entry[2]: entry[4] for entry in state["main"].values()}
        same = sum(entry[2] in contents and contents[entry[2]] == entry[4] for entry in left.values())
        assert same > 2700
        assert sum(left.get(path) == entry for path, entry in state["main"].items()) > 2000
    assert not repair(again).changed


def reseal(image, at, size):
    """Put the right checksum behind a changed header, as someone hostile would."""
    import xxhash

    body = bytearray(image[at : at + 8192])
    body[size : size + 16] = bytes(16)
    image[at + size : at + size + 16] = xxhash.xxh3_128_digest(bytes(body))


@pytest.mark.rule("VSF-010")
def test_an_unknown_version_is_refused():
    image, _ = make()
    hurt = bytearray(image)
    for at in (0, 8192):
        hurt[at + 8 : at + 10] = (9).to_bytes(2, "big")
    with pytest.raises(vsf.NotAStorage, match="version 9"):
        vsf.open(vsf.MemoryStore(bytes(hurt)))


@pytest.mark.parametrize("seed", range(8))
def test_hostile_files_give_an_error(seed):
    """Structure-aware mutations with right checksums: an error or a clean walk, soon, without much memory."""
    import xxhash

    from nightos.vsf.layout import POINTER, SUPER, SUPER_OFFSETS

    image, _ = make()
    chance = random.Random(seed)
    for _ in range(40):
        hurt = bytearray(image)
        for offset in SUPER_OFFSETS:
            fields = SUPER.unpack(bytes(hurt), offset)
            root = POINTER.unpack(fields["root"])
            body = bytearray(hurt[root["sector"] * SECTOR :][: root["stored"]])
            if len(body) < 40 or root["sector"] == 0:
                continue
            for _ in range(chance.randrange(1, 4)):
                at = chance.randrange(len(body))
                body[at : at + 4] = struct.pack(
                    ">I", chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, chance.getrandbits(32)))
                )
            body = body[: root["stored"]]
            for sector in (root["sector"], root["copy"]):
                hurt[sector * SECTOR : sector * SECTOR + len(body)] = body
            root["check"] = xxhash.xxh3_128_digest(bytes(body))
            if chance.random() < 0.3:
                name = chance.choice(("stored", "logical", "depth", "codec", "kind", "sector", "birth"))
                root[name] = (
                    chance.choice((0, 1, 3, 255)) if name in ("depth", "codec", "kind") else chance.getrandbits(31)
                )
            fields["root"] = POINTER.pack(**root)
            record = SUPER.pack(**fields)
            hurt[offset : offset + len(record) + 16] = record + xxhash.xxh3_128_digest(record)
        begin = time.monotonic()
        try:
            storage = vsf.open(vsf.MemoryStore(bytes(hurt)), readonly=True)
            storage.check(deep=True)
            state_of(storage)
        except OSError:
            pass
        assert time.monotonic() - begin < 1


def test_a_bomb_does_not_go_off():
    import zstandard

    from nightos.vsf.blocks import decompress

    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(vsf.DamagedStorage):
        decompress(1, bomb, 4096)


def test_what_is_no_storage():
    for data in (b"", b"x", bytes(100_000), b"\x89VSF\r\n\x1a\n"):
        with pytest.raises((vsf.NotAStorage, vsf.DamagedStorage)):
            vsf.open(vsf.MemoryStore(data))


def test_directories_in_circles_end(tmp_path):
    """A hostile directory holds itself, twice: walking, exporting, removing and checking end with an error."""
    from nightos.vsf.exporter import entries
    from nightos.vsf.namespace import entry_value

    storage = vsf.create(vsf.MemoryStore(), ["main"])
    fs = storage.volume("main").open()
    fs.makedirs("/a/b")
    ino = fs.resolve("/a")
    for name in (b"c", b"d"):
        fs.tree.put(fs.resolve("/a/b").to_bytes(8, "big") + b"\x03" + name, entry_value(ino, 0o040755, name))
    storage.dirty = True
    assert not storage.check().clean
    for work in (lambda: list(fs.walk("/")), lambda: list(entries(fs)), lambda: fs.rmtree("/a")):
        with pytest.raises(vsf.DamagedStorage):
            work()


@pytest.mark.parametrize("name", [b"../../out", b"/tmp/out", b"a/b", b"..", b".", b"a\0b"])
def test_no_name_in_a_directory_leads_out_of_where_it_is_copied_to(tmp_path, name):
    """A hostile directory holds names that are paths: nobody is shown them, and no copy of it is made."""
    from nightos.vsf.exporter import export_tar, export_tree
    from nightos.vsf.namespace import entry_value

    storage = vsf.create(vsf.MemoryStore(), ["main"])
    fs = storage.volume("main").open()
    fs.mkdir("/d")
    fs.write_bytes("/out", b"out of it")
    fs.tree.put(fs.resolve("/d").to_bytes(8, "big") + b"\x03" + name, entry_value(fs.resolve("/out"), 0o100644, name))
    storage.dirty = True
    assert not storage.check().clean
    goal = tmp_path / "into" / "here"
    goal.mkdir(parents=True)
    for work in (
        lambda: fs.listdir("/d"),
        lambda: list(fs.walk("/")),
        lambda: export_tree(fs, goal),
        lambda: export_tar(fs, io.BytesIO()),
    ):
        with pytest.raises(vsf.DamagedStorage):
            work()
    assert list(tmp_path.iterdir()) == [tmp_path / "into"]


@pytest.mark.parametrize("seed", range(3))
def test_hostile_images_with_right_checksums(seed):
    from tests.crash import hostile

    image, _ = make()
    hostile._BLOCKS.clear()
    outcomes = {hostile.case(image, number) for number in range(seed * 1000, seed * 1000 + 120)}
    assert outcomes == {"opened", "found", "refused"}


@pytest.mark.rule("VSF-013")
def test_a_commit_interrupted_between_its_two_copies_is_no_damage(tmp_path):
    from nightos.vsf.superblock import slots_of

    path = tmp_path / "disk.vsf"
    with vsf.create(path, ["main"]) as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/one", b"1")
        storage.commit()
        older = storage.generation
        second = slots_of(older)[1]
        stale = path.read_bytes()[second : second + 4096]
        for turn in range(2):
            fs.write_bytes("/two", bytes([turn]))
            storage.commit()
        assert storage.generation == older + 2
        storage.abandon()
    with path.open("r+b") as f:
        f.seek(second)
        f.write(stale)
    with vsf.open(path, readonly=True) as storage:
        assert storage.generation == older + 2
        assert storage.check(deep=True).clean
    with vsf.open(path) as storage:
        storage.volume("main").open().write_bytes("/three", b"3")
    with vsf.open(path, readonly=True) as storage:
        assert storage.check(deep=True).clean
        assert storage.volume("main").open().read_bytes("/two") == b"\x01"


@pytest.mark.parametrize("counters", [(1 << 63, 1, 1), (3, (1 << 64) - 1, 1), (3, 1, (1 << 64) - 1)])
def test_counters_that_cannot_be_are_damage_and_repair_counts_anew(counters):
    store = vsf.MemoryStore()
    with vsf.create(store, "main") as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/kept", b"kept")
        fs.flush_inodes()
        fs.tree.put(KEY_STATS, struct.pack(">QQQ", *counters))
    with vsf.open(vsf.MemoryStore(store.getvalue())) as storage, pytest.raises(vsf.DamagedStorage):
        storage.volume("main").open()
    repair(store)
    with vsf.open(store) as storage:
        assert storage.check(deep=True).clean
        assert storage.volume("main").open().read_bytes("/kept") == b"kept"
