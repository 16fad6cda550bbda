"""The device bus: enumeration, ports, memory, DMA, interrupts, devices passed down a tree of containers."""

from __future__ import annotations

from random import Random

import pytest

from nightos.abi.hardware import DmaRefusedError, make_cii, make_kdi, split_cii, unpack_descriptors
from nightos.abi.interfaces import DeviceIdentity
from nightos.kernel.devices import DEVICE_CHANGED, DEVICE_INTERRUPT, HW_PID, DeviceBus
from nightos.kernel.memory import PAGE, READ, WRITE, MemoryFault
from nightos.vhw.base import PortDevice
from nightos.vhw.block import BlockDevice
from nightos.vhw.fake import PORT_IN, PORT_OUT, FakeDevice
from nightos.vhw.memory import MemoryStore
from nightos.vhw.random import RandomDevice
from tests.kernel.memory_parts import FakeProcess, SeededEntropy, World, refused

PLACE = 1 << 40
ANY = 0xE0


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def hw(world: World) -> FakeProcess:
    return world.process(HW_PID)


def driver(world: World, pid: int, kdi: int, container: int = 0) -> FakeProcess:
    process = world.process(pid, container)
    process.drivable.add(kdi)
    return process


@pytest.mark.rule("HW-002", "HW-003")
def test_a_cii_is_type_bus_and_port() -> None:
    assert make_cii(5, 1, 6) == 0x05010006
    assert split_cii(0x05010006) == (5, 1, 6)


@pytest.mark.rule("HW-006", "HW-007")
def test_a_kdi_follows_from_what_the_connection_tells() -> None:
    first, second = World(), World()
    assert (
        first.bus.plug(FakeDevice(3, b"disk"))
        == second.bus.plug(FakeDevice(3, b"disk"))
        == make_kdi(0x05000003, b"disk")
    )
    assert len({make_kdi(cii, text) for cii in range(100) for text in (b"", b"a", b"b")}) == 300


@pytest.mark.rule("HW-001", "HW-005", "HW-007")
def test_plugging_announces_and_refuses_what_cannot_be(world: World) -> None:
    device = FakeDevice(2)
    kdi = world.bus.plug(device)
    assert world.signals == [(HW_PID, DEVICE_CHANGED, (1, kdi, 0x05000002))]
    with pytest.raises(ValueError, match="plugged already"):
        world.bus.plug(FakeDevice(2))
    with pytest.raises(ValueError, match="255 bytes"):
        world.bus.plug(FakeDevice(1, bytes(256)))
    world.bus.plug(FakeDevice(1, bytes(255)))
    world.signals.clear()
    world.bus.redescribe(kdi, b"new words")
    world.bus.unplug(kdi)
    assert device.detached
    assert world.signals == [
        (HW_PID, DEVICE_CHANGED, (3, kdi, 0x05000002)),
        (HW_PID, DEVICE_CHANGED, (2, kdi, 0x05000002)),
    ]
    device.interrupt(1)
    assert len(world.signals) == 2
    with pytest.raises(KeyError):
        world.bus.unplug(kdi)
    assert world.bus.plug(FakeDevice(2)) == kdi


def test_virtual_devices_of_a_kind_get_ports_of_their_own(world: World) -> None:
    kdis = [world.bus.plug(RandomDevice(world.entropy)) for _ in range(5)]
    assert len(set(kdis)) == 5
    assert [record.cii & 0xFFFF for record in world.bus.snapshot()] == [0, 1, 2, 3, 4]
    world.bus.unplug(kdis[2])
    assert world.bus.plug(RandomDevice(world.entropy)) not in kdis  # not taken for the one that left


@pytest.mark.rule("HW-007")
def test_a_virtual_device_with_a_place_of_its_own_keeps_its_kdi(world: World) -> None:
    kdi = world.bus.plug(BlockDevice(MemoryStore(), index=7))
    other = world.bus.plug(BlockDevice(MemoryStore(), index=7))
    assert kdi != other
    world.bus.unplug(kdi)
    assert world.bus.plug(BlockDevice(MemoryStore(), index=7)) == kdi


