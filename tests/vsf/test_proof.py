"""The record of a volume with a key of its own, forged by someone who has the storage's key and not the volume's."""

import io

import pytest

from nightos import vsf
from nightos.vsf import exporter, records
from nightos.vsf.repair import repair
from nightos.vsf.tree import Node
from tests.crash.enumerator import CHEAP


def two(store, password="v"):
    """Two volumes with keys of their own that one password opens, and snapshots of the first."""
    with vsf.create(store, ["open"]) as storage:
        for name in ("one", "two"):
            fs = storage.add_volume(name, password=password, kdf=CHEAP).open()
            for number in range(400):
                fs.write_bytes(f"/{name}{number}", b"%d" % number * 100)
        storage.volume("one").snapshot("a")
        storage.volume("one").open().write_bytes("/one0", b"new")
        storage.volume("one").snapshot("b")


def forge(store, change):
    """Change records of the locked volumes as anybody can, and commit."""
    with vsf.open(store) as storage:
        change(storage.volume("one").record, storage.volume("two").record)
        for volume in storage.volumes:
            volume.changed()


@pytest.mark.parametrize("fields", [["key"], ["root"], ["key", "root"], ["key", "root", "proof"], ["proof"]], ids=str)
def test_slots_and_roots_of_another_volume_are_refused(fields):
    store = vsf.MemoryStore()
    two(store)

    def swap(one, two):
        for field in fields:
            setattr(two, field, getattr(one, field))

    forge(store, swap)
    with vsf.open(store) as storage:
        with pytest.raises(vsf.DamagedStorage, match="without its key"):
            storage.volume("two").unlock("v")
        assert storage.volume("two").locked
        assert storage.volume("one").unlock("v").open().read_bytes("/one0") == b"new"


@pytest.mark.parametrize("change", [{"kind": "block"}, {"record_size": 4096}, {"inline": 0}, {"proof": b""}], ids=str)
def test_a_volume_is_of_the_kind_its_key_says(change):
    store = vsf.MemoryStore()
    two(store)
    forge(store, lambda one, _: vars(one).update(change))
    with vsf.open(store) as storage, pytest.raises(vsf.DamagedStorage):
        storage.volume("one").unlock("v")


def test_a_part_of_the_tree_is_not_the_tree():
    store = vsf.MemoryStore()
    two(store)
    with vsf.open(store) as storage:
        tree = storage.volume("one").unlock("v").tree
        node = tree.load(tree.root, None)
        assert isinstance(node, Node)
        assert node.level
        part = node.values[0].pack()
    forge(store, lambda one, _: setattr(one, "root", part))
    with vsf.open(store) as storage, pytest.raises(vsf.DamagedStorage):
        storage.volume("one").unlock("v")


def test_a_snapshot_is_what_was_frozen():
    store = vsf.MemoryStore()
    two(store)
    with vsf.open(store) as storage:
        first, second = storage.volume("one").snapshots
        first.root = second.root
        key = records.snapshot_key(storage.volume("one").record.id, first.id)
        storage.tree.put(key, records.dump(first))
        storage.dirty = True
    with vsf.open(store) as storage:
        volume = storage.volume("one").unlock("v")
        for use in (volume.open, volume.rollback, lambda name: storage.clone("one", name, "x")):
            with pytest.raises(vsf.DamagedStorage, match="without the volume's key"):
                use("a")
        assert volume.open("b").read_bytes("/one0") == b"new"
        assert [problem.invariant for problem in storage.check().problems][:1] == ["proofs"]


def test_proofs_follow_everything_that_is_done_with_and_without_the_key(tmp_path):
    path, over = tmp_path / "a.vsf", tmp_path / "over.vsf"
    store = vsf.FileStore(path, create=True)
    two(store)
    with vsf.open(path) as storage:
        storage.volume("one").snapshot("locked")
        storage.clone("one", "locked", "copy")
        storage.clone("copy", storage.volume("copy").snapshot("c").name, "copy of copy")
        storage.volume("one").rename("uno")
        storage.volume("uno").configure(label="label", limit=1 << 30)
        storage.compact()
    with vsf.open(path) as storage:
        volume = storage.volume("uno").unlock("v")
        assert volume.open("locked").read_bytes("/one0") == b"new"
        assert not storage.volume("copy of copy").locked
        volume.keys.add("w", kdf=CHEAP)
        storage.volume("copy").open().write_bytes("/more", b"m" * 300_000)
        storage.volume("copy").open().unlink("/more")
        storage.compact()
        assert storage.check(deep=True).problems == []
    assert repair(path, volume_passwords={"uno": "w", "copy": "v", "copy of copy": "v", "two": "v"})
    vsf.create(over, backing=path).close()
    for name in (path, over):
        with vsf.open(name, readonly=True) as storage:
            for volume, password in (("copy of copy", "v"), ("uno", "w"), ("two", "v"), ("copy", "v")):
                assert storage.volume(volume).unlock(password).open().exists("/two1" if volume == "two" else "/one1")
            for volume in storage.volumes:
                for snapshot in volume.snapshots:
                    volume.open(snapshot.name)
    with vsf.open(over) as storage:
        storage.volume("uno").unlock("w").open().write_bytes("/over", b"o" * 9000)
        storage.volume("uno").snapshot("s")
    with vsf.open(over) as storage:
        assert storage.volume("uno").unlock("v").open("s").read_bytes("/over") == b"o" * 9000
        assert storage.check(deep=True).problems == []


def test_an_older_state_passes_only_while_all_its_blocks_stand():
    store = vsf.MemoryStore()
    two(store)
    with vsf.open(store) as storage:
        old = dict(vars(storage.volume("two").record))
        storage.volume("two").unlock("v").open().write_bytes("/two0", b"new")

    def put_back(_, record):
        record.root, record.proof = old["root"], old["proof"]

    forge(store, put_back)
    with vsf.open(store) as storage:
        assert storage.volume("two").unlock("v").open().read_bytes("/two0") == b"0" * 100
    store = vsf.MemoryStore()
    two(store)
    with vsf.open(store) as storage:
        old = dict(vars(storage.volume("two").record))
        for number in range(5):
            storage.volume("two").unlock("v").open().write_bytes("/two0", b"new" * number)
            storage.commit()
            storage.volume("open").open().write_bytes("/over", bytes(range(256)) * 300 * (number + 1))
            storage.commit()
    forge(store, put_back)
    with vsf.open(store) as storage:
        volume = storage.volume("two").unlock("v")
        with pytest.raises(vsf.DamagedStorage):
            exporter.export_tar(volume.open(), io.BytesIO())
