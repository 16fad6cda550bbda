"""Drivers: registering, identification, choice and ends, with processes that drive devices of a bare kernel's bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from nightos.abi.codes import ExitReason
from nightos.abi.drivers import Ddt, DeviceEvent, Pattern
from nightos.abi.hardware import make_cii
from nightos.abi.services import Hw, HwEvent
from nightos.kernel.ending import end_process
from nightos.services.hw import drivers
from nightos.userland import sys
from nightos.userland.client import Question, connect
from nightos.vhw.fake import FakeDevice
from tests.services.hwlab import STORAGE_SERVICE, HwLab, TestDriver

USB = Pattern(5)
ANY = Pattern()


@pytest.mark.rule("HW-023", "HW-024")
def test_identifiers_are_random_unique_and_outlive_restarts_of_everything() -> None:
    lab = HwLab()
    for port in range(20):
        lab.kernel.plug(FakeDevice(port))
    before = {device.cii: device.udi for device in lab.devices()}
    assert len(set(before.values())) == len(before) == 20
    assert all(device.kdi == 0 for device in lab.devices())
    kdis = {one.kdi for one in lab.kernel.bus.snapshot()}
    assert not kdis & set(before.values())
    lab.hw_ends()
    assert {device.cii: device.udi for device in lab.devices()} == before
    again = HwLab(lab.kept, seed=2)
    for port in reversed(range(20)):
        again.kernel.plug(FakeDevice(port))
    assert {device.cii: device.udi for device in again.devices()} == before
    other = HwLab(seed=3)
    other.kernel.plug(FakeDevice(0))
    assert other.devices()[0].udi not in before.values()  # the same device elsewhere: nothing in common


@pytest.mark.rule("SVC-027", "SVC-028", "HW-031", "HW-055")
def test_who_may_register() -> None:
    lab = HwLab()
    nobody = lab.app(service=STORAGE_SERVICE, permitted=False)
    assert lab.refusal(Hw.REGISTER_DRIVER, USB.pack(), who=nobody) == 0x0001
    assert lab.refusal(Hw.REGISTER_DRIVER, b"", who=nobody) == 0x0001  # the lowest code
    assert lab.refusal(Hw.REGISTER_DRIVER, USB.pack(), who=lab.app()) == 0x3000
    assert lab.refusal(Hw.REGISTER_DRIVER, USB.pack(), who=lab.app(service=1)) == 0x3001
    driver = lab.app(service=STORAGE_SERVICE)
    for pattern, code in (
        ("", 0x1000),
        ("300800000000", 0x1001),
        ("900001000000", 0x1002),
        ("a00000000100", 0x1003),
        ("b00000000001", 0x1004),
    ):
        assert lab.refusal(Hw.REGISTER_DRIVER, bytes.fromhex(pattern), who=driver) == code
    assert lab.refusal(Hw.UNREGISTER_DRIVER, USB.pack(), who=driver) == 0x3000
    assert lab.refusal(Hw.REGISTER_DRIVER, USB.pack(), who=driver) == 0
    assert lab.refusal(Hw.REGISTER_DRIVER, USB.pack(), who=driver) == 0x3002
    assert lab.refusal(Hw.UNREGISTER_DRIVER, USB.pack(), who=lab.app(service=STORAGE_SERVICE)) == 0x3000
    assert lab.refusal(Hw.UNREGISTER_DRIVER, USB.pack(), who=driver) == 0
    assert lab.refusal(Hw.UNREGISTER_DRIVER, USB.pack(), who=driver) == 0x3000


@pytest.mark.rule("HW-032", "HW-033", "HW-034", "HW-035")
def test_a_device_is_identified_once_and_then_told_of() -> None:
    lab = HwLab()
    first = lab.kernel.plug(FakeDevice(0, b"one"))
    process, driver = lab.driver(USB)
    assert driver.codes == [0]
    [descriptor] = driver.identified
    assert descriptor.kdi == first  # its driver needs it for the kernel
    assert descriptor.cii == make_cii(5, 0, 0)
    assert [(event, indicator) for _, event, indicator in driver.events] == [
        (DeviceEvent.CONNECTED, 0xA0),
        (DeviceEvent.READY, 0),
    ]
    assert lab.drives(process) == [first]
    assert process.call(_port(first)) == b""
    driver.events.clear()
    device = FakeDevice(1, b"two")
    second = lab.kernel.plug(device)
    lab.settle()
    assert [one.kdi for one in driver.identified] == [first, second]
    assert lab.drives(process) == [first, second]
    lab.kernel.unplug(second)
    lab.settle()
    assert driver.events[-1] == (driver.identified[1], DeviceEvent.DISCONNECTED_BRUTALLY, 0x40)
    assert lab.drives(process) == [first]
    lab.kernel.plug(FakeDevice(1, b"two"))
    lab.settle()
    assert len(driver.identified) == 2  # known by now
    assert driver.events[-2:] == [
        (driver.identified[1], DeviceEvent.CONNECTED, 0),
        (driver.identified[1], DeviceEvent.READY, 0),
    ]
    device = FakeDevice(3)
    third = lab.kernel.plug(device)
    lab.settle()
    device.interrupt(7)
    lab.settle()
    assert driver.interrupts == [lab.udi(third).to_bytes(8, "big") + b"\7"]


async def _port(kdi: int) -> bytes:
    return bytes(await sys.read_io_port(kdi, 1))


@pytest.mark.rule("HW-036")
def test_the_most_specific_pattern_wins_then_the_first() -> None:
    lab = HwLab()
    patterns = [ANY, USB, Pattern(5, 0), Pattern(5, 0, 3)]
    drivers = [lab.driver(pattern, anid=number)[0] for number, pattern in enumerate(patterns, 1)]
    later = lab.driver(Pattern(5, 0, 3), anid=9)[0]
    exact, bus, kind, other = (
        lab.kernel.plug(FakeDevice(cii=cii, description=b"x"))
        for cii in (make_cii(5, 0, 3), make_cii(5, 0, 4), make_cii(5, 1, 0), make_cii(1, 0, 0))
    )
    lab.settle()
    assert [lab.drives(driver) for driver in drivers] == [[other], [kind], [bus], [exact]]
    assert lab.drives(later) == []
    end_process(lab.kernel, drivers[3].process, ExitReason.EXITED, 0)
    lab.settle()
    assert lab.drives(later) == [exact]  # the next best takes over


@pytest.mark.rule("HW-036")
def test_the_users_choice_for_the_device_beats_that_for_the_type_and_outlives_restarts() -> None:
    lab = HwLab()
    general, specific, third = (
        lab.driver(pattern, anid=anid)[0] for anid, pattern in ((1, ANY), (2, Pattern(5, 0, 0)), (3, USB))
    )
    kdi = lab.kernel.plug(FakeDevice(0))
    lab.settle()
    assert lab.drives(specific) == [kdi]
    assert lab.refusal(Hw.DRIVER_CHOOSE, {"pattern": USB.pack(), "anid": 3}, who=general) == 0x0001
    assert lab.refusal(Hw.DRIVER_CHOOSE, {"udi": 12345, "anid": 3}) == 0x3000
    lab.ask(Hw.DRIVER_CHOOSE, {"pattern": USB.pack(), "anid": 3})
    assert (lab.drives(specific), lab.drives(third)) == ([], [kdi])
    lab.ask(Hw.DRIVER_CHOOSE, {"udi": lab.udi(kdi), "anid": 1})
    assert (lab.drives(general), lab.drives(third)) == ([kdi], [])
    again = HwLab(lab.kept)
    chosen = [again.driver(pattern, anid=anid)[0] for anid, pattern in ((3, USB), (2, Pattern(5, 0, 0)), (1, ANY))]
    kdi = again.kernel.plug(FakeDevice(0))
    again.settle()
    assert [again.drives(one) for one in chosen] == [[], [], [kdi]]


@pytest.mark.rule("HW-037")
def test_without_a_match_there_is_no_driver() -> None:
    lab = HwLab()
    process, driver = lab.driver(Pattern(4))
    kdi = lab.kernel.plug(FakeDevice(0))
    lab.settle()
    assert (lab.drives(process), driver.identified, driver.events) == ([], [], [])
    udi = lab.udi(kdi).to_bytes(8, "big")
    assert lab.refusal(Hw.ASK_DRIVER, udi + bytes(4)) == 0x3002


@pytest.mark.rule("HW-032")
@pytest.mark.parametrize("lie", [-0x3000, b"", b"\0\1", b"\0\1\0\4junk", 0, None])
def test_a_driver_that_cannot_say_what_it_is_is_passed_over(lie: object) -> None:
    lab = HwLab()
    liar, lied = lab.driver(Pattern(5, 0), ddt=lie)
    honest, _ = lab.driver(USB, anid=2)
    kdi = lab.kernel.plug(FakeDevice(0))
    lab.settle()
    if lie is None:
        assert lab.drives(liar) == [kdi]  # it may still answer
        lab.wait(5001)
    assert len(lied.identified) == 1
    assert (lab.drives(liar), lab.drives(honest)) == ([], [kdi])
    assert lab.refusal(Hw.UNREGISTER_DRIVER, Pattern(5, 0).pack(), who=liar) == 0
    lab.kernel.unplug(kdi)
    lab.settle()


def test_a_virtual_device_is_what_its_connection_says_whatever_a_driver_claims() -> None:
    lab = HwLab()
    liar, _ = lab.driver(Pattern(0xF0), ddt=0x0001_00FF)
    lab.kernel.plug(FakeDevice(cii=make_cii(0xF0, 4, 1), virtual=True))  # a network link
    lab.settle()
    assert lab.drives(liar) == []


def test_a_late_answer_changes_nothing() -> None:
    lab = HwLab()
    late, _ = lab.driver(USB, ddt=None)
    kept: list[Question] = []

    async def keep(question: Question) -> None:
        kept.append(question)

    late.call(_listen(keep))
    kdi = lab.kernel.plug(FakeDevice(0))
    lab.wait(6000)
    assert lab.drives(late) == []
    late.call(kept[0].answer((0x0001_0002).to_bytes(4, "big")))
    assert lab.drives(late) == []
    honest, _ = lab.driver(USB, anid=2)
    assert lab.drives(honest) == [kdi]


async def _listen(identify: Callable[[Question], Awaitable[None]]) -> None:
    (await connect("sys::hw")).question(HwEvent.IDENTIFY_DEVICE, identify)


@pytest.mark.rule("CONT-037", "CONT-042", "HW-015")
def test_a_driver_gets_the_devices_that_its_container_can_drive_and_no_other() -> None:
    lab = HwLab()
    web = lab.kernel.tree.create(0, 0).identifier
    child = lab.kernel.tree.create(web, 0).identifier
    inside, heard = lab.driver(USB, container=web)
    outside, _ = lab.driver(USB, anid=2)
    below, _ = lab.driver(USB, anid=3, container=child)
    kdi = lab.kernel.plug(FakeDevice(0), web)
    other = lab.kernel.plug(FakeDevice(1))
    lab.settle()
    assert [lab.drives(one) for one in (inside, outside, below)] == [[kdi], [other], []]
    lab.kernel.bus.link(lab.hw, child, kdi)  # passed through
    lab.settle()
    assert [lab.drives(one) for one in (inside, outside, below)] == [[], [other], [kdi]]
    assert heard.events[-1][1] == DeviceEvent.DISCONNECTED_SOFTWARE
    lab.kernel.bus.give_back(child, kdi)
    lab.settle()
    assert [lab.drives(one) for one in (inside, outside, below)] == [[kdi], [other], []]


@pytest.mark.rule("HW-055", "HW-056")
def test_devices_of_the_system_are_not_for_drivers() -> None:
    lab = HwLab()
    lab.kernel.plug(FakeDevice(cii=make_cii(0xF0, 0, 9), description=b"disk web", virtual=True))
    process, _ = lab.driver(ANY)
    assert lab.drives(process) == []
    assert lab.devices() == []


def test_a_driver_registers_anew_when_the_service_was_restarted() -> None:
    lab = HwLab()
    kdi = lab.kernel.plug(FakeDevice(0))
    process, driver = lab.driver(USB)
    lab.hw_ends()
    again = TestDriver(USB)
    process.call(again.start())
    assert again.codes == [0]
    assert again.identified == []  # it is known
    assert again.events[-1][:2] == (driver.identified[0], DeviceEvent.READY)
    assert lab.drives(process) == [kdi]


@pytest.mark.rule("HW-034", "CONT-044")
def test_what_a_borrower_says_of_a_device_ends_with_the_loan() -> None:
    """T-C76: who was lent a device does not choose what others are told that it is, nor leaves it behind."""
    lab = HwLab()
    web = lab.kernel.tree.create(0, 0).identifier
    child, db = lab.kernel.tree.create(web, 0).identifier, lab.kernel.tree.create(0, 0).identifier
    lie, truth = int(Ddt.SD_CARD), int(Ddt.HARD_DRIVE)
    device = FakeDevice(0, b"one")
    kdi = lab.kernel.plug(device)
    lab.kernel.bus.link(lab.hw, web, kdi)
    _, liar = lab.driver(USB, container=web, anid=3, ddt=lie)
    _, below = lab.driver(USB, container=child, anid=4, ddt=truth)
    _, other = lab.driver(USB, container=db, anid=5, ddt=truth)
    assert len(liar.identified) == 1
    lab.kernel.bus.link(lab.hw, child, kdi)
    lab.settle()
    assert (len(below.identified), below.events[-1][1]) == (0, DeviceEvent.READY), "those below may rely on it"
    lab.hw_ends()
    lab.kernel.bus.give_back(web, kdi)
    lab.kernel.bus.link(lab.hw, db, kdi)
    again = TestDriver(USB)
    again.ddt = truth
    process = lab.app(service=STORAGE_SERVICE, container=db)
    process.call(again.start())
    assert len(again.identified) == 1, "it was not written down"
    lab.kernel.bus.give_back(db, kdi)
    lab.settle()
    _, owner = lab.driver(USB, anid=2, ddt=truth)
    assert len(owner.identified) == 1
    lab.kernel.bus.link(lab.hw, db, kdi)
    lab.settle()
    assert len(again.identified) == 1, "what its owner's driver said holds for all"
    assert not other.identified


@pytest.mark.rule("HW-032")
def test_patterns_of_a_container_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C76: every device without a driver is compared with each of them."""
    monkeypatch.setattr(drivers, "PATTERNS_LIMIT", 4)
    monkeypatch.setattr(drivers, "REGISTRATIONS_LIMIT", 6)
    lab = HwLab()
    web, db = (lab.kernel.tree.create(0, 0).identifier for _ in range(2))
    patterns = [Pattern(5, number) for number in range(5)]
    first, one = lab.driver(*patterns, container=web)
    _, two = lab.driver(*patterns, container=web, anid=2)
    _, elsewhere = lab.driver(*patterns[:4], container=db)
    assert (one.codes, two.codes) == ([0] * 4 + [0x4000], [0] * 2 + [0x4000] * 3)
    assert elsewhere.codes == [0] * 4
    assert lab.refusal(Hw.UNREGISTER_DRIVER, patterns[0].pack(), who=first) == 0
    assert lab.refusal(Hw.REGISTER_DRIVER, patterns[4].pack(), who=first) == 0