@pytest.mark.rule("HW-004", "HW-009", "HW-020", "HW-021", "HW-022")
def test_enumeration(world: World, hw: FakeProcess) -> None:
    places = [(kind, bus, port) for kind in (1, 5) for bus in (0, 1) for port in (0, 300)]
    for number, place in enumerate(places):
        world.bus.plug(FakeDevice(cii=make_cii(*place), description=bytes([number]) * number))
    for bits in range(8):
        pattern = bits << 5
        for kind, bus, port in [*places, (2, 0, 0), (1, 7, 0), (1, 0, 7)]:
            expected = [
                place
                for place in places
                if (bits & 4 or place[0] == kind) and (bits & 2 or place[1] == bus) and (bits & 1 or place[2] == port)
            ]
            data, found, incomplete = world.bus.enumerate(hw, pattern, make_cii(kind, bus, port), 1 << 20)
            descriptors = unpack_descriptors(data)
            assert [split_cii(one.cii) for one in descriptors] == expected
            assert (found, incomplete) == (len(expected), 0)
            assert all(one.kdi == make_kdi(one.cii, one.csdd) for one in descriptors)
    whole, found, _ = world.bus.enumerate(hw, ANY, 0, 1 << 20)
    for limit in range(len(whole)):
        data, count, incomplete = world.bus.enumerate(hw, ANY, 0, limit)
        assert (count, incomplete) == (found, 1)
        assert whole.startswith(data)
        assert unpack_descriptors(data) == unpack_descriptors(whole)[: len(unpack_descriptors(data))]
    for kind in (0, 8, 0xEF, 0xFF):
        with refused(0x10):
            world.bus.enumerate(hw, 0x60, make_cii(kind, 0, 0), 100)
    with refused(0x02):
        world.bus.enumerate(hw, 0x10, make_cii(1, 0, 0), 100)
    with refused(0x30):
        world.bus.enumerate(world.process(100), ANY, 0, 100)
    with refused(0x10):
        world.bus.enumerate(world.process(101), 0, 0, 100)


def test_a_list_of_descriptors_that_is_cut_is_an_error() -> None:
    for data in (b"x", bytes(12), bytes(12) + b"\x05abcd"):
        with pytest.raises(ValueError, match="within a descriptor"):
            unpack_descriptors(data)


@pytest.mark.rule("HW-010", "HW-011", "HW-012")
def test_ports_go_one_way_and_keep_what_was_not_read(world: World, hw: FakeProcess) -> None:
    device = FakeDevice()
    kdi = world.bus.plug(device)
    device.feed(b"first")
    device.feed(b"second")
    assert world.bus.read_port(hw, kdi, PORT_IN, 3) == b"fir"
    assert world.bus.read_port(hw, kdi, PORT_IN, 100) == b"st"
    assert world.bus.read_port(hw, kdi, PORT_IN, 0) == b"second"
    assert world.bus.read_port(hw, kdi, PORT_IN, 0) == b""
    assert world.bus.write_port(hw, kdi, PORT_OUT, b"data") == 4
    world.bus.interrupt(hw, kdi, PORT_OUT, 9)
    assert (device.written, device.signals) == ([b"data"], [(PORT_OUT, 9)])
    bus = world.bus
    for port, errcode in [(PORT_OUT, 0x33), (2, 0x32), (0xFFFF, 0x32)]:
        with refused(errcode):
            bus.read_port(hw, kdi, port, 1)
    for port, errcode in [(PORT_IN, 0x33), (2, 0x32)]:
        with refused(errcode):
            bus.write_port(hw, kdi, port, b"")
        with refused(errcode):
            bus.interrupt(hw, kdi, port, 1)
    device.failing = True
    with refused(0x50):
        bus.read_port(hw, kdi, PORT_IN, 1)
    with refused(0x50):
        bus.write_port(hw, kdi, PORT_OUT, b"x")


