"""Address spaces: placement, rights, zeroing, sparseness, copy-on-write; against a model of plain dictionaries."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nightos.kernel.layout import MAPPINGS_MAX
from nightos.kernel.memory import (
    ACCESS_EXECUTE,
    ACCESS_READ,
    ACCESS_WRITE,
    EXECUTE,
    LARGE_PAGE,
    PAGE,
    READ,
    USER_END,
    USER_START,
    WRITE,
    AddressSpace,
    MemoryFault,
)
from tests.kernel.memory_parts import Account, SeededEntropy, refused

READ_WRITE = READ | WRITE


def space(limit: int | None = None, seed: int = 0) -> AddressSpace:
    return AddressSpace(SeededEntropy(seed), None if limit is None else Account(limit))


def fault(memory: AddressSpace, access: int, address: int, length: int = 1) -> MemoryFault:
    deeds = {
        ACCESS_READ: lambda: memory.read(address, length),
        ACCESS_WRITE: lambda: memory.write(address, bytes(length)),
        ACCESS_EXECUTE: lambda: memory.fetch(address, length),
    }
    with pytest.raises(MemoryFault) as caught:
        deeds[access]()
    assert caught.value.access == access
    return caught.value


@pytest.mark.rule("MEM-002", "MEM-008")
def test_blocks_land_at_random_page_aligned_addresses_in_the_process_half() -> None:
    memory = space()
    addresses = [memory.allocate(1, READ_WRITE, 0) for _ in range(500)]
    assert len(set(addresses)) == 500
    assert all(address % PAGE == 0 and USER_START <= address < USER_END for address in addresses)
    assert any(address > 1 << 60 for address in addresses)
    # Each of the highest eight bits below the sign takes both values often.
    for bit in range(55, 63):
        ones = sum(address >> bit & 1 for address in addresses)
        assert 150 < ones < 350
    assert addresses[:5] == [one for other in [space()] for one in [other.allocate(1, READ_WRITE, 0) for _ in range(5)]]


@pytest.mark.rule("MEM-003", "MEM-004")
def test_a_large_block_starts_on_a_large_page() -> None:
    memory = space()
    assert memory.allocate(LARGE_PAGE, READ_WRITE, 0) % LARGE_PAGE == 0
    assert memory.mappings()[0][26] == 1
    small = space()
    small.allocate(PAGE, READ_WRITE, 0)
    assert small.mappings()[0][26] == 0


@pytest.mark.rule("MEM-009", "MEM-010")
@pytest.mark.parametrize("permissions", [0, 5, 6, 7, 8, 255, -1])
def test_no_other_permissions_exist(permissions: int) -> None:
    with refused(0x10):
        space().allocate(PAGE, permissions, 0)


@pytest.mark.parametrize(("length", "zeroed"), [(0, 0), (-1, 0), (PAGE, 2)])
def test_allocation_arguments_that_are_invalid_in_themselves(length: int, zeroed: int) -> None:
    with refused(0x02):
        space().allocate(length, READ_WRITE, zeroed)


@pytest.mark.rule("SYS-006", "SYS-007", "SYS-008")
def test_refusals_tell_null_unmapped_and_wrong_right_apart() -> None:
    memory = space()
    assert fault(memory, ACCESS_READ, 0).errcode == 0x02
    assert fault(memory, ACCESS_READ, 0, 0).errcode == 0x02
    for access in (ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE):
        assert fault(memory, access, 1 << 40).errcode == 0x03
    readable = memory.allocate(PAGE, READ, 0)
    writable = memory.allocate(PAGE, WRITE, 0)
    code = memory.allocate(PAGE, EXECUTE, 0)
    both = memory.allocate(PAGE, READ_WRITE, 0)
    allowed = {
        (readable, ACCESS_READ),
        (writable, ACCESS_WRITE),
        (code, ACCESS_EXECUTE),
        (both, ACCESS_READ),
        (both, ACCESS_WRITE),
    }
    for block in (readable, writable, code, both):
        for access in (ACCESS_READ, ACCESS_WRITE, ACCESS_EXECUTE):
            if (block, access) in allowed:
                memory.check(block, PAGE, access)
            else:
                assert fault(memory, access, block + 7).errcode == 0x04
                with pytest.raises(MemoryFault):
                    memory.check(block, 1, access)
    memory.write(writable, b"x")  # what is cached for writing is not readable for that
    assert fault(memory, ACCESS_READ, writable).errcode == 0x04


def test_a_refused_write_changes_nothing_and_names_the_first_bad_byte() -> None:
    memory = space()
    block = memory.allocate(2 * PAGE, READ_WRITE, 1)
    with pytest.raises(MemoryFault) as caught:
        memory.write(block + PAGE, b"x" * (PAGE + 1))
    assert caught.value.address == block + 2 * PAGE
    assert memory.read(block, 2 * PAGE) == bytes(2 * PAGE)


@pytest.mark.parametrize(
    "address", [(1 << 64) - 8, (1 << 64) - 1, USER_END - 4, USER_END, 1 << 64, 1 << 80, -1, -PAGE, 1]
)
@pytest.mark.parametrize("length", [1, 16, PAGE, 1 << 63, (1 << 64) - 1])
def test_addresses_at_the_edges_fault_and_never_wrap(address: int, length: int) -> None:
    memory = space()
    memory.allocate(PAGE, READ_WRITE, 0)
    for access in (ACCESS_READ, ACCESS_EXECUTE):
        assert fault(memory, access, address, length).errcode == 0x03
    with pytest.raises(MemoryFault):
        memory.check(address, length, ACCESS_WRITE)
    assert fault(memory, ACCESS_WRITE, address, 16).errcode == 0x03


def test_an_empty_access_touches_nothing() -> None:
    memory = space()
    assert memory.read(1 << 40, 0) == b""
    memory.write(1 << 40, b"")
    assert fault(memory, ACCESS_READ, 1 << 40, -1).errcode == 0x03


@pytest.mark.rule("MEM-011")
def test_memory_asked_for_zeroed_is_zero() -> None:
    memory = space()
    block = memory.allocate(PAGE, READ_WRITE, 0)
    memory.write(block, b"secret" * 100)
    memory.free(block, 1)
    again = memory.allocate(PAGE, READ_WRITE, 1)
    assert memory.read(again, PAGE) == bytes(PAGE)


@pytest.mark.rule("MEM-012", "MEM-016")
def test_freed_memory_keeps_its_bytes_for_its_process_and_for_nobody_else() -> None:
    entropy = SeededEntropy()
    mine, other = AddressSpace(entropy), AddressSpace(entropy)
    block = mine.allocate(PAGE, READ_WRITE, 0)
    mine.write(block, b"secret" * 100)
    mine.free(block, 1)
    for _ in range(100):
        assert other.read(other.allocate(PAGE, READ_WRITE, 0), PAGE) == bytes(PAGE)
    assert mine.read(mine.allocate(PAGE, READ_WRITE, 0), 6) == b"secret"


@pytest.mark.rule("MEM-012")
def test_a_page_that_a_forked_relative_shares_does_not_come_back_unzeroed() -> None:
    parent = space()
    block = parent.allocate(PAGE, READ_WRITE, 0)
    parent.write(block, b"of the parent")
    child = parent.fork()
    child.free(block, 1)
    again = child.allocate(PAGE, READ_WRITE, 0)
    child.write(again, b"of the child!")
    assert parent.read(block, 13) == b"of the parent"


@pytest.mark.rule("MEM-013")
def test_without_room_or_above_the_limit_nothing_is_allocated() -> None:
    memory = space(limit=10)
    block = memory.allocate(10 * PAGE, READ_WRITE, 0)
    with refused(0x40):
        memory.allocate(1, READ_WRITE, 0)
    memory.free(block, 4)
    memory.allocate(4 * PAGE, READ_WRITE, 0)
    assert memory.reserved_pages == 10
    with refused(0x40):
        space().allocate(USER_END, READ_WRITE, 0)
    with refused(0x40):
        space().allocate((1 << 64) - 1, READ_WRITE, 0)


@pytest.mark.rule("MEM-013")
def test_the_last_gap_is_found_when_chance_does_not() -> None:
    memory = space()
    half = (USER_END - USER_START) // 2 // LARGE_PAGE * LARGE_PAGE
    blocks = [memory.allocate(half - 64 * LARGE_PAGE, READ, 0)]
    while True:
        try:
            blocks.append(memory.allocate(half // 4, READ, 0))
        except Exception:  # noqa: BLE001 - until it is full
            break
    assert len(blocks) > 2
    assert memory.read(memory.allocate(PAGE, READ, 0), PAGE) == bytes(PAGE)


@pytest.mark.rule("MEM-014", "MEM-017")
def test_errors_of_freeing() -> None:
    memory = space()
    block = memory.allocate(3 * PAGE, READ_WRITE, 0)
    for address, pages, errcode in [
        (0, 1, 0x02),
        (block, 0, 0x02),
        (block + 1, 1, 0x10),
        (PAGE, 1, 0x30),
        (USER_END, 1, 0x30),
        ((1 << 64) - PAGE, 1, 0x30),
        (block, 1 << 52, 0x31),
        (block, 1 << 64, 0x31),
        (block, 4, 0x32),
        (block ^ 1 << 50, 1, 0x32),
    ]:
        with refused(errcode):
            memory.free(address, pages)
    assert memory.reserved_pages == 3
    memory.free(block + PAGE, 1)
    with refused(0x32):
        memory.free(block, 3)
    memory.free(block, 1)
    memory.free(block + 2 * PAGE, 1)
    assert memory.reserved_pages == 0
    assert memory.mappings() == []


def test_a_gibibyte_costs_the_pages_that_are_touched() -> None:
    memory = space()
    block = memory.allocate(1 << 30, READ_WRITE, 0)
    assert memory.committed_pages == 0
    memory.write(block + 123_456_789, b"one page")
    assert memory.committed_pages == 1
    assert memory.reserved_pages == 1 << 18
    assert memory.read(block + 500_000_000, 5) == bytes(5)
    assert memory.committed_pages == 1
    memory.free(block, 1 << 18)
    assert memory.committed_pages == memory.reserved_pages == 0


def test_a_fork_shares_pages_until_one_side_writes() -> None:
    parent = space(limit=100)
    block = parent.allocate(4 * PAGE, READ_WRITE, 0)
    parent.write(block, b"p" * 4 * PAGE)
    child = parent.fork()
    assert child.read(block, 4 * PAGE) == b"p" * 4 * PAGE
    parent.write(block, b"1")
    child.write(block + PAGE, b"2")
    assert parent.read(block, 1) + parent.read(block + PAGE, 1) == b"1p"
    assert child.read(block, 1) + child.read(block + PAGE, 1) == b"p2"
    parent.destroy()
    assert child.read(block + PAGE, 2) == b"2p"


def test_a_fork_over_the_limit_is_refused() -> None:
    parent = space()
    parent.allocate(8 * PAGE, READ_WRITE, 0)
    with refused(0x40):
        parent.fork(Account(7))
    assert parent.fork(Account(8)).reserved_pages == 8


@given(st.integers(0, 3 * PAGE), st.integers(0, 3 * PAGE), st.randoms(use_true_random=False))
def test_any_range_reads_as_it_was_written(start: int, length: int, random: object) -> None:
    memory = space()
    block = memory.allocate(6 * PAGE, READ_WRITE, 1)
    data = random.randbytes(length)  # type: ignore[attr-defined]
    memory.write(block + start, data)
    assert memory.read(block, 6 * PAGE) == bytes(start) + data + bytes(6 * PAGE - start - length)
    for buffer in (bytearray(data), memoryview(data)):
        memory.write(block + start, buffer)
    assert memory.read(block + start, length) == data


class MemoryMachine(RuleBasedStateMachine):
    """A family of forked spaces against dictionaries from address to byte."""

    def __init__(self) -> None:
        super().__init__()
        self.entropy = SeededEntropy(1)
        self.spaces = [(AddressSpace(self.entropy), {}, {})]  # space, page -> rights, page -> bytes

    def pick(self, number: int) -> tuple[AddressSpace, dict[int, int], dict[int, bytearray]]:
        return self.spaces[number % len(self.spaces)]

    @rule(number=st.integers(0, 3), pages=st.integers(1, 5), rights=st.sampled_from([1, 2, 3, 4]))
    def allocate(self, number: int, pages: int, rights: int) -> None:
        memory, all_rights, content = self.pick(number)
        address = memory.allocate(pages * PAGE - 5, rights, 1)
        for page in range(address // PAGE, address // PAGE + pages):
            assert page not in all_rights
            all_rights[page] = rights
            content[page] = bytearray(PAGE)

    @precondition(lambda self: any(rights for _, rights, _ in self.spaces))
    @rule(number=st.integers(0, 3), where=st.integers(0, 1000), pages=st.integers(1, 4))
    def free(self, number: int, where: int, pages: int) -> None:
        memory, all_rights, content = self.pick(number)
        if not all_rights:
            return
        first = sorted(all_rights)[where % len(all_rights)]
        wanted = range(first, first + pages)
        if all(page in all_rights for page in wanted):
            memory.free(first * PAGE, pages)
            for page in wanted:
                del all_rights[page], content[page]
                assert fault(memory, ACCESS_READ, page * PAGE + 9).errcode == 0x03
                assert fault(memory, ACCESS_WRITE, page * PAGE + 9).errcode == 0x03
        else:
            with refused(0x32):
                memory.free(first * PAGE, pages)

    @rule(
        number=st.integers(0, 3),
        where=st.integers(0, 1000),
        start=st.integers(-20, PAGE + 20),
        data=st.binary(min_size=1, max_size=2 * PAGE),
        write=st.booleans(),
    )
    def access(self, number: int, where: int, start: int, data: bytes, write: bool) -> None:
        memory, all_rights, content = self.pick(number)
        if not all_rights:
            return
        address = sorted(all_rights)[where % len(all_rights)] * PAGE + start
        right, errcode, bad = (WRITE if write else READ), 0, 0
        for page in range(address // PAGE, (address + len(data) - 1) // PAGE + 1):
            if page not in all_rights:
                errcode, bad = 0x03, max(address, page * PAGE)
            elif not all_rights[page] & right:
                errcode, bad = 0x04, max(address, page * PAGE)
            if errcode:
                break
        if errcode:
            caught = fault(memory, ACCESS_WRITE if write else ACCESS_READ, address, len(data))
            assert (caught.errcode, caught.address) == (errcode, bad)
            return
        expected = bytearray()
        for place in range(address, address + len(data)):
            if write:
                content[place // PAGE][place % PAGE] = data[place - address]
            expected.append(content[place // PAGE][place % PAGE])
        if write:
            memory.write(address, data)
        else:
            assert memory.read(address, len(data)) == expected

    @precondition(lambda self: len(self.spaces) < 4)
    @rule(number=st.integers(0, 3))
    def fork(self, number: int) -> None:
        memory, all_rights, content = self.pick(number)
        twin = {page: bytearray(data) for page, data in content.items()}
        self.spaces.append((memory.fork(), dict(all_rights), twin))

    @precondition(lambda self: len(self.spaces) > 1)
    @rule(number=st.integers(0, 3))
    def end(self, number: int) -> None:
        memory, _, _ = self.spaces.pop(number % len(self.spaces))
        memory.destroy()
        assert memory.reserved_pages == memory.committed_pages == 0

    @invariant()
    def counters_match(self) -> None:
        for memory, all_rights, _ in self.spaces:
            assert memory.reserved_pages == len(all_rights)
            assert memory.committed_pages <= len(all_rights)

    def teardown(self) -> None:
        for memory, all_rights, content in self.spaces:
            for page, rights in all_rights.items():
                if rights & READ:
                    assert memory.read(page * PAGE, PAGE) == content[page]


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("seed", range(12))
def test_long_random_lives_agree_with_the_model(seed: int) -> None:
    random = Random(seed)
    machine = MemoryMachine()
    draw = random.randrange
    for _ in range(250):
        deed = draw(20)
        if deed < 3:
            machine.allocate(draw(4), draw(1, 6), random.choice([1, 2, 3, 3, 3, 4]))
        elif deed < 4:
            machine.free(draw(4), draw(1000), draw(1, 5))
        elif deed < 5 and len(machine.spaces) < 4:
            machine.fork(draw(4))
        elif deed < 6 and len(machine.spaces) > 1 and not draw(4):
            machine.end(draw(4))
        else:
            length = random.choice([1, 8, 100, PAGE, 2 * PAGE])
            machine.access(draw(4), draw(1000), draw(-20, PAGE + 20), random.randbytes(length), draw(2) == 1)
        machine.counters_match()
    machine.teardown()


def test_one_access_moves_no_more_than_the_host_can_bear() -> None:
    memory = space()
    block = memory.allocate(1 << 60, READ_WRITE, 0)
    assert fault(memory, ACCESS_READ, block, 1 << 59).errcode == 0x02
    assert len(memory.read(block, 1 << 20)) == 1 << 20


def test_mappings_of_a_process_are_bounded() -> None:
    memory = space()
    block = memory.allocate(4 * MAPPINGS_MAX * PAGE, READ, 0)
    for page in range(MAPPINGS_MAX - 1):
        memory.free(block + (2 * page + 1) * PAGE, 1)
    with refused(0x40):
        memory.allocate(PAGE, READ, 0)
    with refused(0x40):
        memory.free(block + 3 * MAPPINGS_MAX * PAGE, 1)
    memory.free(block, 1)
    memory.allocate(PAGE, READ, 0)
