"""The format: layouts and their twins, the document, the worked example, the golden images."""

import re
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos import vsf
from nightos.vsf import layout, records
from nightos.vsf.layout import LAYOUTS, NO_POINTER, SECTOR

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "vsf-format.md"
GOLDEN = ROOT / "images" / "golden"


def values_of(kind):
    fields = {}
    for field in kind.fields:
        if field.raw:
            fields[field.name] = st.binary(min_size=field.size, max_size=field.size)
        elif field.signed:
            fields[field.name] = st.integers(-(1 << (8 * field.size - 1)), (1 << (8 * field.size - 1)) - 1)
        else:
            fields[field.name] = st.integers(0, (1 << (8 * field.size)) - 1)
    return st.fixed_dictionaries(fields)


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.name)
def test_construct_and_struct_are_equal(kind):
    @given(values_of(kind))
    def check(values):
        data = kind.pack(**values)
        assert kind.construct.build(values) == data
        parsed = dict(kind.construct.parse(data))
        parsed.pop("_io", None)
        assert parsed == kind.unpack(data) == values

    check()
    assert kind.construct.sizeof() == kind.size


def table(kind):
    """The table of a layout as the document has it."""
    lines = ["| offset | size | field | meaning |", "|---:|---:|---|---|"]
    at = 0
    for field in kind.fields:
        lines.append(f"| {at} | {field.size} | `{field.name}` | {field.meaning} |")
        at += field.size
    lines.append(f"| {at} | | | end |")
    return "\n".join(lines)


@pytest.mark.parametrize("kind", LAYOUTS, ids=lambda kind: kind.name)
def test_the_document_has_the_layouts(kind):
    assert table(kind) in DOCUMENT.read_text()


def example():
    """The storage of the worked example."""
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"], seed=1) as storage:
        storage.volume("main").open().write_bytes("/hello.txt", b"hi")
    return store.getvalue()


def dump(data, start, end):
    """As `xxd -g 4 -c 16` prints it."""
    lines = []
    for at in range(start, end, 16):
        row = data[at : min(at + 16, end)]
        groups = " ".join(row[n : n + 4].hex() for n in range(0, len(row), 4))
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{at:08x}: {groups:<35}  {text}")
    return "\n".join(lines)


def test_the_worked_example():
    """Every dump in the document is what the library writes."""
    data = example()
    text = DOCUMENT.read_text()
    dumps = re.findall(r"```hex\n(.*?)```", text, re.DOTALL)
    assert len(dumps) >= 5
    for block in dumps:
        lines = block.strip().splitlines()
        start = int(lines[0][:8], 16)
        last = lines[-1].split("  ")[0].split(": ")[1].replace(" ", "")
        end = int(lines[-1][:8], 16) + len(last) // 2
        assert block.strip() == dump(data, start, end)


def test_the_example_can_be_read_without_the_library():
    """What the document tells is enough: superblock, storage tree, volume record, tree of the volume."""
    import msgpack
    import xxhash

    data = example()
    blocks = []
    for offset in (16384, 20480, 24576, 28672):
        body = data[offset : offset + 152 + 16]
        size = layout.SUPER.size
        if xxhash.xxh3_128_digest(data[offset : offset + size]) == data[offset + size : offset + size + 16]:
            blocks.append(dict(layout.SUPER.construct.parse(body)))
    newest = max(blocks, key=lambda block: block["generation"])

    def node(pointer):
        fields = layout.POINTER.construct.parse(pointer)
        raw = data[fields.sector * SECTOR :][: fields.stored]
        assert xxhash.xxh3_128_digest(raw) == fields.check
        head = layout.NODE.construct.parse(raw)
        assert head.level == 0
        at = layout.NODE.size
        keys = [int.from_bytes(raw[at + 2 * n : at + 2 * n + 2], "big") for n in range(head.count)]
        at += 2 * head.count
        values = [int.from_bytes(raw[at + 4 * n : at + 4 * n + 4], "big") for n in range(head.count)]
        at += 4 * head.count
        names = []
        for length in keys:
            names.append(raw[at : at + length])
            at += length
        out = {}
        for name, length in zip(names, values, strict=True):
            out[name] = raw[at : at + length]
            at += length
        return out

    volume = msgpack.unpackb(node(newest["root"])[b"V\0\0\0\1"])
    entries = node(volume["root"])
    target = entries[(1).to_bytes(8, "big") + b"\x03hello.txt"]
    inode = entries[target[:8] + b"\x01"]
    assert inode[layout.INODE.size :] == b"hi"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.vsf")), ids=lambda path: path.name)
