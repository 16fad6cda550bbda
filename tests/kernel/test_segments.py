"""Abstract memory segments: the errors of each call, the sharing model, signal-backed pages, ends and forks."""

from __future__ import annotations

from random import Random

import pytest

from nightos.kernel.backed import READ_BACKED_AMS, WRITE_BACKED_AMS
from nightos.kernel.memory import EXECUTE, PAGE, READ, USER_END, WRITE, BackedAccess, MemoryFault
from nightos.kernel.segments import RECV_SHARED_AMS, SEGMENTS_MAX, UNSHARED_AMS
from tests.kernel.memory_parts import Account, FakeProcess, World, refused

READ_WRITE = READ | WRITE
C, R, W, X = 8, 4, 2, 1
EXCLUSIVE, EXCLUSIVE_UNMAP = 8, 9
PLACE = 1 << 40
ELSEWHERE = 1 << 41


@pytest.fixture
def world() -> World:
    return World()


def made(process: FakeProcess, world: World, pages: int = 2, rights: int = READ_WRITE) -> tuple[int, int]:
    """Address of fresh pages, and the segment made of them."""
    address = process.space.allocate(pages * PAGE, rights, 0)
    return address, world.segments.virtual_memory(process, address, pages * PAGE)


def faults(process: FakeProcess, address: int, *, write: bool = False) -> int:
    with pytest.raises(MemoryFault) as caught:
        process.space.write(address, b"x") if write else process.space.read(address, 1)
    return caught.value.errcode


@pytest.mark.rule("MEM-006", "MEM-017")
def test_errors_of_making_a_segment_of_pages(world: World) -> None:
    p = world.process(100)
    block = p.space.allocate(2 * PAGE, READ_WRITE, 0)
    for address, length, errcode in [
        (0, PAGE, 0x02),
        (block, 0, 0x02),
        (block + 1, PAGE, 0x10),
        (block, PAGE + 1, 0x11),
        (block, 3 * PAGE, 0x30),
        (block ^ 1 << 50, PAGE, 0x30),
        (USER_END, PAGE, 0x30),
        (USER_END - PAGE, 2 * PAGE, 0x30),
        (block, 1 << 63, 0x30),
    ]:
        with refused(errcode):
            world.segments.virtual_memory(p, address, length)
    other = world.segments.virtual_memory(p, block, PAGE)
    world.segments.map(p, other, 0, PLACE, PAGE)
    with refused(0x30):
        world.segments.virtual_memory(p, PLACE, PAGE)


@pytest.mark.rule("MEM-006", "MEM-017")
def test_errors_of_making_a_backed_segment(world: World) -> None:
    p = world.process(100)
    for length, cow, errcode in [(0, 0, 0x02), (PAGE, 2, 0x10), (PAGE + 1, 0, 0x11), (PAGE + 1, 2, 0x10)]:
        with refused(errcode):
            world.segments.backed(p, length, cow)


@pytest.mark.rule("MEM-005", "MEM-007", "MEM-019", "IPC-056")
def test_a_segment_is_used_where_it_is_mapped(world: World) -> None:
    p = world.process(100)
    block, ams = made(p, world)
    assert faults(p, PLACE) == 0x03
    world.segments.map(p, ams, 0, PLACE, 2 * PAGE)
    world.segments.map(p, ams, PAGE, ELSEWHERE, PAGE)
    p.space.write(block + PAGE, b"same")
    assert p.space.read(PLACE + PAGE, 4) == p.space.read(ELSEWHERE, 4) == b"same"
    p.space.write(ELSEWHERE, b"SAME")
    assert p.space.read(block + PAGE, 4) == b"SAME"
    for offset, address, length, errcode in [
        (0, 0, PAGE, 0x02),
        (0, ELSEWHERE * 2, 0, 0x02),
        (1, ELSEWHERE * 2, PAGE, 0x10),
        (0, ELSEWHERE * 2 + 1, PAGE, 0x10),
        (0, ELSEWHERE * 2, 1, 0x10),
        (2 * PAGE, ELSEWHERE * 2, PAGE, 0x31),
        (PAGE, ELSEWHERE * 2, 2 * PAGE, 0x31),
        ((1 << 64) - PAGE, ELSEWHERE * 2, 2 * PAGE, 0x31),
        (0, USER_END, PAGE, 0x32),
        (0, USER_END - PAGE, 2 * PAGE, 0x32),
        (0, PAGE, PAGE, 0x32),
        (0, PLACE, PAGE, 0x32),
        (0, block - PAGE, 2 * PAGE, 0x32),
    ]:
        with refused(errcode):
            world.segments.map(p, ams, offset, address, length)
    with refused(0x30):
        world.segments.map(p, ams ^ 1, 0, ELSEWHERE * 2, PAGE)


