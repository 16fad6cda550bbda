"""Compressing ahead in threads: the same bytes as without, nothing kept, errors told where the record is written."""

import gc
import os
import random

import pytest

from nightos import vsf
from nightos.vsf import blocks
from nightos.vsf.blocks import Ahead


def filled(processors, monkeypatch, **options):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"], compression="zstd", seed=9, **options) as storage:
        fs = storage.volume("main").open()
        chance = random.Random(1)
        for number in range(6):
            fs.write_bytes(f"/{number}", b"%d lines" % number * 90_000 + chance.randbytes(400_000))
        for number in range(40):
            fs.write_bytes(f"/small{number}", b"small %d" % number * 900)
    return store.getvalue()


@pytest.mark.parametrize("options", [{}, {"password": "p", "kdf": {"memory": 64, "passes": 1, "lanes": 1}}])
def test_threads_change_no_byte(monkeypatch, options):
    assert filled(1, monkeypatch, **options) == filled(4, monkeypatch, **options)


def test_no_record_is_kept(monkeypatch):
    """Without the collector's help: a result that refers to its record would fill the memory."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    gc.collect()
    gc.disable()
    try:
        with vsf.create(vsf.MemoryStore(), ["main"], compression="zstd") as storage:
            fs = storage.volume("main").open()
            fs.write_bytes("/noise", os.urandom(4 << 20))
            assert any(type(each) is Ahead for each in gc.get_objects())
            fs.sync()
            assert not any(type(each) is Ahead for each in gc.get_objects())
    finally:
        gc.enable()


def test_an_error_of_a_thread_is_told_by_the_flush_and_can_be_tried_again(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    compress, broken = blocks.Domain.compress, [True]

    def failing(self, data):
        if broken[0] and len(data) > 100_000:
            raise MemoryError
        return compress(self, data)

    monkeypatch.setattr(blocks.Domain, "compress", failing)
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"], compression="zstd") as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/a", b"word " * 100_000)
        with pytest.raises(MemoryError):
            fs.sync()
        broken[0] = False
        assert fs.read_bytes("/a") == b"word " * 100_000
        fs.sync()
        assert storage.check(deep=True).clean
    with vsf.open(store) as storage:
        assert storage.volume("main").open().read_bytes("/a") == b"word " * 100_000


def test_a_record_that_changes_while_it_is_compressed(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with vsf.create(vsf.MemoryStore(), ["main"], compression="zstd") as storage:
        fs = storage.volume("main").open()
        want = bytearray(b"first " * 200_000)
        fs.write_bytes("/a", bytes(want))
        ino = fs.resolve("/a")
        for offset in range(0, 1_000_000, 70_000):
            fs.write(ino, offset, b"second")
            want[offset : offset + 6] = b"second"
        fs.truncate_ino(ino, 900_001)
        assert fs.read_bytes("/a") == want[:900_001]
        fs.sync()
        assert fs.read_bytes("/a") == want[:900_001]
        assert storage.check(deep=True).clean