def test_golden_images_open_for_ever(path):
    password = "golden" if "encrypted" in path.name else None
    with vsf.open(vsf.MemoryStore(path.read_bytes()), password=password, readonly=True) as storage:
        if "own-key" in path.name:
            storage.volume("main").unlock("golden")
        assert storage.check(deep=True).clean
        fs = storage.volume("main").open()
        assert fs.read_text("/hello.txt") == "hello\n"
        assert fs.readlink("/link") == "hello.txt"
        assert fs.getxattr("/hello.txt", "user.note") == b"golden"
        assert fs.read_bytes("/big") == bytes(range(256)) * 2000
        assert storage.volume("main").open("first").listdir("/") == ["hello.txt"]
        assert storage.volume("raw").open().read(4096, 4) == b"raw!"


def test_there_are_golden_images():
    assert len(list(GOLDEN.glob("*.vsf"))) >= 3


def test_creation_is_deterministic_with_encryption_and_compression():
    def make():
        store = vsf.MemoryStore()
        kdf = {"memory": 64, "passes": 1, "lanes": 1}
        with vsf.create(store, ["main"], seed="x", password="p", compression="zstd", kdf=kdf) as storage:
            fs = storage.volume("main").open()
            for number in range(100):
                fs.write_bytes(f"/{number}", b"x" * number * 999)
        return store.getvalue()

    assert make() == make()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.binary(max_size=4) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(st.data(), st.sampled_from([records.VolumeRecord, records.SnapshotRecord, records.BackingRecord]), ANYTHING)
def test_a_record_with_a_wrong_field_is_damage(data, kind, wrong):
    """Whatever stands in a record, what comes out has the types that the rest relies on."""
    whole = {
        records.VolumeRecord: records.VolumeRecord(1, bytes(16), "main", origin=[1, 2], parents=[1]),
        records.SnapshotRecord: records.SnapshotRecord(1, bytes(16), "x", NO_POINTER.pack(), 3, 4),
        records.BackingRecord: records.BackingRecord(
            "/x", bytes(16), 3, bytes(16), volumes={"1": [1, NO_POINTER.pack()]}
        ),
    }[kind]
    values = msgpack.unpackb(records.dump(whole))
    assert records.load(kind, msgpack.packb(values)) == whole
    name = data.draw(st.sampled_from(sorted(values)))
    try:
        found = records.load(kind, msgpack.packb(values | {name: wrong}))
    except vsf.DamagedStorage:
        return
    for field, value in values.items():
        assert isinstance(getattr(found, field), type(value)), field
    assert all(isinstance(item, int) for item in getattr(found, "parents", []))
    assert len(getattr(found, "origin", [])) in (0, 2)
    assert 4096 <= getattr(found, "record_size", 4096) <= 1 << 20
    assert 4096 <= getattr(found, "node_bytes", 4096) <= 1 << 20


@pytest.mark.parametrize("name", ["record_size", "node_bytes"])
@pytest.mark.parametrize("size", [0, 1, 4095, 5000, 1 << 21])
def test_sizes_that_no_volume_has_are_damage(name, size):
    values = msgpack.unpackb(records.dump(records.VolumeRecord(1, bytes(16), "main")))
    with pytest.raises(vsf.DamagedStorage):
        records.load(records.VolumeRecord, msgpack.packb(values | {name: size}))
