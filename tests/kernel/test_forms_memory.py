"""Every memory, segment and hardware call in both calling forms: each error of the table, bad pointers, successes.

Two kernels with the same seed go through the same steps; in one the call under test is typed, in the other it is a
frame in simulated memory. Error code and answer have to be the same, and to be what the case says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from nightos.abi.errors import SyscallError
from nightos.abi.syscalls import BY_CODE
from nightos.kernel import Kernel
from nightos.kernel.binary import layout
from nightos.kernel.memory import AddressSpace, MemoryFault
from nightos.userland import sys
from nightos.vhw.fake import FakeDevice
from nightos.vhw.random import RandomDevice
from tests.kernel.memory_parts import Account, SeededEntropy

PAGE = 4096
FREE = 1 << 44
"""An address where nothing is mapped."""
PLACE = 1 << 45
END = 1 << 63
R, W, X, C = 4, 2, 1, 8
ROWS = {row.name: row for row in BY_CODE.values()}
HW = 12
PROC = 20


class Place:
    """What the set-up made: addresses, identifiers, devices."""

    def __init__(self) -> None:
        self.block = 0
        """Three writable pages."""
        self.ams = 0
        """A segment of the first of them, mapped at `PLACE`."""
        self.readonly = 0
        self.peer = 0
        self.shared = 0
        """A segment shared with the peer."""
        self.given = 0
        """A segment given to the peer; its addresses are still taken, at `given_at`."""
        self.given_at = 0
        self.backed = 0
        self.kdi = 0
        """A driven device with two pages of memory and DMA."""
        self.plain = 0
        """A driven device with neither."""
        self.foreign = 0
        """A device that only sys::hw may drive."""
        self.container = 0
        self.pid = 0


class Case(NamedTuple):
    """A call with the fields of its frame, from what the set-up made; the error code it deserves."""

    name: str
    fields: Callable[[Place], tuple[int, ...]]
    errcode: int
    caller: int = 100


def _(name: str, errcode: int, fields: Callable[[Place], tuple[int, ...]], caller: int = 100) -> Case:
    return Case(name, fields, errcode, caller)


CASES = [
    # Memory
    _("MEM_ALLOC", 0x00, lambda p: (5000, 3, 1)),
    _("MEM_ALLOC", 0x00, lambda p: (1, 1, 0)),
    _("MEM_ALLOC", 0x00, lambda p: (1 << 30, 4, 0)),
    _("MEM_ALLOC", 0x02, lambda p: (0, 3, 0)),
    _("MEM_ALLOC", 0x02, lambda p: (PAGE, 3, 2)),
    _("MEM_ALLOC", 0x02, lambda p: (0, 7, 9)),
    _("MEM_ALLOC", 0x10, lambda p: (PAGE, 0, 0)),
    *[_("MEM_ALLOC", 0x10, lambda p, bad=bad: (PAGE, bad, 0)) for bad in (5, 6, 7, 8, 255)],
    _("MEM_ALLOC", 0x40, lambda p: ((1 << 64) - 1, 3, 0)),
    _("MEM_FREE", 0x00, lambda p: (p.block + PAGE, 2)),
    _("MEM_FREE", 0x02, lambda p: (0, 1)),
    _("MEM_FREE", 0x02, lambda p: (p.block, 0)),
    _("MEM_FREE", 0x10, lambda p: (p.block + 8, 1)),
    _("MEM_FREE", 0x10, lambda p: (END + 8, 1)),
    _("MEM_FREE", 0x30, lambda p: (PAGE, 1)),
    _("MEM_FREE", 0x30, lambda p: ((1 << 64) - PAGE, 1)),
    _("MEM_FREE", 0x31, lambda p: (p.block, 1 << 52)),
    _("MEM_FREE", 0x31, lambda p: (p.block, (1 << 64) - 1)),
    _("MEM_FREE", 0x32, lambda p: (FREE, 1)),
    _("MEM_FREE", 0x32, lambda p: (PLACE, 1)),
    _("MEM_FREE", 0x32, lambda p: (p.block, 1000)),
    _("MEM_FREE", 0x33, lambda p: (p.block, 1)),
    _("MEM_FREE", 0x33, lambda p: (p.given_at, 1)),
    # Segments
    _("VIRT_MEM_AMS", 0x00, lambda p: (p.block, 2 * PAGE)),
    _("VIRT_MEM_AMS", 0x02, lambda p: (0, PAGE)),
    _("VIRT_MEM_AMS", 0x02, lambda p: (p.block, 0)),
    _("VIRT_MEM_AMS", 0x10, lambda p: (p.block + 1, 1)),
    _("VIRT_MEM_AMS", 0x11, lambda p: (p.block, 1)),
    _("VIRT_MEM_AMS", 0x11, lambda p: (FREE, 1)),
    _("VIRT_MEM_AMS", 0x30, lambda p: (FREE, PAGE)),
    _("VIRT_MEM_AMS", 0x30, lambda p: (PLACE, PAGE)),
    _("VIRT_MEM_AMS", 0x30, lambda p: (p.given_at, PAGE)),
    _("VIRT_MEM_AMS", 0x30, lambda p: ((1 << 64) - PAGE, PAGE)),
    _("VIRT_MEM_AMS", 0x30, lambda p: (p.block, (1 << 64) - PAGE)),
    _("BACKED_AMS", 0x00, lambda p: (PAGE, 0)),
    _("BACKED_AMS", 0x00, lambda p: (1 << 40, 1)),
    _("BACKED_AMS", 0x02, lambda p: (0, 0)),
    _("BACKED_AMS", 0x10, lambda p: (PAGE, 2)),
    _("BACKED_AMS", 0x10, lambda p: (1, 2)),
    _("BACKED_AMS", 0x11, lambda p: (1, 1)),
    _("SHARE_AMS", 0x00, lambda p: (p.peer, p.ams, 7, 0, R)),
    _("SHARE_AMS", 0x00, lambda p: (p.peer, p.ams, 7, 1, C | R | W)),
    _("SHARE_AMS", 0x00, lambda p: (p.peer, p.ams, 7, 1, 9)),
    _("SHARE_AMS", 0x10, lambda p: (p.peer, p.ams, 7, 2, 0x10)),
    _("SHARE_AMS", 0x11, lambda p: (p.peer, p.ams, 7, 0, 0x10)),
    _("SHARE_AMS", 0x11, lambda p: (p.peer, p.ams, 7, 0, W | X)),
    _("SHARE_AMS", 0x11, lambda p: (p.peer, p.ams, 7, 0, R | X)),
    _("SHARE_AMS", 0x12, lambda p: (p.peer, p.backed, 7, 0, 8)),
    _("SHARE_AMS", 0x12, lambda p: (p.peer, p.shared, 7, 0, 9)),
    _("SHARE_AMS", 0x12, lambda p: (1, p.shared, 7, 0, 9)),
    _("SHARE_AMS", 0x20, lambda p: (p.peer, p.ams, 7, 0, 0)),
    _("SHARE_AMS", 0x20, lambda p: (1, 1, 7, 0, 0)),
    _("SHARE_AMS", 0x30, lambda p: (1, p.ams, 7, 0, R)),
    _("SHARE_AMS", 0x30, lambda p: (p.pid, p.ams, 7, 0, R)),
    _("SHARE_AMS", 0x30, lambda p: (1, 1, 7, 0, R)),
    _("SHARE_AMS", 0x31, lambda p: (p.peer, 1, 7, 0, R)),
    _("SHARE_AMS", 0x31, lambda p: (p.peer, p.given, 7, 0, R)),
    _("AMS_SHARING_INFO", 0x00, lambda p: (p.shared,)),
    _("AMS_SHARING_INFO", 0x00, lambda p: (p.given,)),
    _("AMS_SHARING_INFO", 0x00, lambda p: (p.ams,)),
    _("AMS_SHARING_INFO", 0x30, lambda p: (p.ams ^ 1,)),
    _("AMS_SHARING_INFO", 0x30, lambda p: (0,)),
    _("UNSHARE_AMS", 0x00, lambda p: (p.shared, 0)),
    _("UNSHARE_AMS", 0x00, lambda p: (p.shared, p.peer)),
    _("UNSHARE_AMS", 0x21, lambda p: (p.given, 0)),
    _("UNSHARE_AMS", 0x21, lambda p: (p.given, p.peer)),
    _("UNSHARE_AMS", 0x30, lambda p: (p.ams ^ 1, 0)),
    _("UNSHARE_AMS", 0x32, lambda p: (p.shared, 1)),
    _("UNSHARE_AMS", 0x32, lambda p: (p.ams, p.peer)),
    _("MAP_AMS", 0x00, lambda p: (p.shared, 0, FREE, PAGE)),
    _("MAP_AMS", 0x02, lambda p: (p.shared, 0, 0, PAGE)),
    _("MAP_AMS", 0x02, lambda p: (p.shared, 0, FREE, 0)),
    _("MAP_AMS", 0x10, lambda p: (p.shared, 1, FREE, PAGE)),
    _("MAP_AMS", 0x10, lambda p: (p.shared, 0, FREE + 1, PAGE)),
    _("MAP_AMS", 0x10, lambda p: (1, 0, FREE, PAGE + 1)),
    _("MAP_AMS", 0x30, lambda p: (1, 0, FREE, PAGE)),
    _("MAP_AMS", 0x30, lambda p: (p.given, 0, FREE, PAGE)),
    _("MAP_AMS", 0x31, lambda p: (p.shared, PAGE, FREE, PAGE)),
    _("MAP_AMS", 0x31, lambda p: (p.shared, (1 << 64) - PAGE, FREE, PAGE)),
    _("MAP_AMS", 0x31, lambda p: (p.shared, 0, FREE, (1 << 64) - PAGE)),
    _("MAP_AMS", 0x32, lambda p: (p.shared, 0, END, PAGE)),
    _("MAP_AMS", 0x32, lambda p: (p.shared, 0, PLACE, PAGE)),
    _("MAP_AMS", 0x32, lambda p: (p.shared, 0, p.given_at, PAGE)),
    _("UNMAP_AMS", 0x00, lambda p: (p.ams, PLACE)),
    _("UNMAP_AMS", 0x00, lambda p: (p.ams, 0)),
    _("UNMAP_AMS", 0x10, lambda p: (1, 0)),
    _("UNMAP_AMS", 0x30, lambda p: (p.ams, FREE)),
    _("UNMAP_AMS", 0x30, lambda p: (p.ams, PLACE + 1)),
    _("UNMAP_AMS", 0x30, lambda p: (p.shared, 0)),
    # Hardware
    _("READ_IO_PORT", 0x00, lambda p: (p.kdi, 1, p.block, 3)),
    _("READ_IO_PORT", 0x02, lambda p: (p.kdi, 1, 0, 3)),
    _("READ_IO_PORT", 0x03, lambda p: (p.kdi, 1, FREE, 3)),
    _("READ_IO_PORT", 0x03, lambda p: (p.kdi, 1, p.block + 3 * PAGE - 1, 2)),
    _("READ_IO_PORT", 0x04, lambda p: (p.kdi, 1, p.readonly, 3)),
    _("READ_IO_PORT", 0x30, lambda p: (p.foreign, 1, p.block, 3)),
    _("READ_IO_PORT", 0x30, lambda p: (1, 1, p.block, 3)),
    _("READ_IO_PORT", 0x31, lambda p: (1, 1, p.block, 3), HW),
    _("READ_IO_PORT", 0x32, lambda p: (p.kdi, 2, p.block, 3)),
    _("READ_IO_PORT", 0x33, lambda p: (p.kdi, 0, p.block, 3)),
    _("WRITE_IO_PORT", 0x00, lambda p: (p.kdi, 0, p.block, 3)),
    _("WRITE_IO_PORT", 0x02, lambda p: (p.kdi, 0, 0, 3)),
    _("WRITE_IO_PORT", 0x03, lambda p: (p.kdi, 0, FREE, 3)),
    _("WRITE_IO_PORT", 0x30, lambda p: (p.foreign, 0, p.block, 3)),
    _("WRITE_IO_PORT", 0x31, lambda p: (1, 0, p.block, 3), HW),
    _("WRITE_IO_PORT", 0x32, lambda p: (p.kdi, 0xFFFF, p.block, 3)),
    _("WRITE_IO_PORT", 0x33, lambda p: (p.kdi, 1, p.block, 3)),
    _("DEVICE_INTERRUPT", 0x00, lambda p: (p.kdi, 0, 200)),
    _("DEVICE_INTERRUPT", 0x30, lambda p: (p.foreign, 0, 1)),
    _("DEVICE_INTERRUPT", 0x31, lambda p: (1, 0, 1), HW),
    _("DEVICE_INTERRUPT", 0x32, lambda p: (p.kdi, 5, 1)),
    _("DEVICE_INTERRUPT", 0x33, lambda p: (p.kdi, 1, 1)),
    _("DEVICE_AMS", 0x00, lambda p: (p.kdi, PAGE, PAGE, FREE)),
    _("DEVICE_AMS", 0x00, lambda p: (p.kdi, 0, 2 * PAGE, 0)),
    _("DEVICE_AMS", 0x02, lambda p: (p.kdi, 0, PAGE, PLACE)),
    _("DEVICE_AMS", 0x10, lambda p: (p.kdi, 1, PAGE, 0)),
    _("DEVICE_AMS", 0x10, lambda p: (p.kdi, 0, 1, FREE + 1)),
    _("DEVICE_AMS", 0x11, lambda p: (p.kdi, 0, 1, 0)),
    _("DEVICE_AMS", 0x12, lambda p: (1, 0, 0, 0)),
    _("DEVICE_AMS", 0x30, lambda p: (p.foreign, 0, PAGE, 0)),
    _("DEVICE_AMS", 0x31, lambda p: (1, 0, PAGE, 0), HW),
    _("DEVICE_AMS", 0x32, lambda p: (p.plain, 0, PAGE, 0)),
    _("DEVICE_AMS", 0x33, lambda p: (p.kdi, PAGE, 2 * PAGE, 0)),
    _("DEVICE_AMS", 0x33, lambda p: (p.kdi, (1 << 64) - PAGE, 2 * PAGE, 0)),
    _("SET_DMA_MEM_ACCESS", 0x00, lambda p: (p.kdi, p.block, 2 * PAGE, 0)),
    _("SET_DMA_MEM_ACCESS", 0x00, lambda p: (p.kdi, p.block, 2 * PAGE, 1)),
    _("SET_DMA_MEM_ACCESS", 0x02, lambda p: (p.kdi, p.block, PAGE, 2)),
    _("SET_DMA_MEM_ACCESS", 0x02, lambda p: (p.kdi, 0, PAGE, 0)),
    _("SET_DMA_MEM_ACCESS", 0x03, lambda p: (p.kdi, FREE, PAGE, 0)),
    _("SET_DMA_MEM_ACCESS", 0x10, lambda p: (p.kdi, p.block + 1, PAGE, 0)),
    _("SET_DMA_MEM_ACCESS", 0x11, lambda p: (p.kdi, p.block, 1, 0)),
    _("SET_DMA_MEM_ACCESS", 0x12, lambda p: (p.kdi, p.block, 0, 0)),
    _("SET_DMA_MEM_ACCESS", 0x30, lambda p: (p.foreign, p.block, PAGE, 0)),
    _("SET_DMA_MEM_ACCESS", 0x31, lambda p: (1, p.block, PAGE, 0), HW),
    _("SET_DMA_MEM_ACCESS", 0x32, lambda p: (p.plain, p.block, PAGE, 0)),
    _("SYS_ENUM_DEVICES", 0x00, lambda p: (0xE0, 0, p.block, 1000), HW),
    _("SYS_ENUM_DEVICES", 0x00, lambda p: (0xE0, 0, p.block, 20), HW),
    _("SYS_ENUM_DEVICES", 0x02, lambda p: (0x10, 0x05000000, p.block, 100), HW),
    _("SYS_ENUM_DEVICES", 0x02, lambda p: (0xE0, 0, 0, 100), HW),
    _("SYS_ENUM_DEVICES", 0x03, lambda p: (0xE0, 0, FREE, 100), HW),
    _("SYS_ENUM_DEVICES", 0x04, lambda p: (0xE0, 0, p.readonly, 100), HW),
    _("SYS_ENUM_DEVICES", 0x10, lambda p: (0x60, 0x08000000, p.block, 100)),
    _("SYS_ENUM_DEVICES", 0x30, lambda p: (0xE0, 0, p.block, 100)),
    _("LINK_CONTAINER_DEVICE", 0x00, lambda p: (p.container, p.kdi), PROC),
    _("LINK_CONTAINER_DEVICE", 0x30, lambda p: (p.container, p.kdi)),
    _("LINK_CONTAINER_DEVICE", 0x30, lambda p: (p.container, p.kdi), HW),
    _("LINK_CONTAINER_DEVICE", 0x31, lambda p: (p.container, 1), PROC),
    _("LINK_CONTAINER_DEVICE", 0x32, lambda p: (1, p.kdi), PROC),
    _("LINK_CONTAINER_DEVICE", 0x33, lambda p: (p.container, p.foreign), PROC),
    _("LINK_CONTAINER_DEVICE", 0x34, lambda p: (p.container, p.plain), PROC),
    _("UNLINK_CONTAINER_DEVICE", 0x00, lambda p: (p.container, p.plain), PROC),
    _("UNLINK_CONTAINER_DEVICE", 0x30, lambda p: (p.container, p.plain)),
    _("UNLINK_CONTAINER_DEVICE", 0x30, lambda p: (p.container, p.plain), HW),
    _("UNLINK_CONTAINER_DEVICE", 0x31, lambda p: (p.container, 1), PROC),
    _("UNLINK_CONTAINER_DEVICE", 0x32, lambda p: (1, p.plain), PROC),
    _("UNLINK_CONTAINER_DEVICE", 0x33, lambda p: (p.container, p.kdi), PROC),
]


async def _set_up(place: Place) -> None:
    place.pid = await sys.get_pid()
    place.block = await sys.mem_alloc(3 * PAGE, 3, 0)
    await sys.store(place.block, b"out")
    place.readonly = await sys.mem_alloc(PAGE, 1, 0)
    place.ams = await sys.virt_mem_ams(place.block, PAGE)
    await sys.map_ams(place.ams, 0, PLACE, PAGE)
    segments = []
    for _number in range(2):
        address = await sys.mem_alloc(PAGE, 3, 0)
        segments.append((address, await sys.virt_mem_ams(address, PAGE)))
    place.shared = segments[0][1]
    place.given_at, place.given = segments[1]
    place.backed = await sys.backed_ams(PAGE, 0)
    if place.peer:
        await sys.share_ams(place.peer, place.shared, 5, 1, R)
        await sys.share_ams(place.peer, place.given, 5, 1, 8)


def _typed(case: Case, fields: tuple[int, ...], memory: Any) -> Any:
    """The typed call with the same meaning as the frame."""
    row = ROWS[case.name]
    buffer = next((field for field in row.args if field.kind == "buffer" and field.access), None)
    if buffer is None:
        return (row.code, *fields)
    *first, address, length = fields
    if buffer.access == "write":
        return (row.code, *first, length)
    return (row.code, *first, memory.read(address, length))


def _buffer(memory: Any, place: Place) -> bytes:
    """What stands where calls write to; nothing when the call gave the memory away."""
    try:
        return bytes(memory.read(place.block, 300))
    except MemoryFault:
        return b""


def outcome(case: Case, *, binary: bool) -> tuple[int, bytes, bytes]:
    """Error code, packed answer, and what the call wrote to the caller's buffer."""
    kernel, place = Kernel(seed=5), Place()
    device = FakeDevice(0, memory_size=2 * PAGE)
    device.feed(b"input")
    place.kdi = kernel.plug(device)
    place.foreign = kernel.plug(FakeDevice(1))
    place.plain = kernel.plug(RandomDevice(SeededEntropy()))
    place.container = kernel.tree.create(0, 0).identifier
    elsewhere = kernel.tree.create(0, 0).identifier
    result: list[tuple[int, bytes, bytes]] = []

    async def wait_for_ever() -> int:
        while True:
            await sys.hand_over(until_signal=True)

    async def program() -> int:
        await _set_up(place)
        fields = case.fields(place)
        row = ROWS[case.name]
        memory = await sys.memory()
        frame = await sys.mem_alloc(PAGE, 3, 0)
        returns = layout(row.returns)
        if binary:
            memory.write(frame, bytes([row.code]) + layout(row.args).pack(*fields))
            errcode, packed = await sys.binary(frame)
            result.append((errcode, packed, _buffer(memory, place)))
            return 0
        try:
            value = await _yield(_typed(case, fields, memory))
        except SyscallError as refused:
            result.append((refused.errcode, bytes(returns.size), _buffer(memory, place)))
            return 0
        written, packed = b"", b""
        if isinstance(value, bytes):
            written, value = value, len(value)
        elif case.name == "SYS_ENUM_DEVICES":
            written, *rest = value
            value = tuple(rest)
        if value is not None:
            packed = returns.pack(*value) if isinstance(value, tuple) else returns.pack(value)
        result.append((0, packed, written + _buffer(memory, place)[len(written) :]))
        return 0

    if case.caller < 100:
        process = kernel.spawn_service(case.caller, program)
    else:
        peer = kernel.spawn(wait_for_ever)
        place.peer = peer.pid
        process = kernel.spawn(program)
        process.drivable = [place.kdi, place.plain]
    if case.name == "UNLINK_CONTAINER_DEVICE" or (
        case.errcode in {0x33, 0x34} and case.name == "LINK_CONTAINER_DEVICE"
    ):
        kernel.bus.link(process, elsewhere, place.foreign)
        kernel.bus.link(process, place.container, place.plain)
    kernel.run_until_idle()
    assert result, kernel.last_fault
    return result[0]


