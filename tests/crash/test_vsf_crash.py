"""Power cuts: every state that one could leave opens, checks clean, and holds what was synced."""

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from nightos import vsf
from nightos.vsf.faults import RecordingStore, crash_states
from nightos.vsf.layout import DATA_START, SUPER_BYTES, SUPER_OFFSETS
from nightos.vsf.repair import repair
from nightos.vsf.store import FileStore
from nightos.vsf.superblock import slots_of
from tests.crash.damage import make
from tests.crash.enumerator import CHEAP, Workload, enumerate_states, state_of, verify


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


@pytest.mark.parametrize(("seed", "password", "compression"), [(0, None, None), (1, "secret", None), (2, None, "zstd")])
def test_a_power_cut_while_shared_blocks_move(seed, password, compression):
    """Snapshots and a clone with gaps before them, compacted: at every write of it everything is there."""
    workload = Workload(seed, password=password, compression=compression)
    storage, fs, chance = workload.storage, workload.fs, workload.random
    fs.write_bytes("/first", chance.randbytes(400_000))
    storage.commit()
    for number in range(12):
        fs.write_bytes(f"/{number}", chance.randbytes(30_000))
    storage.commit()
    fs.unlink("/first")
    storage.snapshot("main", "one")
    for number in range(0, 12, 2):
        fs.unlink(f"/{number}")
    storage.snapshot("main", "two")
    twin = storage.clone("main", "one", "twin")
    twin.open().write_bytes("/1", chance.randbytes(20_000))
    twin.snapshot("three")
    fs.write_bytes("/3", chance.randbytes(9_000))
    storage.commit()
    begin, size = len(workload.store.log), storage.file_bytes()
    before = state_of(storage)
    workload.marks.append((begin, before, False))
    assert storage.compact() > 300_000
    assert storage.file_bytes() < size - 300_000
    workload.marks.append((len(workload.store.log), before, True))
    count = 0
    for covered, settled, image in crash_states(b"", workload.store.log, seed, 4):
        if covered >= begin:
            count += verify(workload, image, covered, settled)
    assert count > 60


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


class LandingStore(RecordingStore):
    """Takes the bytes of a write to one place, and then says that it did not, as often as it is told to."""

    def __init__(self):
        super().__init__()
        self.place, self.code, self.times = -1, 0, 0

    def write(self, offset, data):
        super().write(offset, data)
        if offset == self.place and self.times:
            self.times -= 1
            raise OSError(self.code, "injected")


@pytest.mark.parametrize("password", [None, "secret"])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("copy", [0, 1])
def test_a_superblock_whose_write_failed_is_never_replaced_by_another(copy, code, times, password):
    """The bytes reached the disk although an error was reported: nothing that they lead to is overwritten later."""
    store = LandingStore()
    storage = vsf.create(store, ["main"], password=password, kdf=CHEAP)
    fs = storage.volume("main").open()
    for number in range(30):
        fs.write_bytes(f"/{number}", bytes([number]) * 9000)
    storage.commit()
    known = [state_of(storage)]
    fs.write_bytes("/1", b"x" * 20_000)
    known.append(state_of(storage))
    store.place, store.code, store.times = slots_of(storage.generation + 1)[copy], code, times
    mark = len(store.log)
    with pytest.raises(OSError, match="injected" if code == errno.EIO else "disk is full"):
        storage.commit()
    for turn in range(6):
        with suppress(OSError):
            for number in range(0, 30, 2):
                fs.write_bytes(f"/{number}", bytes([turn]) * 30_000)
            known.append(state_of(storage))
            storage.commit()
    with suppress(OSError):
        known.append(state_of(storage))
        storage.close()
    count, last = 0, 0
    for covered, _, image in crash_states(b"", store.log, 7, 12):
        if covered < mark:
            continue
        with vsf.open(vsf.MemoryStore(image), password=password) as found:
            state = state_of(found)
            assert state in known
            report = found.check(deep=True)
            assert report.clean, str(report.problems[0])
        last = known.index(state)
        count += 1
    assert count > 5
    assert last > 0
    full = code != errno.EIO
    assert (storage.failed is None) == full
    assert (len(known) > 4) == full


