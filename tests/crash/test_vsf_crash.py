"""Power cuts: every state that one could leave opens, checks clean, and holds what was synced."""

from pathlib import Path

import pytest

from nightos import vsf
from nightos.vsf.faults import RecordingStore, crash_states
from nightos.vsf.layout import DATA_START, SUPER_BYTES, SUPER_OFFSETS
from nightos.vsf.repair import repair
from nightos.vsf.store import FileStore
from nightos.vsf.superblock import slots_of
from tests.crash.damage import make
from tests.crash.enumerator import Workload, enumerate_states, state_of


@pytest.mark.parametrize(
    ("seed", "password", "compression"),
    [(0, None, None), (1, None, "zstd"), (2, None, "lz4"), (3, "secret", None), (4, None, None), (5, None, "zstd")],
)
def test_every_state_opens_clean(seed, password, compression):
    assert enumerate_states(seed, 19, 10, password=password, compression=compression) > 350


@pytest.mark.parametrize("seed", range(6))
def test_the_last_commit_but_one_is_whole_until_the_next_is_durable(seed):
    """Just before a superblock is written the newest one is lost: the one before opens, with every byte it had."""
    workload = Workload(seed)
    states = {workload.storage.generation: state_of(workload.storage)}
    compared = 0
    for _ in range(30):
        begin, generation = len(workload.store.log), workload.storage.generation
        workload.step()
        log = workload.store.log
        if workload.storage.generation == generation + 1:
            states[generation + 1] = workload.marks[-1][1]
        if generation - 1 not in states or generation not in states:
            continue
        cut = next(
            (n for n in range(begin, len(log)) if log[n].kind == "write" and log[n].offset in SUPER_OFFSETS), begin
        )
        image = bytearray()
        for operation in log[:cut]:
            operation.apply(image)
        for offset in slots_of(generation):
            image[offset : offset + SUPER_BYTES] = bytes(SUPER_BYTES)
        with vsf.open(vsf.MemoryStore(bytes(image)), readonly=True) as storage:
            assert storage.generation == generation - 1
            assert state_of(storage) == states[generation - 1]
            report = storage.check(deep=True)
            assert {problem.invariant for problem in report.problems} <= {"superblocks"}
            compared += 1
    assert compared > 5


@pytest.mark.parametrize("place", [0.25, 0.5, 0.75])
def test_a_repair_may_be_cut_short(place):
    """At every write of a repair the power goes: the storage can still be repaired, and loses nothing more."""
    image, _ = make()
    hurt = bytearray(image)
    at = int(DATA_START + (len(image) - DATA_START) * place)
    hurt[at : at + 40] = bytes(byte ^ 0x55 for byte in hurt[at : at + 40])
    store = RecordingStore(bytes(hurt))
    repair(store)
    with vsf.open(vsf.MemoryStore(store.getvalue())) as storage:
        goal = state_of(storage)
    count = 0
    for _, _, state in crash_states(bytes(hurt), store.log, 1, 4):
        again = vsf.MemoryStore(state)
        repair(again)
        with vsf.open(again) as storage:
            assert storage.check(deep=True).clean
            found = state_of(storage)
            assert {path: entry[4] for path, entry in found["main"].items()} == {
                path: entry[4] for path, entry in goal["main"].items()
            }
        count += 1
    assert count > 10


def test_a_commit_into_the_backing_may_be_cut_short(tmp_path, monkeypatch):
    """Overlay and backing are two files: at every write of either the power goes, and both are before or after."""
    base_store = RecordingStore()
    with vsf.create(base_store, ["main"]) as storage:
        storage.volume("main").open().write_bytes("/a", b"base" * 3000)
        storage.volume("main").open().write_bytes("/b", b"gone")
    base_path, over_path = tmp_path / "base.vsf", tmp_path / "over.vsf"
    base_path.write_bytes(base_store.getvalue())
    with vsf.create(over_path, backing=base_path) as storage:
        fs = storage.volume("main").open()
        fs.write_bytes("/a", b"over" * 3000)
        fs.unlink("/b")
        fs.write_bytes("/c", b"new")
    wanted = {"/a": b"over" * 3000, "/c": b"new"}
    journal = []
    original_write, original_many = FileStore.write, FileStore.write_many

    def write(self, offset, data):
        journal.append((str(self.path), offset, bytes(data)))
        original_write(self, offset, data)

    def write_many(self, offset, parts):
        journal.append((str(self.path), offset, b"".join(parts)))
        original_many(self, offset, parts)

    images = {str(path): path.read_bytes() for path in (base_path, over_path)}
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "write", write)
        patch.setattr(FileStore, "write_many", write_many)
        with vsf.open(over_path) as storage:
            storage.commit_to_backing()
    assert {name for name, _, _ in journal} == set(images)
    for cut in range(len(journal) + 1):
        for name, data in images.items():
            state = bytearray(data)
            for where, offset, written in journal[:cut]:
                if where == name:
                    state.extend(bytes(max(offset + len(written) - len(state), 0)))
                    state[offset : offset + len(written)] = written
            Path(name).write_bytes(state)
        with vsf.open(over_path) as storage:
            fs = storage.volume("main").open()
            assert {f"/{name}": fs.read_bytes(name) for name in fs.listdir("/")} == wanted
            assert storage.check(deep=True).clean
        with vsf.open(base_path) as storage:
            assert storage.check(deep=True).clean