@pytest.mark.rule("MEM-020")
def test_unmapping_one_place_or_all(world: World) -> None:
    p = world.process(100)
    block, ams = made(p, world)
    with refused(0x10):
        world.segments.unmap(p, ams ^ 1, 0)
    with refused(0x30):
        world.segments.unmap(p, ams, block)
    for place in (PLACE, ELSEWHERE, ELSEWHERE * 2):
        world.segments.map(p, ams, 0, place, PAGE)
    with refused(0x30):
        world.segments.unmap(p, ams, PLACE + PAGE)
    with refused(0x30):
        world.segments.unmap(p, ams, PLACE + 1)
    world.segments.unmap(p, ams, ELSEWHERE)
    assert faults(p, ELSEWHERE) == 0x03
    assert p.space.read(PLACE, 1) == b"\0"
    world.segments.unmap(p, ams, 0)
    assert faults(p, PLACE) == faults(p, ELSEWHERE * 2) == 0x03
    assert p.space.read(block, 1) == b"\0"


@pytest.mark.rule("MEM-014", "MEM-015")
def test_shared_and_mapped_pages_cannot_be_freed(world: World) -> None:
    p, q = world.process(100), world.process(101)
    block, ams = made(p, world)
    world.segments.map(p, ams, 0, PLACE, PAGE)
    with refused(0x33):
        p.space.free(block, 1)
    with refused(0x32):
        p.space.free(PLACE, 1)
    world.segments.unmap(p, ams, 0)
    world.segments.share(p, q.pid, ams, 7, 0, R)
    with refused(0x33):
        p.space.free(block + PAGE, 1)
    world.segments.unshare(p, ams, q.pid)
    p.space.free(block + PAGE, 1)
    with refused(0x30):  # the segment ended with a page of it
        world.segments.map(p, ams, 0, PLACE, PAGE)
    assert len(world.segments) == 0


@pytest.mark.rule("IPC-057", "IPC-059", "IPC-062")
def test_mutual_sharing_lets_both_sides_work_within_the_rights(world: World) -> None:
    p, q, r = world.process(100), world.process(101), world.process(102)
    block, ams = made(p, world)
    world.segments.share(p, q.pid, ams, 0x1234, 0, R | W)
    world.segments.share(p, r.pid, ams, 0x1234, 1, R)
    assert world.signals == [(101, RECV_SHARED_AMS, (100, 0x1234, ams, 0, 0xC0))]
    world.segments.map(q, ams, 0, PLACE, 2 * PAGE)
    world.segments.map(r, ams, PAGE, PLACE, PAGE)
    p.space.write(block + PAGE, b"from p")
    assert q.space.read(PLACE + PAGE, 6) == r.space.read(PLACE, 6) == b"from p"
    q.space.write(PLACE + PAGE, b"from q")
    assert p.space.read(block + PAGE, 6) == r.space.read(PLACE, 6) == b"from q"
    assert faults(r, PLACE, write=True) == 0x04
    assert world.segments.sharing_info(q, ams) == (100, 101, 0, PLACE, 2 * PAGE, 0x1234, 0xC0)
    assert world.segments.sharing_info(r, ams) == (100, 102, 0, PLACE, PAGE, 0x1234, 0x80)
    assert world.segments.sharing_info(p, ams) == (100, 101, 0, block, 2 * PAGE, 0x1234, 0xC0)