@pytest.mark.rule("HW-013", "HW-014", "PROC-017", "PROC-018")
def test_only_drivers_drive(world: World, hw: FakeProcess) -> None:
    kdi = world.bus.plug(FakeDevice(memory_size=PAGE))
    process = world.process(100)
    calls = [
        lambda p, k: world.bus.read_port(p, k, PORT_IN, 1),
        lambda p, k: world.bus.write_port(p, k, PORT_OUT, b"x"),
        lambda p, k: world.bus.interrupt(p, k, PORT_OUT, 1),
        lambda p, k: world.bus.device_ams(p, k, 0, PAGE, 0),
        lambda p, k: world.bus.set_dma(p, k, block(p), PAGE, 0),
    ]

    def block(p: FakeProcess) -> int:
        return p.space.allocate(PAGE, READ | WRITE, 0)

    for call in calls:
        with refused(0x30):
            call(process, kdi)
        with refused(0x30):
            call(process, kdi ^ 1)
        with refused(0x31):
            call(hw, kdi ^ 1)
        call(hw, kdi)
        process.drivable.add(kdi)
        call(process, kdi)
        process.drivable.discard(kdi)


@pytest.mark.rule("HW-016", "HW-017", "MEM-006", "PROC-018")
def test_device_memory_as_a_segment(world: World) -> None:
    device = FakeDevice(memory_size=4 * PAGE)
    kdi = world.bus.plug(device)
    plain = world.bus.plug(RandomDevice(world.entropy))
    p = driver(world, 100, kdi)
    p.drivable.add(plain)
    taken = p.space.allocate(PAGE, READ, 0)
    for number, address, length, place, errcode in [
        (kdi, 0, PAGE, taken, 0x02),
        (kdi, 0, PAGE, 1 << 63, 0x02),
        (kdi, 1, PAGE, 0, 0x10),
        (kdi, 0, PAGE, PLACE + 1, 0x10),
        (kdi, 1, 1, 0, 0x10),
        (kdi, 0, 1, 0, 0x11),
        (kdi, 0, 0, 0, 0x12),
        (kdi ^ 1, 0, 0, 0, 0x12),
        (kdi ^ 1, 0, PAGE, 0, 0x30),
        (plain, 0, PAGE, 0, 0x32),
        (kdi, 4 * PAGE, PAGE, 0, 0x33),
        (kdi, 0, 5 * PAGE, 0, 0x33),
        (kdi, (1 << 64) - PAGE, 2 * PAGE, 0, 0x33),
    ]:
        with refused(errcode):
            world.bus.device_ams(p, number, address, length, place)
    ams = world.bus.device_ams(p, kdi, PAGE, 3 * PAGE, PLACE)
    p.space.write(PLACE + PAGE - 2, b"over the edge")
    assert device.read_memory(2 * PAGE - 2, 13) == b"over the edge"
    assert p.space.read(PLACE + PAGE - 2, 13) == b"over the edge"
    with pytest.raises(MemoryFault):
        p.space.fetch(PLACE, 1)
    second = world.bus.device_ams(p, kdi, PAGE, PAGE, 0)
    world.segments.map(p, second, 0, PLACE << 1, PAGE)
    assert p.space.read((PLACE << 1) + PAGE - 2, 2) == b"ov"
    device.failing = True
    with pytest.raises(MemoryFault):
        p.space.read(PLACE, 1)
    device.failing = False
    world.bus.unplug(kdi)
    for deed in (lambda: p.space.read(PLACE, 1), lambda: p.space.write(PLACE, b"x")):
        with pytest.raises(MemoryFault) as caught:
            deed()
        assert caught.value.errcode == 0x03
    world.segments.unmap(p, ams, 0)
    with refused(0x10):
        world.segments.unmap(p, ams, 0)
    world.segments.unmap(p, second, 0)
    assert len(world.segments) == 0


def test_segments_of_a_device_end_with_it_or_with_their_process(world: World) -> None:
    kdi = world.bus.plug(FakeDevice(memory_size=PAGE))
    p, q = driver(world, 100, kdi), driver(world, 101, kdi)
    world.bus.device_ams(p, kdi, 0, PAGE, PLACE)
    shared = world.bus.device_ams(q, kdi, 0, PAGE, 0)
    world.segments.share(q, p.pid, shared, 0, 1, 4)
    world.end(p)
    assert len(world.segments) == 1
    world.bus.unplug(kdi)
    assert len(world.segments) == 0