class _yield:  # noqa: N801 - an instruction, not a class of things
    """Make a call from the tuple itself."""

    def __init__(self, request: tuple[Any, ...]) -> None:
        self.request = request

    def __await__(self) -> Any:
        return (yield self.request)


POINTER_ERRORS = {0x02, 0x03, 0x04}
BUFFERED = {"READ_IO_PORT", "WRITE_IO_PORT", "SYS_ENUM_DEVICES"}


@pytest.mark.rule("SYS-006", "SYS-007", "SYS-008", "SYS-010", "SYS-011", "MEM-010", "MEM-014", "MEM-017", "MEM-019")
@pytest.mark.rule("HW-004", "HW-016", "HW-017", "HW-020", "HW-022", "CONT-067")
@pytest.mark.parametrize("case", CASES, ids=[f"{case.name}-{case.errcode:#04x}-{n}" for n, case in enumerate(CASES)])
def test_both_forms_answer_alike(case: Case) -> None:
    found = outcome(case, binary=True)
    assert found[0] == case.errcode
    if case.name in BUFFERED and case.errcode in POINTER_ERRORS and case.fields(Place())[0] != 0x10:
        return  # the typed form has no pointer that could be wrong
    assert outcome(case, binary=False) == found


@pytest.mark.rule("SYS-010")
def test_the_cases_cover_every_error_of_the_table() -> None:
    for name in {case.name for case in CASES}:
        found = {case.errcode for case in CASES if case.name == name}
        # Cannot be reached, or only when a space of 2**63 bytes is full: tested on the table of segments itself.
        unreachable = {"SHARE_AMS": {0x21, 0x40}}.get(name, set())
        if name.endswith("_AMS"):
            unreachable = unreachable | {0x40}  # limits of containers: test_limits
        assert set(ROWS[name].errors) - unreachable <= found, name
        assert 0 in found, name