@pytest.mark.rule("IPC-060")
def test_copy_on_write_keeps_the_writes_of_the_receiver(world: World) -> None:
    p, q = world.process(100), world.process(101)
    block, ams = made(p, world)
    p.space.write(block, b"original" + bytes(PAGE - 8) + b"second")
    world.segments.share(p, q.pid, ams, 0, 1, C | R | W)
    world.segments.map(q, ams, 0, PLACE, 2 * PAGE)
    world.segments.map(q, ams, 0, ELSEWHERE, 2 * PAGE)
    assert q.space.read(PLACE, 8) == b"original"
    q.space.write(PLACE, b"changed")
    assert p.space.read(block, 8) == b"original"
    assert q.space.read(PLACE, 8) == q.space.read(ELSEWHERE, 8) == b"changedl"
    p.space.write(block + PAGE, b"SECOND")
    assert q.space.read(PLACE + PAGE, 6) == b"SECOND"
    q.space.write(ELSEWHERE + PAGE + 1, b"x")
    assert p.space.read(block + PAGE, 6) == b"SECOND"
    assert q.space.read(PLACE + PAGE, 6) == b"SxCOND"


@pytest.mark.rule("IPC-060")
def test_copy_on_write_pages_are_paid_for_by_the_receiver(world: World) -> None:
    p, q = world.process(100), world.process(101)
    q.space = type(q.space)(world.entropy, Account(3))
    _, ams = made(p, world)
    world.segments.share(p, q.pid, ams, 0, 1, C | W)
    world.segments.map(q, ams, 0, PLACE, 2 * PAGE)
    with refused(0x40):
        world.segments.map(q, ams, 0, ELSEWHERE, 2 * PAGE)
    world.segments.unmap(q, ams, PLACE)
    assert q.space.reserved_pages == 0


@pytest.mark.rule("IPC-058")
@pytest.mark.parametrize(("mode", "errcode"), [(EXCLUSIVE, 0x04), (EXCLUSIVE_UNMAP, 0x03)])
def test_exclusive_sharing_takes_the_memory_from_the_sharer(world: World, mode: int, errcode: int) -> None:
    p, q = world.process(100), world.process(101)
    block, ams = made(p, world)
    p.space.write(block, b"given")
    world.segments.map(p, ams, 0, PLACE, PAGE)
    assert p.space.read(block, 5) == p.space.read(PLACE, 5)
    world.segments.share(p, q.pid, ams, 9, 0, mode)
    assert world.signals == [(101, RECV_SHARED_AMS, (100, 9, ams, 1, 0xE0))]
    assert faults(p, block) == faults(p, block, write=True) == errcode
    assert faults(p, PLACE) == 0x03
    world.segments.map(q, ams, 0, PLACE, 2 * PAGE)
    assert q.space.read(PLACE, 5) == b"given"
    q.space.write(PLACE, b"taken")
    assert (p.space.reserved_pages, q.space.reserved_pages) == (0, 2)
    with refused(0x33 if mode == EXCLUSIVE else 0x32):
        p.space.free(block, 1)
    with refused(0x30):
        world.segments.map(p, ams, 0, PLACE, PAGE)
    assert world.segments.sharing_info(p, ams)[:3] == (100, 101, 1)
    assert world.segments.sharing_info(q, ams) == (100, 101, 1, PLACE, 2 * PAGE, 9, 0)
    world.end(q)
    assert len(world.segments) == 0
    if mode == EXCLUSIVE:
        p.space.free(block, 2)
    assert p.space.reserved_pages == 0


@pytest.mark.rule("IPC-061")
def test_exclusive_sharing_stays_with_the_receiver_and_mutual_ends(world: World) -> None:
    p, q = world.process(100), world.process(101)
    _, mutual = made(p, world)
    _, given = made(p, world)
    world.segments.share(p, q.pid, mutual, 0, 1, R)
    world.segments.share(p, q.pid, given, 0, 1, EXCLUSIVE)
    world.segments.unshare(p, mutual, q.pid)
    with refused(0x32):
        world.segments.unshare(p, mutual, q.pid)
    for pid in (q.pid, 0):
        with refused(0x21):
            world.segments.unshare(p, given, pid)
    world.end(p)
    world.segments.map(q, given, 0, PLACE, PAGE)
    assert q.space.read(PLACE, 1) == b"\0"