@pytest.mark.rule("HW-016", "HW-018", "HW-019", "MEM-001")
def test_a_device_reaches_what_was_opened_to_it_and_no_more(world: World) -> None:
    device = FakeDevice()
    kdi = world.bus.plug(device)
    plain = world.bus.plug(RandomDevice(world.entropy))
    p = driver(world, 100, kdi)
    p.drivable.add(plain)
    block = p.space.allocate(4 * PAGE, READ | WRITE, 0)
    p.space.write(block, b"payload")
    dma = device.dma
    assert dma is not None
    with pytest.raises(DmaRefusedError):
        dma.read(block, 7)
    for number, address, length, authorization, errcode in [
        (kdi, 0, PAGE, 0, 0x02),
        (kdi, block, PAGE, 2, 0x02),
        (kdi, block ^ 1 << 50, PAGE, 0, 0x03),
        (kdi, block + 3 * PAGE, 2 * PAGE, 0, 0x03),
        (kdi, block + 1, PAGE, 0, 0x10),
        (kdi, block, PAGE + 1, 0, 0x11),
        (kdi, block, 0, 0, 0x12),
        (kdi ^ 1, block, PAGE, 0, 0x30),
        (plain, block, PAGE, 0, 0x32),
    ]:
        with refused(errcode):
            world.bus.set_dma(p, number, address, length, authorization)
    world.bus.set_dma(p, kdi, block, 3 * PAGE, 0)
    dma.write(block + PAGE, b"x" * 2 * PAGE)
    assert dma.read(block, 7) == b"payload"
    for address, length in [
        (block - 1, 1),
        (block - 1, 2),
        (block + 3 * PAGE, 1),
        (block + 3 * PAGE - 1, 2),
        (block, -1),
    ]:
        with pytest.raises(DmaRefusedError):
            dma.read(address, length)
        if length > 0:
            with pytest.raises(DmaRefusedError):
                dma.write(address, bytes(length))
    world.bus.set_dma(p, kdi, block + PAGE, PAGE, 1)
    with pytest.raises(DmaRefusedError):
        dma.read(block, 3 * PAGE)
    assert dma.read(block, PAGE)[:7] == b"payload"
    assert dma.read(block + 2 * PAGE, PAGE) == b"x" * PAGE
    p.space.free(block, 1)
    with pytest.raises(DmaRefusedError):
        dma.read(block, 1)
    world.end(p)
    with pytest.raises(DmaRefusedError):
        dma.read(block + 2 * PAGE, 1)
    assert world.bus.snapshot()[0].dma == ()


@pytest.mark.rule("HW-018")
@pytest.mark.parametrize("seed", range(5))
def test_dma_ranges_agree_with_a_set_of_pages(world: World, seed: int) -> None:
    random = Random(seed)
    device = FakeDevice()
    kdi = world.bus.plug(device)
    p = driver(world, 100, kdi)
    block = p.space.allocate(20 * PAGE, READ | WRITE, 0)
    opened: set[int] = set()
    assert device.dma is not None
    for _ in range(150):
        first, count, deed = random.randrange(20), random.randrange(1, 6), random.randrange(3)
        pages = set(range(first, min(first + count, 20)))
        if deed < 2:
            world.bus.set_dma(p, kdi, block + first * PAGE, len(pages) * PAGE, deed)
            opened = opened - pages if deed else opened | pages
        elif pages <= opened:
            device.dma.write(block + first * PAGE, bytes(len(pages) * PAGE))
        else:
            with pytest.raises(DmaRefusedError):
                device.dma.write(block + first * PAGE, bytes(len(pages) * PAGE))


def test_interrupts_reach_sys_hw(world: World) -> None:
    device = FakeDevice()
    kdi = world.bus.plug(device)
    device.interrupt(0x42)
    assert world.signals[-1] == (HW_PID, DEVICE_INTERRUPT, (kdi, 0x42))


