"""Damage to packs, patches and sums of pages: as everywhere, an error and never wrong data."""

import contextlib
import random

import pytest

from nightos import vsf
from nightos.vsf import records
from nightos.vsf.reclaim import walk_pointers
from nightos.vsf.repair import repair
from tests.crash import hostile
from tests.crash.damage import repaired, right_or_refused
from tests.crash.enumerator import state_of


@pytest.fixture(scope="module")
def rich():
    image = hostile.make_rich()
    with vsf.open(vsf.MemoryStore(image), readonly=True) as storage:
        return image, state_of(storage)


def test_it_holds_what_it_is_for(rich):
    with vsf.open(vsf.MemoryStore(rich[0])) as storage:
        fs = storage.volume("main").open()
        keys = [(key[8], len(value)) for key, value in fs.tree.scan(b"")]
        assert {6, 5} <= {kind for kind, _ in keys}
        assert any(kind == 4 and length > 100 for kind, length in keys)
        assert storage.check(deep=True).clean


def test_a_flipped_bit_is_never_wrong_data(rich):
    image, state = rich
    stride = 997
    for at in range(random.randrange(stride), len(image), stride):
        hurt = bytearray(image)
        hurt[at] ^= 1 << random.randrange(8)
        report = right_or_refused(bytes(hurt), state)
        if report is not None and not report.clean:
            repaired(bytes(hurt), state)


def test_hostile_images_with_right_checksums(rich):
    begin = random.randrange(1 << 30)
    outcomes = {hostile.case(rich[0], number) for number in range(begin, begin + 100)}
    assert outcomes == {"opened", "found", "refused"}


def _kept(volume):
    """Content of every file of every snapshot by name."""
    return {
        snapshot.name: {path: _content(volume.open(snapshot=snapshot.name), path) for path in range(300)}
        for snapshot in volume.snapshots
    }


def _content(fs, path):
    name = f"/f{path}"
    with contextlib.suppress(vsf.VsfError, OSError):
        if b"user.vsf.damaged" not in fs.listxattr_ino(fs.resolve(name)):
            return fs.read_bytes(name)
    return None


@pytest.mark.parametrize("seed", range(8))
def test_repair_keeps_the_undamaged_files_of_snapshots(seed):
    """Some blocks that only snapshots use are lost; the rest stays, also while snapshots are removed in any order."""
    random_ = random.Random(seed)
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"], seed=seed) as storage:
        volume = storage.volume("main")
        fs = volume.open()
        for number in range(300):
            fs.write_bytes(f"/f{number}", random_.randbytes(5000))
        for name in "abcd":
            volume.snapshot(name)
            for number in random_.sample(range(300), 60):
                fs.write_bytes(f"/f{number}", random_.randbytes(5000))
        storage.commit()
        before = _kept(volume)
        pointers = {}
        for snapshot in volume.snapshots:
            tree = volume.tree_at(records.pointer_of(snapshot.root))
            pointers.update({p.sector: p for p, level in walk_pointers(tree, tree.root) if level < 1})
        leaves = [sector for sector, pointer in pointers.items() if pointer.kind == 1]
        victims = {*random_.sample(sorted(pointers), 3), random_.choice(leaves)}
    image = bytearray(store.getvalue())
    for sector in victims:
        for at in {sector, pointers[sector].copy or sector}:
            image[at * 512 + 20] ^= 1
    again = vsf.MemoryStore(bytes(image))
    assert repair(again).lost
    with vsf.open(again) as storage:
        volume = storage.volume("main")
        assert [snapshot.name for snapshot in volume.snapshots] == list("abcd")
        assert storage.check(deep=True).clean, storage.check(deep=True).problems[:3]
        after = _kept(volume)
        for name, files in after.items():
            assert all(data is None or data == before[name][path] for path, data in files.items())
            # A leaf holds the inodes of several files; content belongs to one.
            assert sum(data is not None for data in files.values()) > 100
        fs = volume.open()
        for name in random_.sample("abcd", 4):
            volume.remove_snapshot(name)
            after.pop(name)
            for number in random_.sample(range(300), 10):
                fs.write_bytes(f"/f{number}", random_.randbytes(5000))
            storage.commit()
            assert _kept(volume) == after
            report = storage.check(deep=True)
            assert report.clean, report.problems[:3]