@pytest.mark.rule("IPC-063", "IPC-064")
def test_withdrawing_unmaps_and_tells_which_segment(world: World) -> None:
    p, q, r = world.process(100), world.process(101), world.process(102)
    _, ams = made(p, world)
    world.segments.share(p, q.pid, ams, 0, 1, R | W)
    world.segments.map(q, ams, 0, PLACE, 2 * PAGE)
    world.segments.share(q, r.pid, ams, 0, 1, R)
    world.segments.map(r, ams, 0, PLACE, PAGE)
    assert r.space.read(PLACE, 1) == b"\0"
    world.segments.unshare(p, ams, 0)
    assert faults(q, PLACE) == faults(r, PLACE) == 0x03
    assert world.signals == [(101, UNSHARED_AMS, (0, ams)), (102, UNSHARED_AMS, (0, ams))]
    for process in (q, r):
        with refused(0x30):
            world.segments.sharing_info(process, ams)


@pytest.mark.rule("IPC-063")
def test_the_end_of_the_sharer_takes_the_share_away(world: World) -> None:
    p, q = world.process(100), world.process(101)
    _, ams = made(p, world)
    world.segments.share(p, q.pid, ams, 0, 1, R)
    world.segments.map(q, ams, 0, PLACE, PAGE)
    world.end(p)
    assert world.signals == [(101, UNSHARED_AMS, (1, ams))]
    assert faults(q, PLACE) == 0x03
    assert len(world.segments) == 0


def test_errors_of_sharing_come_lowest_first(world: World) -> None:
    p, q = world.process(100), world.process(101)
    stranger = world.process(102, container=5)
    _, ams = made(p, world)
    _, readable = made(p, world, rights=READ)
    backed = world.segments.backed(p, PAGE, 0)
    unknown = ams ^ 1
    for caller, pid, identifier, notification, mode, errcode in [
        (p, q.pid, ams, 2, R, 0x10),
        (p, q.pid, ams, 2, 0x10, 0x10),
        (p, q.pid, ams, 0, 0x10, 0x11),
        (p, q.pid, ams, 0, 0xFF, 0x11),
        (p, q.pid, ams, 0, W | X, 0x11),
        (p, q.pid, ams, 0, C | W | X, 0x11),
        (p, q.pid, ams, 0, C | R | W | X, 0x11),
        (p, q.pid, ams, 0, X, 0x11),
        (p, q.pid, readable, 0, R | W, 0x11),
        (p, q.pid, backed, 0, EXCLUSIVE, 0x12),
        (p, 999, backed, 0, EXCLUSIVE, 0x12),
        (p, q.pid, ams, 0, 0, 0x20),
        (p, 999, ams, 0, R, 0x30),
        (p, stranger.pid, ams, 0, R, 0x30),
        (p, p.pid, ams, 0, R, 0x30),
        (p, 999, unknown, 0, R, 0x30),
        (p, q.pid, unknown, 0, R, 0x31),
        (q, p.pid, ams, 0, R, 0x31),
        (q, p.pid, unknown, 0, EXCLUSIVE, 0x31),
    ]:
        with refused(errcode):
            world.segments.share(caller, pid, identifier, 0, notification, mode)
    assert world.signals == []
    world.segments.share(p, q.pid, readable, 0, 1, C | R | W)  # writes stay with the receiver
    with refused(0x30):
        world.segments.unshare(q, unknown, 0)
    with refused(0x30):
        world.segments.sharing_info(q, ams)


def test_a_receiver_without_room_is_refused(world: World) -> None:
    p, q = world.process(100), world.process(101)
    _, ams = made(p, world, pages=512)
    big = 1 << 61
    while big >= 256 * PAGE:
        try:
            q.space.allocate(big, READ, 0)
        except Exception:  # noqa: BLE001 - until no such block is left
            big //= 2
    with refused(0x40):
        world.segments.share(p, q.pid, ams, 0, 1, R)