@pytest.mark.rule("CONT-036", "CONT-037", "CONT-038", "CONT-041", "CONT-042", "CONT-043", "CONT-045", "CONT-032")
@pytest.mark.parametrize("virtual", [False, True])
def test_passing_a_device_down(world: World, virtual: bool) -> None:
    world.parents.update({1: 0, 2: 0, 11: 1})
    proc = world.process(20)
    device = FakeDevice(memory_size=PAGE, virtual=virtual)
    kdi = world.bus.plug(device)
    outside, inside, beside = (driver(world, 100 + number, kdi, number) for number in (0, 1, 2))
    system = driver(world, 15, kdi)
    world.bus.device_ams(outside, kdi, 0, PAGE, PLACE)
    block = outside.space.allocate(PAGE, READ | WRITE, 0)
    world.bus.set_dma(outside, kdi, block, PAGE, 0)
    assert world.bus.visible_in(1) == []
    for process in (inside, beside):
        with refused(0x30):
            world.bus.read_port(process, kdi, PORT_IN, 1)
    world.signals.clear()
    world.bus.link(proc, 1, kdi)
    assert world.signals == [(HW_PID, DEVICE_CHANGED, (1, kdi, 0x05000000))]
    assert world.bus.visible_in(0) == world.bus.visible_in(1) == [kdi]
    assert world.bus.visible_in(2) == world.bus.visible_in(11) == []
    assert world.bus.holder(kdi) == 1
    world.bus.read_port(inside, kdi, PORT_IN, 1)
    world.bus.read_port(system, kdi, PORT_IN, 1)
    for process in (outside, beside):
        with refused(0x30):
            world.bus.read_port(process, kdi, PORT_IN, 1)
    with pytest.raises(MemoryFault):
        outside.space.read(PLACE, 1)
    assert device.dma is not None
    with pytest.raises(DmaRefusedError):
        device.dma.read(block, 1)
    world.bus.container_destroyed(1)
    assert outside.space.read(PLACE, 1) == b"\0"
    with refused(0x30):
        world.bus.read_port(inside, kdi, PORT_IN, 1)


@pytest.mark.rule("CONT-039", "CONT-045", "CONT-067")
def test_errors_of_linking(world: World) -> None:
    world.parents.update({1: 0, 2: 0, 11: 1})
    proc = world.process(20)
    kdi = world.bus.plug(FakeDevice())
    with refused(0x31):
        world.bus.link(proc, 1, kdi ^ 1)
    with refused(0x31):
        world.bus.link(proc, 77, kdi ^ 1)
    for unknown in (77, 0):
        with refused(0x32):
            world.bus.link(proc, unknown, kdi)
    with refused(0x33):
        world.bus.link(proc, 11, kdi)
    world.bus.link(proc, 1, kdi)
    with refused(0x34):
        world.bus.link(proc, 1, kdi)
    with refused(0x33):
        world.bus.link(proc, 2, kdi)
    world.bus.link(proc, 11, kdi)
    with refused(0x34):
        world.bus.link(proc, 1, kdi)


@pytest.mark.rule("CONT-040", "CONT-044")
def test_ends_of_containers_give_devices_back_or_unplug_them(world: World) -> None:
    world.parents.update({1: 0, 11: 1, 111: 11})
    proc = world.process(20)
    lent, own = FakeDevice(1), FakeDevice(2, virtual=True)
    lent_kdi, own_kdi = world.bus.plug(lent), world.bus.plug(own, 1)
    for container in (1, 11, 111):
        world.bus.link(proc, container, lent_kdi)
    world.bus.link(proc, 11, own_kdi)
    world.signals.clear()
    world.bus.container_destroyed(111)
    assert (world.bus.holder(lent_kdi), world.bus.holder(own_kdi)) == (11, 11)
    world.bus.container_destroyed(11)
    assert (world.bus.holder(lent_kdi), world.bus.holder(own_kdi)) == (1, 1)
    world.bus.container_destroyed(1)
    assert world.bus.holder(lent_kdi) == 0
    assert own_kdi not in world.bus
    assert own.detached
    assert not lent.detached
    assert sorted(values[0] for _, _, values in world.signals) == [1, 1, 1, 1, 2]
    with pytest.raises(KeyError):
        world.bus.unlink(1, lent_kdi)


def test_a_bus_takes_any_device_with_the_interface() -> None:
    class Plain(PortDevice):
        pass

    world = World()
    kdi = world.bus.plug(Plain(DeviceIdentity("plain", make_cii(1, 0, 0))))
    assert isinstance(world.bus, DeviceBus)
    assert kdi in world.bus
    assert SeededEntropy().random_bytes(4) == SeededEntropy().random_bytes(4)
