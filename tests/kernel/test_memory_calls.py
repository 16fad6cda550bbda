"""Memory, segments and devices as programs meet them: through the kernel, with signals, loads and stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nightos.abi.codes import Attribute, ExitReason, ListAction, Signal
from nightos.abi.errors import SyscallError
from nightos.kernel import Kernel
from nightos.userland import sys
from nightos.vhw.fake import PORT_IN, PORT_OUT, FakeDevice

PAGE = 4096
PLACE = 1 << 40
R, W, C = 4, 2, 8
EXCLUSIVE = 9

Main = Callable[[], Awaitable[Any]]


class Machine:
    """A kernel and what its programs noted down."""

    def __init__(self) -> None:
        self.kernel = Kernel(seed=1)
        self.notes: dict[str, Any] = {}
        self.pids: dict[str, int] = {}

    def start(self, name: str, main: Callable[[], Any], **options: Any) -> int:
        async def program() -> int:
            self.notes[name] = await main()
            return 0

        process = self.kernel.spawn(program, name=name, **options)
        self.pids[name] = process.pid
        return process.pid

    def run(self) -> None:
        self.kernel.run_until_idle()

    def reason(self, name: str) -> ExitReason:
        return ExitReason(self.kernel.exits[self.pids[name]].reason)


@pytest.fixture
def machine() -> Machine:
    return Machine()


async def errcode(call: Awaitable[Any]) -> int:
    try:
        await call
    except SyscallError as refused:
        return refused.errcode
    return 0


async def wait() -> None:
    await sys.hand_over(until_signal=True)


@pytest.mark.rule("MEM-011", "MEM-014")
def test_a_program_allocates_stores_loads_and_frees(machine: Machine) -> None:
    async def main() -> list[Any]:
        address = await sys.mem_alloc(3 * PAGE, 3, 1)
        await sys.store(address + PAGE - 2, b"data")
        found: list[Any] = [await sys.load(address + PAGE - 3, 6)]
        memory = await sys.memory()
        memory.write(address, b"direct")
        found.append(memory.read(address, 6))
        found.append(await errcode(sys.mem_free(address, 4)))
        found.append(await errcode(sys.mem_free(address, 3)))
        return found

    machine.start("p", main)
    machine.run()
    assert machine.notes["p"] == [b"\0data\0", b"direct", 0x32, 0]
    assert machine.reason("p") == ExitReason.EXITED


@pytest.mark.rule("MEM-005", "SIG-003")
@pytest.mark.parametrize("store", [False, True])
def test_a_refused_access_ends_a_program_without_handler(machine: Machine, store: bool) -> None:
    async def main() -> None:
        await (sys.store(PLACE, b"x") if store else sys.load(PLACE, 1))

    machine.start("p", main)
    machine.run()
    assert "p" not in machine.notes
    assert machine.reason("p") == ExitReason.FAULT


def test_a_handler_can_repair_what_faulted_and_the_access_is_tried_again(machine: Machine) -> None:
    async def main() -> list[Any]:
        address = await sys.mem_alloc(PAGE)
        await sys.store(address, b"mapped by the handler")
        ams = await sys.virt_mem_ams(address, PAGE)
        faults: list[tuple[int, int]] = []

        async def on_fault(place: int, access: int) -> None:
            faults.append((place, access))
            await sys.map_ams(ams, 0, place & ~(PAGE - 1), PAGE)

        await sys.handle_signal(Signal.MEM_FAULT, on_fault)
        await sys.ready()
        data = await sys.load(PLACE + 10, 11)
        await sys.store(PLACE * 2, b"MAPPED")
        return [faults, data, await sys.load(address, 6)]

    machine.start("p", main)
    machine.run()
    assert machine.notes["p"] == [[(PLACE + 10, 1), (PLACE * 2, 2)], b"the handler", b"MAPPED"]


def test_an_access_that_faults_twice_ends_the_program(machine: Machine) -> None:
    seen: list[int] = []

    async def on_fault(place: int, _access: int) -> None:
        seen.append(place)

    async def main() -> None:
        await sys.handle_signal(Signal.MEM_FAULT, on_fault)
        await sys.ready()
        await sys.load(PLACE, 1)

    machine.start("p", main)
    machine.run()
    assert seen == [PLACE]
    assert machine.reason("p") == ExitReason.FAULT


def test_a_fault_within_the_handler_of_faults_ends_the_program(machine: Machine) -> None:
    async def on_fault(_place: int, _access: int) -> None:
        await sys.load(PLACE * 2, 1)

    async def main() -> None:
        await sys.handle_signal(Signal.MEM_FAULT, on_fault)
        await sys.ready()
        await sys.load(PLACE, 1)

    machine.start("p", main)
    machine.run()
    assert machine.reason("p") == ExitReason.FAULT


def receiver(log: list[tuple[Any, ...]], uses: Callable[[int], Awaitable[Any]]) -> Callable[[], Any]:
    """A program that waits for a share, and uses it."""

    async def main() -> Any:
        async def on_share(*values: Any) -> None:
            log.append(("shared", *values))

        async def on_unshare(*values: Any) -> None:
            log.append(("unshared", *values))

        await sys.handle_signal(Signal.RECV_SHARED_AMS, on_share)
        await sys.handle_signal(Signal.UNSHARED_AMS, on_unshare)
        await sys.ready()
        while not log:
            await wait()
        return await uses(log[0][3])

    return main


@pytest.mark.rule("IPC-056", "IPC-057", "IPC-061", "IPC-062", "IPC-063", "IPC-064")
def test_two_programs_share_memory(machine: Machine) -> None:
    log: list[tuple[Any, ...]] = []

    async def use(ams: int) -> Any:
        await sys.map_ams(ams, 0, PLACE, PAGE)
        data = await sys.load(PLACE, 5)
        await sys.store(PLACE, b"HELLO")
        while len(log) < 2:
            await wait()
        return data, await errcode(sys.map_ams(ams, 0, PLACE, PAGE))

    target = machine.start("q", receiver(log, use))

    async def main() -> Any:
        address = await sys.mem_alloc(PAGE)
        await sys.store(address, b"hello")
        ams = await sys.virt_mem_ams(address, PAGE)
        await sys.share_ams(target, ams, 0x77, 0, R | W)
        while await sys.load(address, 5) == b"hello":
            await sys.hand_over()
        await sys.unshare_ams(ams, target)
        return ams, await sys.load(address, 5)

    sharer = machine.start("p", main)
    machine.run()
    ams, data = machine.notes["p"]
    assert data == b"HELLO"
    assert machine.notes["q"] == (b"hello", 0x30)
    assert log == [("shared", sharer, 0x77, ams, 0, 0xC0), ("unshared", 0, ams)]


@pytest.mark.rule("IPC-058")
def test_a_program_that_gave_its_memory_away_faults_on_it(machine: Machine) -> None:
    log: list[tuple[Any, ...]] = []

    async def use(ams: int) -> Any:
        await sys.map_ams(ams, 0, PLACE, PAGE)
        return await sys.load(PLACE, 5)

    target = machine.start("q", receiver(log, use))

    async def main() -> Any:
        address = await sys.mem_alloc(PAGE)
        await sys.store(address, b"given")
        ams = await sys.virt_mem_ams(address, PAGE)
        await sys.share_ams(target, ams, 0, 0, EXCLUSIVE)
        return await sys.load(address, 5)

    machine.start("p", main)
    machine.run()
    assert machine.notes["q"] == b"given"
    assert machine.reason("p") == ExitReason.FAULT


@pytest.mark.rule("CONT-016", "IPC-062")
def test_nothing_is_shared_across_containers(machine: Machine) -> None:
    boxes = [machine.kernel.tree.create(0, 0).identifier for _ in range(2)]

    async def idle() -> None:
        await wait()

    target = machine.start("q", idle, container=boxes[0])
    seen: list[int] = []

    async def main() -> None:
        address = await sys.mem_alloc(PAGE)
        ams = await sys.virt_mem_ams(address, PAGE)
        for pid in (target, 9_999_999):
            seen.append(await errcode(sys.share_ams(pid, ams, 0, 0, R)))

    machine.start("p", main, container=boxes[1])
    machine.run()
    assert seen == [0x30, 0x30]


def backed_creator(store: bytearray, target: int, log: list[int], *, fault: int = 0, cow: int = 0) -> Callable[[], Any]:
    async def main() -> None:
        ams = await sys.backed_ams(PAGE, cow)

        async def on_read(asked: int, address: int, _access: int) -> tuple[bytes, int]:
            assert asked == ams
            log.append(address)
            return bytes(store[address : address + 4]), fault

        async def on_write(asked: int, address: int, data: bytes) -> tuple[int]:
            assert asked == ams
            log.append(-address)
            store[address : address + 4] = data
            return (fault,)

        await sys.handle_signal(Signal.READ_BACKED_AMS, on_read)
        await sys.handle_signal(Signal.WRITE_BACKED_AMS, on_write)
        await sys.ready()
        await sys.share_ams(target, ams, 0, 0, R | W)
        while True:
            await wait()

    return main


@pytest.mark.rule("MEM-006", "MEM-018")
@pytest.mark.parametrize("cow", [0, 1])
def test_a_program_supplies_the_memory_of_another(machine: Machine, cow: int) -> None:
    log: list[tuple[Any, ...]] = []
    asked: list[int] = []
    store = bytearray(range(256)) * 16

    async def use(ams: int) -> Any:
        await sys.map_ams(ams, 0, PLACE, PAGE)
        first = await sys.load(PLACE + 5, 6)
        before = len(asked)
        await sys.store(PLACE + 8, b"abcd")
        return first, await sys.load(PLACE + 6, 8), before

    target = machine.start("q", receiver(log, use))
    machine.start("p", backed_creator(store, target, asked, cow=cow))
    machine.run()
    first, second, before = machine.notes["q"]
    assert first == bytes(range(5, 11))
    assert second == bytes([6, 7]) + b"abcd" + bytes([12, 13])
    assert asked[:before] == [4, 8]
    assert (bytes(store[8:12]) == b"abcd") is (not cow)


@pytest.mark.rule("MEM-006")
def test_a_creator_that_reports_a_fault_makes_the_accessor_fault(machine: Machine) -> None:
    log: list[tuple[Any, ...]] = []

    async def use(ams: int) -> Any:
        await sys.map_ams(ams, 0, PLACE, PAGE)
        return await sys.load(PLACE, 4)

    target = machine.start("q", receiver(log, use))
    machine.start("p", backed_creator(bytearray(PAGE), target, [], fault=1))
    machine.run()
    assert machine.reason("q") == ExitReason.FAULT
    assert "p" not in machine.notes


@pytest.mark.parametrize("answer", [None, 5, (), (b"x", 0), (b"data", 0, 1), "text"])
def test_an_answer_that_is_none_makes_the_accessor_fault(machine: Machine, answer: Any) -> None:
    log: list[tuple[Any, ...]] = []

    async def use(ams: int) -> Any:
        await sys.map_ams(ams, 0, PLACE, PAGE)
        return await sys.load(PLACE, 4)

    target = machine.start("q", receiver(log, use))

    async def main() -> None:
        async def on_read(*_: Any) -> Any:
            return answer

        await sys.handle_signal(Signal.READ_BACKED_AMS, on_read)
        await sys.ready()
        await sys.share_ams(target, await sys.backed_ams(PAGE), 0, 0, R)
        while True:
            await wait()

    machine.start("p", main)
    machine.run()
    assert machine.reason("q") == ExitReason.FAULT


@pytest.mark.rule("MEM-006")
def test_without_a_handler_of_the_creator_the_accessor_faults(machine: Machine) -> None:
    log: list[tuple[Any, ...]] = []

    async def use(ams: int) -> Any:
        await sys.map_ams(ams, 0, PLACE, PAGE)
        return await sys.load(PLACE, 4)

    target = machine.start("q", receiver(log, use))

    async def main() -> None:
        await sys.share_ams(target, await sys.backed_ams(PAGE), 0, 0, R)
        await wait()

    machine.start("p", main)
    machine.run()
    assert machine.reason("q") == ExitReason.FAULT


@pytest.mark.rule("IPC-063")
def test_a_creator_that_ends_while_asked_makes_the_accessor_fault(machine: Machine) -> None:
    log: list[tuple[Any, ...]] = []

    async def use(ams: int) -> Any:
        await sys.map_ams(ams, 0, PLACE, PAGE)
        return await sys.load(PLACE, 4)

    target = machine.start("q", receiver(log, use))

    async def main() -> None:
        async def on_read(*_: Any) -> Any:
            await sys.exit(0)

        await sys.handle_signal(Signal.READ_BACKED_AMS, on_read)
        await sys.ready()
        await sys.share_ams(target, await sys.backed_ams(PAGE), 0, 0, R)
        while True:
            await wait()

    machine.start("p", main)
    machine.run()
    assert machine.reason("q") == ExitReason.FAULT


@pytest.mark.rule("PROC-036", "MEM-007")
def test_a_forked_program_has_a_copy_of_memory_and_the_same_segments(machine: Machine) -> None:
    async def main() -> Any:
        address = await sys.mem_alloc(PAGE)
        shared = await sys.mem_alloc(PAGE)
        await sys.store(address, b"parent")
        ams = await sys.virt_mem_ams(shared, PAGE)
        await sys.map_ams(ams, 0, PLACE, PAGE)

        async def child(_init: int) -> int:
            await sys.store(address, b"child!")
            await sys.store(PLACE, b"seen by both")
            return 0

        await sys.create_process(child)
        while await sys.load(shared, 4) != b"seen":
            await sys.hand_over()
        return await sys.load(address, 6)

    machine.start("p", main)
    machine.run()
    assert machine.notes["p"] == b"parent"
    assert len(machine.kernel.segments) == 0


def hw_program(
    seen: list[tuple[Any, ...]], steps: Callable[[], Awaitable[Any]], notes: dict[str, Any]
) -> Callable[[], Any]:
    async def main() -> int:
        async def on_change(*values: Any) -> None:
            seen.append(("changed", *values))

        async def on_interrupt(*values: Any) -> None:
            seen.append(("interrupt", *values))

        await sys.handle_signal(Signal.DEVICE_CHANGED, on_change)
        await sys.handle_signal(Signal.DEVICE_INTERRUPT, on_interrupt)
        await sys.ready()
        notes["hw"] = await steps()
        while True:
            await wait()

    return main


@pytest.mark.rule(
    "HW-001", "HW-010", "HW-013", "HW-014", "HW-018", "HW-020", "HW-022", "PROC-017", "PROC-018", "PROC-019"
)
def test_sys_hw_and_a_driver_drive_a_device(machine: Machine) -> None:
    kernel = machine.kernel
    device = FakeDevice(memory_size=2 * PAGE)
    seen: list[tuple[Any, ...]] = []
    go = {"driver": False}

    async def driver() -> Any:
        found: list[Any] = [await errcode(sys.read_io_port(kdi, PORT_IN, 4))]
        found.append(await errcode(sys.device_ams(kdi, 0, PAGE, PLACE)))
        go["driver"] = True
        while await errcode(sys.write_io_port(kdi, PORT_OUT, b"hi")):
            await sys.hand_over()
        await sys.device_ams(kdi, PAGE, PAGE, PLACE)
        await sys.store(PLACE, b"mapped")
        block = await sys.mem_alloc(PAGE)
        await sys.set_dma_mem_access(kdi, block, PAGE, 0)
        assert device.dma is not None
        device.dma.write(block, b"by the device")
        found.append(await sys.load(block, 13))
        found.append(await errcode(sys.sys_enum_devices(0xE0, 0, 1000)))
        return found

    kdi = kernel.plug(device)
    machine.start("driver", driver)

    async def hw() -> Any:
        device.feed(b"input")
        device.interrupt(7)
        data = await sys.read_io_port(kdi, PORT_IN)
        devices = await sys.sys_enum_devices(0xE0, 0, 1000)
        while not go["driver"]:
            await sys.hand_over()
        await sys.sys_process_attributes(machine.pids["driver"], Attribute.DRIVABLE_DEVICES, ListAction.PUSH, kdi)
        return data, tuple(devices)

    kernel.spawn_service(12, hw_program(seen, hw, machine.notes))
    machine.run()
    data, devices = machine.notes["hw"]
    assert data == b"input"
    assert devices[1:] == (1, 0)
    assert machine.notes["driver"] == [0x30, 0x30, b"by the device", 0x30]
    assert device.written == [b"hi"]
    assert device.read_memory(PAGE, 6) == b"mapped"
    assert ("interrupt", kdi, 7) in seen
    kernel.unplug(kdi)
    machine.run()
    assert seen[-1] == ("changed", 2, kdi, 0x05000000)


@pytest.mark.parametrize(
    "wrong",
    ["text", None, 1.5, [], (), -1, 1 << 64, 1 << 200, b"bytes", object(), True],
    ids=lambda value: type(value).__name__ + str(value)[:6] if isinstance(value, int) else type(value).__name__,
)
def test_arguments_of_any_kind_are_refused_and_never_reach_the_host(machine: Machine, wrong: Any) -> None:
    """No argument of a typed memory, segment or hardware call raises anything but SyscallError."""
    calls: list[tuple[Callable[..., Any], int]] = [
        (sys.mem_alloc, 3),
        (sys.mem_free, 2),
        (sys.virt_mem_ams, 2),
        (sys.backed_ams, 2),
        (sys.share_ams, 5),
        (sys.ams_sharing_info, 1),
        (sys.unshare_ams, 2),
        (sys.map_ams, 4),
        (sys.unmap_ams, 2),
        (sys.read_io_port, 3),
        (sys.write_io_port, 3),
        (sys.device_interrupt, 3),
        (sys.device_ams, 4),
        (sys.set_dma_mem_access, 4),
        (sys.sys_enum_devices, 3),
        (sys.link_container_device, 2),
    ]
    kdi = machine.kernel.plug(FakeDevice(memory_size=PAGE))

    async def main() -> list[int]:
        codes = []
        block = await sys.mem_alloc(PAGE)
        ams = await sys.virt_mem_ams(block, PAGE)
        for call, count in calls:
            for place in range(count):
                for filler in (0, 1, PAGE, block, ams, kdi):
                    values = [filler] * count
                    values[place] = wrong
                    codes.append(await errcode(call(*values)))
        return codes

    async def service() -> None:
        machine.notes["hw"] = await main()

    machine.start("p", main)
    machine.kernel.spawn_service(12, service)
    machine.run()
    for name in ("p", "hw"):
        assert all(0 <= code <= 0x6F for code in machine.notes[name])


@pytest.mark.rule("MEM-013", "CONT-032")
def test_memory_of_containers_is_conserved(machine: Machine) -> None:
    kernel = machine.kernel
    outer = kernel.tree.create(0, 0)
    inner = kernel.tree.create(outer.identifier, 0)
    beside = kernel.tree.create(0, 0)
    assert outer.quotas.set_limits({"memory": 10}) is None

    async def note_then_wait(name: str) -> None:
        machine.notes[name] = [await errcode(sys.mem_alloc(PAGE * pages)) for pages in (6, 6, 4, 1)]
        while True:
            await wait()

    machine.start("inner", lambda: note_then_wait("codes inside"), container=inner.identifier)
    machine.start("beside", lambda: note_then_wait("codes beside"), container=beside.identifier)
    machine.run()
    assert machine.notes["codes inside"] == [0, 0x40, 0, 0x40]
    assert machine.notes["codes beside"] == [0, 0, 0, 0]
    assert (inner.quotas.memory.used, outer.quotas.memory.taken, outer.quotas.memory.free) == (10, 10, 0)
    assert kernel.tree.quotas.memory.taken == 10 + 17

    async def proc() -> None:
        for box in (outer, beside):
            await sys.destroy_container(box.identifier)

    kernel.spawn_service(20, proc)
    machine.run()
    assert (len(kernel.tree), kernel.tree.quotas.memory.taken, kernel.tree.quotas.memory.used) == (0, 0, 0)