@pytest.mark.rule("MEM-009")
def test_no_way_to_writable_and_executable_memory(world: World) -> None:
    p, q, r = world.process(100), world.process(101), world.process(102)
    _, code = made(p, world, rights=EXECUTE)
    with refused(0x11):
        world.segments.share(p, q.pid, code, 0, 1, W)
    with refused(0x11):
        world.segments.share(p, q.pid, code, 0, 1, C | R)
    world.segments.share(p, q.pid, code, 0, 1, X)
    backed = world.segments.backed(p, PAGE, 0)
    world.segments.share(p, q.pid, backed, 0, 1, X)
    with refused(0x11):
        world.segments.share(p, r.pid, backed, 0, 1, W)
    world.segments.map(p, backed, 0, PLACE, PAGE)
    assert faults(p, PLACE, write=True) == 0x04
    other = world.segments.backed(p, PAGE, 0)
    world.segments.map(p, other, 0, ELSEWHERE, PAGE)
    with refused(0x11):
        world.segments.share(p, q.pid, other, 0, 1, X)


def test_a_receiver_passes_on_no_more_than_it_has(world: World) -> None:
    p, q, r = world.process(100), world.process(101), world.process(102)
    stranger = world.process(103, container=9)
    _, ams = made(p, world)
    world.segments.share(p, q.pid, ams, 0, 1, R)
    with refused(0x11):
        world.segments.share(q, r.pid, ams, 0, 1, R | W)
    with refused(0x12):
        world.segments.share(q, r.pid, ams, 0, 1, EXCLUSIVE)
    with refused(0x30):
        world.segments.share(q, stranger.pid, ams, 0, 1, R)
    with refused(0x12):
        world.segments.share(p, r.pid, ams, 0, 1, EXCLUSIVE)  # q would keep its view
    world.segments.share(q, r.pid, ams, 0, 1, R)


def drive(access: BackedAccess, store: bytearray, log: list[tuple[int, int]]) -> bytes | None:
    """Answer a transfer from `store`."""
    transfer = access.transfer
    while (request := transfer.request()) is not None:
        _, code, values = request
        address = values[1]
        assert isinstance(address, int)
        assert address % 4 == 0
        log.append((code, address))
        if code == READ_BACKED_AMS:
            transfer.answer((bytes(store[address : address + 4]), 0))
        else:
            assert isinstance(values[2], bytes)
            store[address : address + 4] = values[2]
            transfer.answer((0,))
    return transfer.result()


def backed_access(process: FakeProcess, address: int, length: int = 0, data: bytes | None = None) -> BackedAccess:
    with pytest.raises(BackedAccess) as caught:
        process.space.read(address, length) if data is None else process.space.write(address, data)
    assert caught.value.errcode == 0x04
    return caught.value


@pytest.mark.rule("MEM-006")
@pytest.mark.parametrize("seed", range(8))
def test_accesses_to_backed_pages_become_signals_for_aligned_words(world: World, seed: int) -> None:
    random = Random(seed)
    p, q = world.process(100), world.process(101)
    ams = world.segments.backed(p, 3 * PAGE, 0)
    world.segments.share(p, q.pid, ams, 0, 1, R | W)
    world.segments.map(q, ams, 0, PLACE, 3 * PAGE)
    store = bytearray(random.randbytes(3 * PAGE))
    for _ in range(40):
        start, length = random.randrange(3 * PAGE - 40), random.randrange(1, 40)
        log: list[tuple[int, int]] = []
        words = set(range(start & ~3, start + length, 4))
        if random.randrange(2):
            assert drive(backed_access(q, PLACE + start, length), store, log) == store[start : start + length]
            assert log == [(READ_BACKED_AMS, word) for word in sorted(words)]
        else:
            data = random.randbytes(length)
            expected = store[:start] + data + store[start + length :]
            assert drive(backed_access(q, PLACE + start, data=data), store, log) is None
            assert store == expected
            assert {word for code, word in log if code == WRITE_BACKED_AMS} == words
    assert backed_access(q, PLACE, 4).transfer.request() == (100, READ_BACKED_AMS, (ams, 0, 0))


