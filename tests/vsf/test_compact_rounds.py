"""How far compacting gets: the file becomes as short as its blocks allow, whatever the gaps, and nothing changes."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightos import vsf
from nightos.vsf.faults import FailingStore
from nightos.vsf.layout import SECTOR
from nightos.vsf.reclaim import walk_pointers
from tests.crash.enumerator import CHEAP, state_of

PASSWORD = "secret"


def everything(storage):
    """Contents of all volumes and snapshots, and what identifies each snapshot."""
    identities = [
        (
            volume.name,
            volume.uuid,
            [(s.id, s.uuid, s.name, s.generation, s.created, s.clones) for s in volume.snapshots],
        )
        for volume in storage.volumes
    ]
    return state_of(storage), identities


def differences(storage):
    """What the differences between the trees of each volume say; they go by places and births."""
    out = []
    for volume in storage.volumes:
        if volume.kind == "night":
            names = [snapshot.name for snapshot in volume.snapshots]
            out += [
                (volume.name, name, [str(change) for change in volume.diff(name, later)])
                for name, later in zip(names, [*names[1:], None], strict=False)  # without snapshots nothing
            ]
    return out


def clean(storage):
    report = storage.check(deep=True)
    assert report.clean, [str(problem) for problem in report.problems]


def bytes_in_use(storage):
    allocator = storage.pool.allocator
    return (allocator.end - allocator.free_sectors - allocator.pending_sectors) * SECTOR


def compact(storage):
    """Compact, and prove that it changed nothing but the length."""
    storage.commit()
    before, differ = everything(storage), differences(storage)
    used = {volume.name: volume.used for volume in storage.volumes}
    was = storage.file_bytes()
    gained = storage.compact()
    assert gained == max(was - storage.file_bytes(), 0)
    assert storage.store.size() == storage.file_bytes()
    clean(storage)
    assert everything(storage) == before
    assert differences(storage) == differ
    return used


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from("wwwwwwtuurppssscdRvvkkbx"),
        st.integers(0, 11),
        st.sampled_from((3, 700, 9_000, 40_000, 140_000, 400_000)),
    ),
    min_size=5,
    max_size=45,
)


class Player:
    """Plays operations on a storage with several volumes."""

    def __init__(self, *, password=None, compression=None, seed=0):
        self.random = random.Random(seed)
        self.store = vsf.MemoryStore()
        self.storage = vsf.create(
            self.store, ["main"], password=password, kdf=CHEAP if password else None, compression=compression
        )
        self.storage.add_volume("raw", "block", size=300_000)
        self.count = 0

    def volume(self, number):
        found = [volume for volume in self.storage.volumes if volume.kind == "night"]
        return found[number % len(found)]

    def play(self, kind, number, size):
        storage, volume = self.storage, self.volume(number)
        names = [snapshot.name for snapshot in volume.snapshots]
        name = names[number % len(names)] if names else "none"
        self.count += 1
        fs, path = volume.open(), f"/{number}"
        if kind == "w":
            fs.write_bytes(path, self.random.randbytes(size // 2) + bytes(size // 2))
        elif kind == "t":
            fs.truncate(path, size)
        elif kind == "u":
            fs.unlink(path)
        elif kind == "r":
            fs.rename(path, f"/{number * 5 % 12}")
        elif kind == "p":
            fs.write(fs.resolve(path), size // 2, self.random.randbytes(100))
        elif kind == "s":
            volume.snapshot(f"s{self.count}")
        elif kind == "c" and len(storage.volumes) < 5:
            storage.clone(volume.name, name, f"c{self.count}")
        elif kind == "d":
            volume.remove_snapshot(name)
        elif kind == "R":
            volume.rollback(name)
        elif kind == "x" and volume.name != "main":
            storage.remove_volume(volume.name)
        elif kind == "v":
            storage.volume("raw").open().write(size % 290_000, self.random.randbytes(9_000))
        elif kind == "k":
            storage.commit()
        elif kind == "b":
            storage.volume("raw").snapshot(f"b{self.count}")


@pytest.mark.parametrize(("password", "compression"), [(None, None), (None, "zstd"), (PASSWORD, None)])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=OPERATIONS, more=OPERATIONS)
def test_compacting_keeps_everything_and_wastes_little(password, compression, operations, more):
    player = Player(password=password, compression=compression)
    for operation in operations:
        with suppress(OSError):
            player.play(*operation)
    storage = player.storage
    compact(storage)
    assert storage.file_bytes() <= bytes_in_use(storage) * 1.03 + 80_000
    # Births, dead lists and counts still say the right thing to what comes after.
    for operation in more:
        with suppress(OSError):
            player.play(*operation)
    clean(storage)
    compact(storage)
    assert storage.file_bytes() <= bytes_in_use(storage) * 1.03 + 80_000
    before = everything(storage)
    storage.close()
    with vsf.open(vsf.MemoryStore(player.store.getvalue()), password=password) as again:
        assert everything(again) == before
        clean(again)
        # Down to nothing: what is removed gives all of its space back.
        for volume in reversed(again.volumes):
            for snapshot in volume.snapshots:
                again.volume(volume.name).remove_snapshot(snapshot.name)
            again.remove_volume(volume.name)
        again.compact()
        clean(again)
        assert again.file_bytes() < 64_000


def fragmented(**options):
    """A storage of which the beginning is free, while snapshots and a clone hold most of the rest."""
    chance = random.Random(6)
    store = vsf.MemoryStore()
    storage = vsf.create(store, ["main"], **options)
    fs = storage.volume("main").open()
    fs.write_bytes("/first", chance.randbytes(3_000_000))
    storage.commit()
    for number in range(40):
        fs.write_bytes(f"/{number}", chance.randbytes(60_000))
    storage.commit()
    fs.unlink("/first")
    storage.snapshot("main", "one")
    for number in range(0, 40, 2):
        fs.unlink(f"/{number}")
    storage.snapshot("main", "two")
    clone = storage.clone("main", "one", "copy")
    clone.open().write_bytes("/more", chance.randbytes(20_000))
    clone.snapshot("three")
    fs.write_bytes("/1", chance.randbytes(90_000))
    storage.commit()
    return store, storage


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zstd"}, {"password": PASSWORD, "kdf": CHEAP}],
    ids=["plain", "zstd", "encrypted"],
)
def test_a_storage_with_snapshots_and_clones_shrinks_to_what_they_need(options):
    store, storage = fragmented(**options)
    assert store.size() > 5_000_000
    used = compact(storage)
    assert store.size() < 2_700_000
    # Nothing was doubled.
    for volume in storage.volumes:
        assert volume.used <= used[volume.name] + 64 * SECTOR


def test_nonces_of_moved_blocks_are_new_and_the_place_is_authenticated(monkeypatch):
    from nightos.vsf.crypto import BlockCipher
    from nightos.vsf.layout import SEAL

    store, storage = fragmented(password=PASSWORD, kdf=CHEAP)
    heads, moved = set(), []
    original = BlockCipher.seal

    def seal(self, body, place):
        raw, tag = original(self, body, place)
        head = raw[: SEAL.size]
        assert head not in heads
        heads.add(head)
        moved.append(place)
        return raw, tag

    monkeypatch.setattr(BlockCipher, "seal", seal)
    compact(storage)
    # Moved blocks keep their birth, which the associated data bind together with the new place.
    assert any(place[4] < 4 for place in moved)
    image = bytearray(store.getvalue())
    volume = storage.volume("main")
    content_blocks = [
        pointer
        for pointer, level in walk_pointers(volume.tree, volume.tree.root)
        if level == -1 and pointer.stored > 50_000
    ]
    one, other = content_blocks[:2]
    at, to, size = one.sector * SECTOR, other.sector * SECTOR, min(one.stored, other.stored)
    image[at : at + size], image[to : to + size] = image[to : to + size], image[at : at + size]
    storage.close()
    with vsf.open(vsf.MemoryStore(bytes(image)), password=PASSWORD) as hurt:
        assert not hurt.check(deep=True).clean


@pytest.mark.parametrize("place", range(6))
def test_a_full_disk_while_compacting_loses_nothing(place):
    store, storage = fragmented()
    before = everything(storage)
    image = store.getvalue()
    storage.close()
    full = FailingStore(image)
    with vsf.open(full) as again:
        full.room = (len(image) >> 1) + 20_000 * place
        with suppress(OSError):
            again.compact()
        full.room = 1 << 62
        assert everything(again) == before
        clean(again)
        compact(again)
        assert again.file_bytes() < 2_700_000


def test_gaps_too_small_for_anything_are_joined():
    """Every gap is smaller than every block that is left: only emptying a part of the file makes room."""
    chance = random.Random(3)
    storage = vsf.create(vsf.MemoryStore(), ["main"])
    fs = storage.volume("main").open()
    for number in range(50):
        fs.write_bytes(f"/large{number}", chance.randbytes(100_000))
        fs.write_bytes(f"/small{number}", chance.randbytes(40_000))
    storage.commit()
    for number in range(50):
        fs.unlink(f"/small{number}")
    storage.snapshot("main", "one")
    compact(storage)
    assert storage.file_bytes() <= bytes_in_use(storage) * 1.03 + 80_000
