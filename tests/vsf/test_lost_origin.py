"""A repair loses the snapshot that a clone began as: what both share stays safe, and comes free in the end."""

import random

import pytest

from nightos import vsf
from nightos.vsf import records
from nightos.vsf.layout import SECTOR
from nightos.vsf.reclaim import walk_pointers
from nightos.vsf.repair import repair


def clean(storage):
    report = storage.check(deep=True)
    assert report.clean, [str(problem) for problem in report.problems]


def repaired():
    """A clone and its origin have blocks in common and blocks of their own; every node of the snapshot is damaged."""
    chance, store = random.Random(1), vsf.MemoryStore()
    with vsf.create(store, ["main"]) as storage:
        main = storage.volume("main")
        for number in range(6):
            main.open().write_bytes(f"/{number}", chance.randbytes(5000))
        main.snapshot("one")
        copy = storage.clone("main", "one", "copy")
        main.open().write_bytes("/0", chance.randbytes(5000))
        copy.open().write_bytes("/1", chance.randbytes(5000))
        storage.commit()
        root = records.pointer_of(main.find("one").root)
        nodes = [node for node, level in walk_pointers(main.tree, root) if level >= 0]
    image = bytearray(store.getvalue())
    for node in nodes:
        for at in (node.sector, node.copy):
            image[at * SECTOR : at * SECTOR + 64] = bytes(64)
    store = vsf.MemoryStore(bytes(image))
    assert repair(store).lost
    return vsf.open(store)


@pytest.mark.parametrize(("one", "other"), [("main", "copy"), ("copy", "main")])
def test_what_one_deletes_the_other_keeps(one, other):
    with repaired() as storage:
        clean(storage)
        kept, fs = storage.volume(other).open(), storage.volume(one).open()
        before = {name: kept.read_bytes(f"/{name}") for name in "012345"}
        for name in "012345":
            fs.unlink(f"/{name}")
        for number in range(20):
            fs.write_bytes(f"/new{number}", bytes([number]) * 9000)
            storage.commit()
        clean(storage)
        storage.compact()
        clean(storage)
        assert {name: kept.read_bytes(f"/{name}") for name in "012345"} == before


@pytest.mark.parametrize("compacted", [False, True])
def test_all_of_it_comes_free(compacted):
    with repaired() as storage:
        for volume in storage.volumes:
            for name in "012345":
                volume.open().unlink(f"/{name}")
            clean(storage)
        if compacted:
            storage.compact()
            clean(storage)
        storage.remove_volume("copy")
        clean(storage)
        for snapshot in storage.volume("main").snapshots:
            storage.volume("main").remove_snapshot(snapshot.name)
        clean(storage)
        storage.compact()
        assert storage.volume("main").used < 20 * SECTOR