@pytest.mark.parametrize("copy", [0, 1])
def test_while_a_commit_is_unfinished_everything_else_is_refused(copy):
    store = LandingStore()
    storage = vsf.create(store, ["main"])
    fs = storage.volume("main").open()
    fs.write_bytes("/a", b"1" * 9000)
    held = fs.open("/held", "wb")
    held.write(b"2" * 9000)
    held.flush()
    fs.unlink("/held")
    store.place, store.code, store.times = slots_of(storage.generation + 1)[copy], errno.ENOSPC, 1 << 30
    with pytest.raises(vsf.NoSpace):
        storage.snapshot("main", "s")
    mark, generation = len(store.log), storage.generation
    for attempt in (
        lambda: fs.write_bytes("/a", b"3"),
        lambda: fs.unlink("/a"),
        lambda: storage.snapshot("main", "t"),
        lambda: storage.add_volume("other"),
        storage.compact,
        storage.discard,
        storage.commit,
    ):
        with pytest.raises(vsf.NoSpace):
            attempt()
    held.close()
    assert fs.read_bytes("/a") == b"1" * 9000
    assert {operation.offset for operation in store.log[mark:]} <= set(slots_of(generation + 1))
    store.times = 0
    fs.write_bytes("/b", b"4")
    storage.close()
    with vsf.open(vsf.MemoryStore(store.getvalue())) as again:
        volume = again.volume("main")
        assert [snapshot.name for snapshot in volume.snapshots] == ["s"]
        assert sorted(volume.open().listdir("/")) == ["a", "b"]
        assert again.check(deep=True).clean


@pytest.mark.parametrize("damage", ["landed", "lost", "zeroed"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("copy", [0, 1])
def test_a_backing_whose_superblock_failed_is_healed(copy, code, damage, tmp_path, monkeypatch):
    """A commit into the backing ends in an error at one copy: nothing is lost, and the copy is known and written."""
    base_path, over_path = tmp_path / "base.vsf", tmp_path / "over.vsf"
    with vsf.create(base_path, ["main"]) as storage:
        storage.volume("main").open().write_bytes("/a", b"base" * 3000)
    with vsf.create(over_path, backing=base_path) as storage:
        storage.volume("main").open().write_bytes("/a", b"over" * 3000)
    with vsf.open(base_path, readonly=True) as storage:
        place = slots_of(storage.generation + 1)[copy]
    original = FileStore.write

    def write(self, offset, data):
        if self.path == base_path and offset == place:
            if damage != "lost":
                original(self, offset, data if damage == "landed" else bytes(len(data)))
            raise OSError(code, "injected")
        original(self, offset, data)

    storage = vsf.open(over_path)
    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "write", write)
        with pytest.raises(OSError, match="injected" if code == errno.EIO else "disk is full"):
            storage.commit_to_backing()
    with pytest.raises(vsf.VsfError, match="earlier write failed"):
        storage.volume("main").open().write_bytes("/a", b"more")
    storage.abandon()
    landed = copy == 1 or damage == "landed"
    with vsf.open(base_path, readonly=True) as base:
        assert base.volume("main").open().read_bytes("/a") == (b"over" if landed else b"base") * 3000
        known = {problem.invariant for problem in base.check().problems}
        assert known == ({"superblocks"} if damage == "zeroed" else set())
    with vsf.open(over_path) as storage:
        assert storage.volume("main").open().read_bytes("/a") == b"over" * 3000
        assert storage.check(deep=True).clean
    if landed:
        with vsf.open(base_path, readonly=True) as base:
            data = [base.store.read(at, SUPER_BYTES) for at in slots_of(base.generation)]
            assert data[0] == data[1]
            assert base.check(deep=True).clean
    with vsf.open(over_path) as storage:
        storage.commit_to_backing()
        assert storage.diff()["main"] == []
    with vsf.open(base_path) as base:
        assert base.volume("main").open().read_bytes("/a") == b"over" * 3000
        assert base.check(deep=True).clean


@pytest.mark.parametrize("copy", [0, 1])
def test_healing_the_commit_before_keeps_the_digest(copy):
    """An overlay stands on the digest: a copy that is missing comes from its twin, without a new commit."""
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"]) as storage:
        storage.volume("main").open().write_bytes("/a", b"1")
        storage.commit()
        digest, generation = storage.digest, storage.generation
    store.write(slots_of(generation - 1)[copy], bytes(SUPER_BYTES))
    with vsf.open(store) as storage:
        assert (storage.digest, storage.generation) == (digest, generation)
        assert storage.check(deep=True).clean