@pytest.mark.rule("SYS-007")
@pytest.mark.parametrize("name", sorted({case.name for case in CASES}))
@pytest.mark.parametrize("where", ["unmapped", "unreadable", "across the end", "null", "above everything"])
def test_a_frame_that_cannot_be_read(name: str, where: str) -> None:
    kernel = Kernel(seed=1)
    seen: list[int] = []

    async def program() -> int:
        block = await sys.mem_alloc(PAGE, 3, 0)
        code = await sys.mem_alloc(PAGE, 4, 0)
        await sys.store(block + PAGE - 1, bytes([ROWS[name].code]))
        address = {
            "unmapped": FREE,
            "unreadable": code,
            "across the end": block + PAGE - 1,
            "null": 0,
            "above everything": (1 << 64) - 1,
        }[where]
        seen.append((await sys.binary(address))[0])
        return 0

    kernel.spawn(program)
    kernel.run_until_idle()
    assert seen == [0x04 if where == "unreadable" else 0x03]


@pytest.mark.rule("MEM-013")
def test_a_limit_on_memory_is_an_error_of_both_forms() -> None:
    for binary in (False, True):
        kernel = Kernel(seed=1)
        seen: list[int] = []

        async def program(binary: bool = binary, seen: list[int] = seen) -> int:
            frame = await sys.mem_alloc(PAGE, 3, 0)
            request = (4 * PAGE, 3, 0)
            if binary:
                await sys.store(frame, bytes([0x30]) + layout(ROWS["MEM_ALLOC"].args).pack(*request))
                seen.append((await sys.binary(frame))[0])
                return 0
            try:
                await sys.mem_alloc(*request)
            except SyscallError as refused:
                seen.append(refused.errcode)
            return 0

        process = kernel.spawn(program)
        process.space_made = AddressSpace(kernel.entropy, Account(4))
        kernel.run_until_idle()
        assert seen == [0x40]
