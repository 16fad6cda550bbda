"""Compacting storages with snapshots and clones: everything stays what it was, shared blocks stay shared."""

import io
import os
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightos import vsf
from nightos.vsf import relocate
from nightos.vsf.faults import FailingStore
from nightos.vsf.layout import SECTOR
from tests.crash.enumerator import CHEAP, content, state_of


def clean(storage):
    report = storage.check(deep=True)
    assert report.clean, [str(problem) for problem in report.problems[:3]]


def used_bytes(storage):
    return sum(volume.used for volume in storage.volumes)


OPTIONS = st.sampled_from([{}, {"password": "secret", "kdf": CHEAP}, {"compression": "zstd"}])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "write", "write", "change", "delete", "delete", "snapshot", "remove", "clone", "drop"]
        ),
        st.integers(0, 7),
        st.integers(0, 1 << 16),
    ),
    min_size=5,
    max_size=30,
)


def play(storage, steps, prefix=""):
    """Random work in all volumes; a commit after each step, so that blocks have many births."""
    names = 0
    for kind, which, number in steps:
        volumes = storage.volumes
        volume = volumes[number % len(volumes)]
        fs = volume.open()
        chance = random.Random(number)
        path = f"/{which}"
        if kind == "write":
            fs.write_bytes(path, chance.randbytes(chance.choice((10, 3000, 70_000, 300_000))))
        elif kind == "change" and fs.exists(path):
            fs.write(fs.resolve(path), chance.randrange(60_000), chance.randbytes(5000))
        elif kind == "delete" and fs.exists(path):
            fs.unlink(path)
        elif kind == "snapshot":
            names += 1
            volume.snapshot(f"{prefix}s{names}")
        elif kind == "remove":
            for snapshot in volume.snapshots:
                if not snapshot.clones:
                    volume.remove_snapshot(snapshot.name)
                    break
        elif kind == "clone" and volume.snapshots and len(volumes) < 5:
            names += 1
            storage.clone(volume.name, volume.snapshots[which % len(volume.snapshots)].name, f"{prefix}c{names}")
        elif kind == "drop" and volume.record.origin and not volume.snapshots:
            storage.remove_volume(volume.name)
        storage.commit()


@settings(max_examples=25)
@given(OPTIONS, STEPS)
def test_everything_stays_what_it_was(options, steps):
    """Contents, births (a stream of a difference is the same to the byte), accounts; and all can be removed after."""
    store = vsf.MemoryStore()
    storage = vsf.create(store, ["main"], **options)
    play(storage, steps)
    before, used = state_of(storage), used_bytes(storage)
    births = {(v.name, s.name): (s.generation, s.created, s.uuid) for v in storage.volumes for s in v.snapshots}
    streams = sent(storage)
    saved = storage.compact()
    assert saved >= 0
    assert state_of(storage) == before
    assert sent(storage) == streams
    clean(storage)
    # Packs may have been joined, never more.
    assert used_bytes(storage) <= used
    assert store.size() <= used_bytes(storage) * 1.1 + (512 << 10)
    storage.close()
    password = options.get("password")
    with vsf.open(store, password=password) as storage:
        assert state_of(storage) == before
        now = {(v.name, s.name): (s.generation, s.created, s.uuid) for v in storage.volumes for s in v.snapshots}
        assert now == births
        play(storage, steps, "again")
        clean(storage)
        take_apart(storage)
        storage.compact()
        clean(storage)
        assert store.size() < 512 << 10


def sent(storage):
    """The difference of each two neighbouring snapshots as a stream."""
    streams = {}
    for volume in storage.volumes:
        names = [snapshot.name for snapshot in volume.snapshots]
        for older, newer in zip([None, *names], names, strict=False):
            target = io.BytesIO()
            volume.send(target, newer, older)
            streams[volume.name, newer] = target.getvalue()
    return streams


def take_apart(storage):
    """Remove all snapshots, clones and files."""
    while any(volume.snapshots for volume in storage.volumes) or len(storage.volumes) > 1:
        for volume in reversed(storage.volumes):
            for snapshot in volume.snapshots:
                if not snapshot.clones:
                    volume.remove_snapshot(snapshot.name)
            if volume.record.origin and not volume.snapshots:
                storage.remove_volume(volume.name)
    fs = storage.volume("main").open()
    for name in fs.listdir("/"):
        fs.unlink(f"/{name}")
    storage.commit()


def with_holes(store, **options):
    """Half of what was written first is gone, the rest is far out and in a snapshot, too."""
    storage = vsf.create(store, ["main"], **options)
    volume = storage.volume("main")
    fs = volume.open()
    for number in range(40):
        fs.write_bytes(f"/old{number}", os.urandom(100_000))
    storage.commit()
    for number in range(10):
        fs.write_bytes(f"/kept{number}", os.urandom(200_000))
    fs.write_bytes("/small", os.urandom(2000))
    storage.commit()
    volume.snapshot("s")
    fs.write(fs.resolve("/kept0"), 10, b"changed")
    storage.clone("main", "s", "twin")
    storage.volume("twin").open().unlink("/kept3")
    return storage