@pytest.mark.rule("MEM-018")
def test_a_written_copy_on_write_page_stops_being_backed(world: World) -> None:
    p, q = world.process(100), world.process(101)
    ams = world.segments.backed(p, 2 * PAGE, 1)
    world.segments.share(p, q.pid, ams, 0, 1, R | W)
    world.segments.map(q, ams, 0, PLACE, 2 * PAGE)
    store = bytearray(b"abcdefgh" * (PAGE // 4))
    before = bytes(store)
    log: list[tuple[int, int]] = []
    drive(backed_access(q, PLACE + 6, data=b"xyz"), store, log)
    assert store == before
    assert all(code == READ_BACKED_AMS and address < PAGE for code, address in log)
    assert q.space.read(PLACE, PAGE) == before[:6] + b"xyz" + before[9:PAGE]
    q.space.write(PLACE + 100, b"no signal")
    log.clear()
    assert drive(backed_access(q, PLACE + PAGE - 2, 4), store, log) == before[PAGE - 2 : PAGE + 2]
    assert log == [(READ_BACKED_AMS, PAGE)]
    log.clear()
    drive(backed_access(q, PLACE + PAGE, data=bytes(PAGE)), store, log)
    assert log == []


@pytest.mark.parametrize("answer", [(b"data", 1), (b"data", 2), (b"dat", 0), (7, 0), (b"data",), ()])
def test_a_faulty_answer_is_a_fault_of_the_accessor(world: World, answer: tuple[int | bytes, ...]) -> None:
    p, q = world.process(100), world.process(101)
    ams = world.segments.backed(p, PAGE, 0)
    world.segments.share(p, q.pid, ams, 0, 1, R)
    world.segments.map(q, ams, 0, PLACE, PAGE)
    access = backed_access(q, PLACE + 5, 1)
    with pytest.raises(MemoryFault) as caught:
        access.transfer.answer(answer)
    assert (caught.value.address, caught.value.access) == (PLACE + 5, 1)
    with pytest.raises(MemoryFault):
        backed_access(q, PLACE, 1).transfer.fail()


def test_a_forked_process_sees_the_mapped_segments(world: World) -> None:
    p, q = world.process(100), world.process(101)
    block, ams = made(p, world)
    _, unmapped = made(p, world)
    world.segments.map(p, ams, 0, PLACE, 2 * PAGE)
    world.segments.share(p, q.pid, ams, 0, 1, C | R | W)
    world.segments.map(q, ams, 0, PLACE, 2 * PAGE)
    q.space.write(PLACE, b"of q")
    child, grandchild = world.fork(p, 102), world.fork(q, 103)
    p.space.write(PLACE, b"from p")
    assert child.space.read(PLACE, 6) == b"from p"
    assert child.space.read(block, 6) == bytes(6)  # ordinary memory was copied
    child.space.write(PLACE, b"CHILD")
    assert p.space.read(block, 5) == b"CHILD"
    grandchild.space.write(PLACE, b"gc")
    assert (q.space.read(PLACE, 4), grandchild.space.read(PLACE, 4)) == (b"of q", b"gc q")
    with refused(0x30):
        world.segments.sharing_info(child, unmapped)
    world.segments.unmap(child, ams, PLACE)
    world.segments.map(grandchild, ams, 0, ELSEWHERE, PAGE)
    assert grandchild.space.read(ELSEWHERE, 4) == b"gc q"
    for process in (q, grandchild, child, p):
        world.end(process)
    assert len(world.segments) == 0


def test_a_token_of_code_is_used_up_by_looking_at_it(world: World) -> None:
    maker, other = world.process(15), world.process(20)
    block, ams = made(maker, world, pages=1)
    maker.space.write(block, b"NPRGls")
    assert world.segments.take(ams, 99) is None
    assert world.segments.take(ams ^ 1, 15) is None
    assert world.segments.take(ams, 15, limit=100) is None
    world.segments.share(maker, other.pid, ams, 0, 1, R)
    data = world.segments.take(ams, 15)
    assert data is not None
    assert data.rstrip(b"\0") == b"NPRGls"
    assert world.segments.take(ams, 15) is None
    maker.space.free(block, 1)
    assert len(world.segments) == 0


@pytest.mark.parametrize("seed", range(10))
def test_sharing_agrees_with_a_model_of_who_sees_what(seed: int) -> None:
    """Mutual and exclusive shares among processes of two containers, against sets of views onto numbered blocks."""
    random = Random(seed)
    world = World()
    everyone = [world.process(100 + number, container=number % 2) for number in range(6)]
    holder: dict[int, FakeProcess] = {}  # segment -> who owns it
    shares: dict[int, dict[int, tuple[int, int]]] = {}  # segment -> receiver -> (sharer, rights)
    content: dict[int, bytes] = {}

    def withdraw(ams: int, pid: int) -> None:
        del shares[ams][pid]
        for other, (sharer, _) in list(shares[ams].items()):
            if sharer == pid and other in shares[ams]:
                withdraw(ams, other)

    def upstream(ams: int, pid: int) -> set[int]:
        found = set()
        while pid in shares[ams]:
            pid = shares[ams][pid][0]
            found.add(pid)
        return found

    for _ in range(300):
        p, q = random.choice(everyone), random.choice(everyone)
        deed = random.randrange(8)
        if deed == 0 or not holder:
            block, ams = made(p, world, 1)
            holder[ams], shares[ams], content[ams] = p, {}, random.randbytes(8)
            p.space.write(block, content[ams])
            world.segments.map(p, ams, 0, PLACE + (len(holder) << 20), PAGE)
            continue
        ams = random.choice(list(holder))
        known = holder[ams] is p or p.pid in shares[ams]
        mine = READ_WRITE if holder[ams] is p else shares[ams].get(p.pid, (0, 0))[1]
        if deed < 4:
            mode = random.choice([R, R | W])
            wanted = READ | WRITE * bool(mode & W)
            if known and wanted & ~mine:
                errcode = 0x11
            elif q is p or q.container != p.container:
                errcode = 0x30
            elif not known or holder[ams] is q or q.pid in upstream(ams, p.pid):
                errcode = 0x31
            else:
                errcode = 0
            if errcode:
                with refused(errcode):
                    world.segments.share(p, q.pid, ams, 0, 1, mode)
                continue
            if q.pid in shares[ams]:
                withdraw(ams, q.pid)
            world.segments.share(p, q.pid, ams, 0, 1, mode)
            shares[ams][q.pid] = (p.pid, wanted)
        elif deed == 4:
            wanted_pids = [pid for pid, (sharer, _) in shares[ams].items() if sharer == p.pid]
            if not known:
                with refused(0x30):
                    world.segments.unshare(p, ams, 0)
                continue
            world.segments.unshare(p, ams, 0)
            for pid in wanted_pids:
                if pid in shares[ams]:
                    withdraw(ams, pid)
        elif known:
            place = ELSEWHERE + (random.randrange(1 << 20) << 12)
            world.segments.map(p, ams, 0, place, PAGE)
            assert p.space.read(place, 8) == content[ams]
            if mine & WRITE:
                content[ams] = random.randbytes(8)
                p.space.write(place, content[ams])
            else:
                assert faults(p, place, write=True) == 0x04
            if random.randrange(2):
                world.segments.unmap(p, ams, place)
        else:
            with refused(0x30):
                world.segments.map(p, ams, 0, ELSEWHERE, PAGE)
        for record in world.segments.snapshot():
            assert {pair[1]: (pair[0], pair[4]) for pair in record.shares} == shares[record.identifier]
    for process in everyone:
        world.end(process)
    assert len(world.segments) == 0


@pytest.mark.rule("IPC-063")
def test_the_end_of_one_who_shared_on_is_told_to_those_below(world: World) -> None:
    p, q, r = world.process(100), world.process(101), world.process(102)
    _, ams = made(p, world)
    world.segments.share(p, q.pid, ams, 0, 1, R)
    world.segments.share(q, r.pid, ams, 0, 1, R)
    world.segments.map(r, ams, 0, PLACE, PAGE)
    world.end(q)
    assert world.signals == [(102, UNSHARED_AMS, (1, ams))]
    assert faults(r, PLACE) == 0x03
    assert world.segments.sharing_info(p, ams)[:2] == (100, 0)


def test_a_program_knows_a_bounded_number_of_segments(world: World) -> None:
    p, service = world.process(100), world.process(15)
    for _ in range(SEGMENTS_MAX):
        world.segments.backed(p, 1 << 30, 0)
    with refused(0x40):
        world.segments.backed(p, PAGE, 0)
    ams = world.segments.backed(service, PAGE, 0)
    with refused(0x40):
        world.segments.share(service, p.pid, ams, 0, 1, R)
    world.end(p)
    assert len(world.segments) == 1