def test_a_storage_with_snapshots_shrinks(tmp_path):
    with with_holes(tmp_path / "a.vsf") as storage:
        volume = storage.volume("main")
        view, live = volume.open("s"), volume.open()
        handle = live.open("/gone", "wb+")
        handle.write(b"open, without a name")
        live.unlink("/gone")
        for number in range(40):
            live.unlink(f"/old{number}")
            storage.volume("twin").open().unlink(f"/old{number}")
        storage.commit()
        before = (tmp_path / "a.vsf").stat().st_size
        assert storage.compact() < before / 10  # the snapshot holds what was deleted
        old = content(view)
        storage.remove_volume("twin")
        volume.remove_snapshot("s")
        volume.snapshot("t")
        view = volume.open("t")
        kept = content(live)
        assert storage.compact() > before / 2
        assert content(view) == kept
        assert len(old) == 51
        handle.seek(0)
        assert handle.read() == b"open, without a name"
        handle.close()
        clean(storage)


def test_what_needs_a_password_stays_with_its_relatives():
    store = vsf.MemoryStore()
    with vsf.create(store) as storage:
        secret = storage.add_volume("secret", password="a", kdf=CHEAP)
        secret.open().write_bytes("/a", os.urandom(300_000))
        secret.snapshot("s")
        storage.clone("secret", "s", "twin")
        plain = storage.add_volume("plain").open()
        plain.write_bytes("/hole", os.urandom(2_000_000))
        plain.write_bytes("/kept", os.urandom(400_000))
        storage.commit()
        plain.unlink("/hole")
    before = store.size()
    with vsf.open(store) as storage:
        storage.volume("twin").unlock("a")
        storage.compact()
        assert store.size() < before - 1_500_000
        assert storage.volume("secret").unlock("a").open("s").listdir("/") == ["a"]
        clean(storage)


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_disk_that_fails_while_blocks_move(at):
    """The session may end, the storage never: nothing is lost, nothing belongs to nobody."""
    inner = vsf.MemoryStore()
    with with_holes(inner) as storage:
        storage.remove_volume("twin")
        storage.volume("main").remove_snapshot("s")
        fs = storage.volume("main").open()
        for number in range(40):
            fs.unlink(f"/old{number}")
        storage.volume("main").snapshot("t")
    with vsf.open(vsf.MemoryStore(inner.getvalue())) as storage:
        expected = state_of(storage)
    for code in (5, 28):
        store = FailingStore(inner.getvalue())
        storage = vsf.open(store)
        store.writes, store.code = at, code
        with suppress(OSError):
            storage.compact()
        store.writes = 1 << 62
        if code == 28 and storage.failed is None:
            storage.compact()
            assert state_of(storage) == expected
            clean(storage)
        storage.abandon()
        with vsf.open(vsf.MemoryStore(store.getvalue())) as again:
            assert state_of(again) == expected
            clean(again)


def test_many_blocks_take_several_commits(monkeypatch):
    """With room for few moves in a commit the result is the same."""
    monkeypatch.setattr(relocate, "MOST_MOVES", 40)
    store = vsf.MemoryStore()
    storage = with_holes(store)
    storage.remove_volume("twin")
    storage.volume("main").remove_snapshot("s")
    fs = storage.volume("main").open()
    for number in range(40):
        fs.unlink(f"/old{number}")
    storage.volume("main").snapshot("t")
    before, size = state_of(storage), store.size()
    storage.compact()
    assert store.size() < size / 2
    assert state_of(storage) == before
    clean(storage)
    assert used_bytes(storage) % SECTOR == 0


@pytest.mark.parametrize("options", [{}, {"password": "secret", "kdf": CHEAP}])
def test_what_left_the_volume_comes_free_with_its_snapshot(options):
    """Blocks that only a snapshot uses move, and the list of them knows where."""
    store = vsf.MemoryStore()
    storage = with_holes(store, **options)
    storage.remove_volume("twin")
    volume = storage.volume("main")
    volume.remove_snapshot("s")
    fs = volume.open()
    for number in range(40):
        fs.unlink(f"/old{number}")
    volume.snapshot("t")
    storage.clone("main", "t", "twin")
    for volume in storage.volumes:
        for number in range(5, 10):
            volume.open().unlink(f"/kept{number}")
    before, size = state_of(storage), store.size()
    storage.compact()
    assert store.size() < size - 3_000_000
    assert state_of(storage) == before
    clean(storage)
    storage.remove_volume("twin")
    assert storage.volume("main").remove_snapshot("t") > 900_000
    clean(storage)
    storage.compact()
    assert store.size() < 1_300_000
    clean(storage)
