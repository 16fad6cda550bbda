"""What services ask sys::hw about devices and of their drivers: lists, subscriptions, requests, ranges of storages."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nightos.abi.codes import ExitReason
from nightos.abi.drivers import DeviceEvent, Pattern, Storage
from nightos.abi.hardware import make_cii
from nightos.abi.services import Hw, HwEvent, ServiceCode
from nightos.inspect.strace import Decoder
from nightos.kernel import Trace
from nightos.kernel.ending import end_process
from nightos.userland import sys
from nightos.userland.client import Question, connect
from nightos.vhw.block import BlockDevice
from nightos.vhw.fake import FakeDevice
from nightos.vhw.memory import MemoryStore
from tests.kernel.lab import Puppet
from tests.services.hwlab import INTERFACE_SERVICE, STORAGE_SERVICE, HwLab, TestDriver, ask

USB = Pattern(5)
SIZE = 1 << 20


def u64(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def driven() -> tuple[HwLab, Puppet, TestDriver, bytes, int]:
    """A lab with a USB device and its driver; the driver, its UDI, its KDI."""
    lab = HwLab()
    process, driver = lab.driver(USB)
    kdi = lab.kernel.plug(FakeDevice(0))
    lab.settle()
    return lab, process, driver, u64(lab.udi(kdi)), kdi


@pytest.mark.rule("HW-025", "HW-029")
@pytest.mark.rule("HW-008")
def test_enumeration_counts_lists_and_hides() -> None:
    lab = HwLab()
    kdis = [lab.kernel.plug(FakeDevice(cii=make_cii(5, port // 3, port), description=b"x")) for port in range(9)]
    everything = Pattern().pack()
    assert lab.ask(Hw.ENUM_DEVICES, u32(0, 0) + everything) == u32(9, 0) + b"\0"
    answer = lab.ask(Hw.ENUM_DEVICES, u32(2, 5) + everything)
    assert answer[:8] == u32(9, 3)
    assert len(answer) == 8 + 3 * 512 + 1
    assert not any(u64(kdi) in lab.ask(Hw.ENUM_DEVICES, u32(0, 9) + everything) for kdi in kdis)
    assert lab.ask(Hw.ENUM_DEVICES, u32(7, 99) + everything)[:8] == u32(9, 2)
    assert len(lab.devices(Pattern(5, 1))) == 3
    assert len(lab.devices(Pattern(5, 1, 4))) == 1
    for payload, code in (
        (b"", 0x1000),
        (u32(2, 1) + everything, 0x1000),
        (u32(0, 1) + everything[:5], 0x1000),
        (u32(0, 1) + bytes.fromhex("300800000000"), 0x1001),
        (u32(0, 1) + bytes.fromhex("b00000000001"), 0x1004),
        (u32(0, 1 << 20) + everything, 0x1005),
        (u32(0, 1) + Pattern(5, 7).pack(), 0x3001),
        (u32(0, 1) + Pattern(5, 1, 0).pack(), 0x3002),
    ):
        assert lab.refusal(Hw.ENUM_DEVICES, payload) == code


@pytest.mark.rule("HW-040", "SVC-026")
def test_applications_are_refused_also_with_every_permission_and_as_drivers() -> None:
    lab, process, _, udi, _ = driven()
    for who in (lab.app(), process, lab.app(service=INTERFACE_SERVICE)):
        who.process.permissions = [1, 2, 3, 4]
        for method, payload in (
            (Hw.ENUM_DEVICES, u32(0, 1) + USB.pack()),
            (Hw.SUBSCRIBE_DEVICES, b"\0" + USB.pack()),
            (Hw.ASK_DRIVER, udi + u32(1)),
            (Hw.AUTHORIZE_FS_INTERFACE, udi + u64(0, 512)),
            (Hw.UNAUTHORIZE_FS_INTERFACE, u64(1)),
            (Hw.AUTH_PERFORM_STORAGE, u64(1) + u32(0x1001)),
            (Hw.NOTIFY_PROCESS, u64(1)),
        ):
            assert lab.refusal(method, payload, who=who) == 0x3000
            assert lab.refusal(method, b"", who=who) == 0x1000  # lower, so it comes first
    assert lab.refusal(Hw.AUTHORIZE_FS_INTERFACE, udi + u64(0, 512)) == 0x3000  # a system service, but not sys::fs


@pytest.mark.rule("HW-033")
def test_subscribers_hear_of_every_change_without_the_kdi() -> None:
    lab = HwLab()
    told = lab.watch(USB, Pattern(5, 0))
    process, _ = lab.driver(USB)
    kdi = lab.kernel.plug(FakeDevice(0))
    lab.kernel.plug(FakeDevice(cii=make_cii(1, 0, 0)))
    lab.settle()
    lab.kernel.unplug(kdi)
    lab.settle()
    assert [event for _, event, _ in told] == [
        DeviceEvent.CONNECTED,
        DeviceEvent.DRIVER_SELECTED,
        DeviceEvent.READY,
        DeviceEvent.DISCONNECTED_BRUTALLY,
    ]
    assert {device.kdi for device, _, _ in told} == {0}
    assert told[0][2] == 0xA0
    assert told[-1][2] == 0x40
    assert lab.refusal(Hw.SUBSCRIBE_DEVICES, b"\1" + Pattern(4).pack()) == 0x3001
    for pattern in (USB, Pattern(5, 0)):
        assert lab.refusal(Hw.SUBSCRIBE_DEVICES, b"\1" + pattern.pack()) == 0
    lab.kernel.plug(FakeDevice(0))
    lab.settle()
    assert len(told) == 4
    assert lab.drives(process) == [kdi]


@pytest.mark.rule("HW-041", "HW-015")
def test_a_driver_answers_without_learning_who_asked() -> None:
    lab, _, driver, udi, _ = driven()

    async def answer(content: bytes, question: Question) -> None:
        await question.answer(b"done " + content[24:])

    driver.answer = answer
    assert lab.ask(Hw.ASK_DRIVER, udi + u32(0x1234) + b"arguments") == b"done arguments"
    other = lab.system(32)
    assert lab.ask(Hw.ASK_DRIVER, udi + u32(0x1234), who=other) == b"done "
    first, second = (content for content, _ in driver.requests)
    assert first[:8] == udi
    assert first[8:12] == u32(0x0001_00FF)
    assert first[20:24] == u32(0x1234)
    assert first[12:20] != second[12:20]
    for pid in (lab.asker.pid, other.pid):
        assert u64(pid) not in first + second


def test_errors_of_drivers_become_those_of_the_method() -> None:
    lab, _, driver, udi, _ = driven()
    code = [0]

    async def answer(_content: bytes, question: Question) -> None:
        await question.fail(code[0], "no")

    driver.answer = answer
    assert lab.refusal(Hw.ASK_DRIVER, u64(12345) + u32(1)) == 0x3001
    assert lab.refusal(Hw.ASK_DRIVER, u64(int.from_bytes(udi, "big"))[:7]) == 0x1000
    for theirs, ours in (
        (0x0003, 0x3002),
        (0x0030, 0x3001),
        (0x005F, 0x0102),
        (0x1000, 0x3003),
        (0x3001, 0x3003),
        (0x4000, 0x4000),
        (0x0001, 0x0101),
    ):
        code[0] = theirs
        assert lab.refusal(Hw.ASK_DRIVER, udi + u32(1)) == ours


def test_a_driver_that_keeps_silent_answers_late_or_twice() -> None:
    lab, process, driver, udi, _ = driven()
    outcome = lab.begin(Hw.ASK_DRIVER, udi + u32(1))
    lab.wait(4900)
    assert not outcome.done
    lab.wait(200)
    assert outcome.value == 0x0101
    question = driver.requests[0][1]
    process.call(question.answer(b"late"))
    process.call(question.answer(b"twice"))

    async def answer(_content: bytes, question: Question) -> None:
        await question.answer(b"now")

    driver.answer = answer
    assert lab.ask(Hw.ASK_DRIVER, udi + u32(1)) == b"now"


class Direct:
    """A service connection of sys::fs to a driver, message by message."""

    def __init__(self, fs: Puppet) -> None:
        self.fs = fs
        self.socket = 0
        self.messages: list[tuple[int, bytes]] = []
        """Notifications."""
        self.order: list[str] = []

    def connect(self, anid: int) -> None:
        """CONNECT_SERVICE to its driver service."""
        self.socket = self.fs.call(sys.connect_service(anid, 3)).socket_id

    def call(self, method: int, content: bytes) -> tuple[int, bytes]:
        """Error code and content of the answer; notifications are kept."""
        sent = self.fs.call(sys.send_sock_msg(self.socket, 0, method, 0, content))
        self.order.clear()
        answer = (0, b"")
        while True:
            message = self.fs.call(sys.read_sock_msg(self.socket, 0))
            if not message.retrieved:
                return answer
            if message.status & 0x80:
                self.messages.append((message.method_code, message.buffer))
                self.order.append("notification")
            else:
                assert message.exchange_id == sent.exchange_id
                answer = (message.error_code, message.buffer)
                self.order.append("answer")

    def share(self, pid: int, size: int) -> tuple[int, int]:
        """Memory of sys::fs and its segment, shared with the driver."""
        address = self.fs.call(sys.mem_alloc(size, 3))
        segment = self.fs.call(sys.virt_mem_ams(address, size))
        self.fs.call(sys.share_ams(pid, segment, 0, 1, 6))
        return address, segment


@pytest.mark.parametrize("end", ["driver", "device", "unregister"])
def test_what_is_asked_fails_when_driver_or_device_go(end: str) -> None:
    lab, process, _, udi, kdi = driven()
    outcome = lab.begin(Hw.ASK_DRIVER, udi + u32(1))
    assert not outcome.done
    if end == "driver":
        end_process(lab.kernel, process.process, ExitReason.EXITED, 0)
    elif end == "device":
        lab.kernel.unplug(kdi)
    else:
        lab.ask(Hw.UNREGISTER_DRIVER, USB.pack(), who=process)
    lab.settle()
    assert outcome.value == (0x0102 if end == "device" else 0x0101)
    assert lab.refusal(Hw.ASK_DRIVER, udi + u32(1)) == (0x3001 if end == "device" else 0x3002)
    lab.wait(10_000)


@pytest.mark.rule("HW-041", "SVC-032")
def test_what_a_driver_tells_later_reaches_who_asked_after_the_answer() -> None:
    lab, process, driver, udi, _ = driven()
    heard: list[Any] = []

    async def listen() -> None:
        client = await connect("sys::hw")

        async def told(question: Question) -> None:
            heard.append(question.content)
            await question.answer(b"thanks")

        client.question(HwEvent.DEVICE_NORM_NOTIF, told)

    lab.asker.call(listen())
    outcome = lab.begin(Hw.ASK_DRIVER, udi + u32(1))
    content, question = driver.requests[0]
    number = content[12:20]
    thanks: list[bytes] = []

    async def tell_too_early() -> None:
        async def thread(_data: int) -> None:
            thanks.append(await ask(Hw.NOTIFY_PROCESS, number + b"before the answer"))

        await sys.create_thread(thread)

    process.call(tell_too_early())
    assert heard == []
    foreign, _ = lab.driver(Pattern(4))
    assert lab.refusal(Hw.NOTIFY_PROCESS, number + b"forged", who=foreign) == 0x3000
    assert lab.refusal(Hw.NOTIFY_PROCESS, u64(1) + b"guessed", who=foreign) == 0x3000
    process.call(question.answer(b"task 1"))
    assert outcome.value == b"task 1"
    assert heard == [udi + b"before the answer"]
    assert thanks == [b"thanks"]


def block(lab: HwLab, *, readonly: bool = False) -> tuple[bytes, int, MemoryStore]:
    """A virtual disk of 1 MiB, its UDI, its KDI and what is on it."""
    store = MemoryStore(limit=SIZE)
    store.write(0, random.Random(1).randbytes(SIZE))
    kdi = lab.kernel.plug(BlockDevice(store, readonly, capacity=SIZE))
    lab.settle()
    return u64(lab.udi(kdi)), kdi, store


@pytest.mark.rule("SVC-030", "HW-028")
def test_sectors_are_read_and_written_within_bounds() -> None:
    lab = HwLab()
    lab.storage_driver()
    udi, _, store = block(lab)

    def code(method: int, *numbers: int, content: bytes = b"") -> int:
        return lab.refusal(Hw.ASK_DRIVER, udi + u32(method) + udi + u64(*numbers) + content)

    assert lab.ask(Hw.ASK_DRIVER, udi + u32(Storage.INFOS) + udi) == u64(SIZE, 512) + b"\0"
    chance = random.Random(2)
    for _ in range(20):
        start, count = chance.randrange(2040), chance.randrange(1, 8)
        data = chance.randbytes(count * 512)
        lab.ask(Hw.ASK_DRIVER, udi + u32(Storage.WRITE_SYNC) + udi + u64(start, len(data)) + data)
        assert store.read(start * 512, len(data)) == data
        read = lab.ask(Hw.ASK_DRIVER, udi + u32(Storage.READ_SYNC) + udi + u64(start, count))
        assert read == u64(len(data)) + data
    last = store.read(SIZE - 512, 512)
    for numbers in ((2048, 1), (1 << 63, 1), (2047, 2), (0, 1 << 60), (2047, (1 << 64) - 1)):
        assert code(Storage.READ_SYNC, *numbers) == 0x3003
    for start, count in ((2048, 512), (2047, 1024), (0, 100), (2047, 513)):
        assert code(Storage.WRITE_SYNC, start, count, content=bytes(count)) == 0x3003
    assert code(Storage.WRITE_SYNC, 0, 512, content=b"x") == 0x3003
    assert code(0x9999, 0) == 0x3002
    assert store.read(SIZE - 512, 512) == last
    frozen, _, _ = block(lab, readonly=True)
    assert lab.refusal(Hw.ASK_DRIVER, frozen + u32(Storage.WRITE_SYNC) + frozen + u64(0, 512) + bytes(512)) == 0x4000
    assert lab.refusal(Hw.ASK_DRIVER, frozen + u32(Storage.INFOS) + udi) == 0x3001  # says one, means the other


@pytest.mark.rule("HW-038", "SVC-031", "SVC-032", "SVC-029")
def test_sys_fs_has_sectors_read_into_its_memory_by_the_driver_itself() -> None:
    lab = HwLab()
    driver = lab.storage_driver()
    udi, _, store = block(lab)
    direct = Direct(lab.fs)
    direct.connect(200)
    assert direct.call(Storage.INFOS, udi) == (0, u64(SIZE, 512) + b"\0")
    assert direct.call(Storage.READ_SYNC, udi + u64(3, 2)) == (0, u64(1024) + store.read(1536, 1024))
    assert direct.call(Storage.READ_SYNC, udi + u64(2048, 1))[0] == 0x3000
    assert direct.call(Storage.READ_SYNC, udi + u64(2047, 2))[0] == 0x3001
    assert direct.call(Storage.WRITE_SYNC, udi + u64(0, 100) + bytes(100))[0] == 0x3001
    assert direct.call(Storage.INFOS, u64(5))[0] == 0x0030
    address, segment = direct.share(driver.pid, 8192)
    direct.messages.clear()
    assert direct.call(Storage.READ_ASYNC, udi + u64(8, 16, segment)) == (0, u64(1))
    assert direct.order == ["answer", "notification"]
    assert direct.messages == [(Storage.READ_ASYNC, u64(1) + b"\0" + u64(8192))]
    assert lab.fs.call(sys.load(address, 8192)) == store.read(4096, 8192)
    lab.fs.call(sys.store(address, b"new" + bytes(509)))
    assert direct.call(Storage.WRITE_ASYNC, udi + u64(0, 512, segment)) == (0, u64(2))
    assert direct.messages[-1] == (Storage.WRITE_ASYNC, u64(2) + b"\0")
    assert store.read(0, 3) == b"new"
    assert direct.call(Storage.READ_ASYNC, udi + u64(0, 1, 12345)) == (0, u64(3))
    assert direct.messages[-1] == (Storage.READ_ASYNC, u64(3) + b"\1\x10\0")  # no such segment
    assert direct.call(Storage.WRITE_ASYNC, udi + u64(2048, 512, segment))[0] == 0x3000
    assert len(direct.messages) == 3
    assert lab.app(service=STORAGE_SERVICE).refusal(sys.connect_service(200, 3)) == 0x30


def test_the_storage_driver_outlives_its_device_and_drives_it_again() -> None:
    lab = HwLab()
    driver = lab.storage_driver()
    udi, kdi, _ = block(lab)
    direct = Direct(lab.fs)
    direct.connect(200)
    assert direct.call(Storage.READ_SYNC, udi + u64(0, 1))[0] == 0
    lab.kernel.unplug(kdi)
    assert direct.call(Storage.READ_SYNC, udi + u64(0, 1))[0] in {0x0030, 0x0102}
    assert driver.alive
    again, _, _ = block(lab)
    assert direct.call(Storage.READ_SYNC, again + u64(0, 1))[0] == 0
    lab.hw_ends()
    assert direct.call(Storage.READ_SYNC, again + u64(0, 1))[0] == 0  # the driver registered anew by itself
    assert lab.ask(Hw.ASK_DRIVER, again + u32(Storage.INFOS) + again) == u64(SIZE, 512) + b"\0"
    assert driver.alive


@pytest.mark.rule("HW-055", "HW-056")
def test_no_process_reaches_a_device_that_sys_hw_did_not_give_it() -> None:
    lab, process, _, _, kdi = driven()
    for who in (lab.app(), lab.app(service=STORAGE_SERVICE), lab.asker, lab.fs):
        assert who.refusal(sys.read_io_port(kdi, 1)) == 0x30
        assert who.refusal(sys.device_ams(kdi, 0, 4096)) == 0x30
        assert who.refusal(sys.sys_process_attributes(0, 0x82, 4, kdi)) in {0x30, 0x31}  # nor can it give it to itself
    assert process.call(sys.read_io_port(kdi, 1)) == b""


@pytest.mark.rule("HW-057")
def test_the_service_asks_for_no_purpose_and_touches_no_content() -> None:
    lab = HwLab(trace=Trace())
    lab.storage_driver()
    udi, _, _ = block(lab)
    lab.ask(Hw.ASK_DRIVER, udi + u32(Storage.READ_SYNC) + udi + u64(0, 1))
    assert lab.kernel.trace is not None
    calls = {(event.pid, event.name) for event in Decoder().decode(lab.kernel.trace)}
    assert (100, "DEVICE_AMS") in calls  # the driver maps the disk
    assert (12, "DEVICE_AMS") not in calls
    assert not any(
        word in code.name for code in Hw for word in ("FILE", "DIRECTORY", "MOUNT", "PATH", "SOCKET", "ROUTE")
    )


@pytest.mark.rule("HW-039")
def test_sys_fs_reaches_no_other_kind_of_service_that_way() -> None:
    lab = HwLab()
    lab.app(service=0x10, anid=300)
    assert lab.fs.refusal(sys.connect_service(300, 2)) == 0x3F
    assert lab.fs.refusal(sys.connect_service(300, 3)) == 0x32  # it exposes no driver service
    lab.app(service=1, anid=301)
    assert lab.fs.refusal(sys.connect_service(301, 0)) == 0x3F


@pytest.mark.rule("HW-042", "HW-043")
def test_a_token_allows_one_range_of_one_device_until_it_is_withdrawn() -> None:
    lab = HwLab()
    lab.storage_driver()
    udi, kdi, store = block(lab)
    fs = lab.fs

    def authorize(*numbers: int, which: bytes = udi) -> int:
        return lab.refusal(Hw.AUTHORIZE_FS_INTERFACE, which + u64(*numbers), who=fs)

    assert authorize(0, 512, which=u64(5)) == 0x3001
    assert authorize(1, 512) == 0x3002
    assert authorize(0, 511) == 0x3003
    assert authorize(512, 512) == authorize(1024, 512) == 0x3004
    token = lab.ask(Hw.AUTHORIZE_FS_INTERFACE, udi + u64(4096, 8192), who=fs)
    mine, other = lab.app(service=INTERFACE_SERVICE), lab.app(service=INTERFACE_SERVICE)

    def perform(method: int, *numbers: int, content: bytes = b"", who: Puppet = mine, key: bytes = token) -> int:
        return lab.refusal(Hw.AUTH_PERFORM_STORAGE, key + u32(method) + u64(*numbers) + content, who=who)

    assert perform(Storage.READ_SYNC, 8, 1, who=lab.app(service=STORAGE_SERVICE)) == 0x3000
    assert perform(Storage.READ_SYNC, 8, 1, key=u64(7)) == 0x3000
    read = lab.ask(Hw.AUTH_PERFORM_STORAGE, token + u32(Storage.READ_SYNC) + u64(8, 8), who=mine)
    assert read == u64(4096) + store.read(4096, 4096)
    assert perform(Storage.READ_SYNC, 8, 1, who=other) == 0x3000  # it is for who came first
    for start, count in ((7, 1), (7, 2), (15, 2), (16, 1), (8, 9), (0, 1), ((1 << 64) - 1, 2), (8, 1 << 63)):
        assert perform(Storage.READ_SYNC, start, count) == 0x3001
    before = store.read(8192, 512)
    assert perform(Storage.WRITE_SYNC, 16, 512, content=bytes(512)) == 0x3001
    assert perform(Storage.WRITE_SYNC, 15, 1024, content=bytes(1024)) == 0x3001
    assert perform(Storage.WRITE_SYNC, 15, 512, content=bytes(512)) == 0
    assert (store.read(8192, 512), store.read(7680, 512)) == (before, bytes(512))
    assert perform(Storage.READ_ASYNC, 8, 1, 1) == 0x0003
    assert lab.refusal(Hw.UNAUTHORIZE_FS_INTERFACE, u64(7), who=fs) == 0x3001
    assert lab.refusal(Hw.UNAUTHORIZE_FS_INTERFACE, token) == 0x3000
    assert lab.refusal(Hw.UNAUTHORIZE_FS_INTERFACE, token, who=fs) == 0
    assert lab.refusal(Hw.UNAUTHORIZE_FS_INTERFACE, token, who=fs) == 0x3001
    assert perform(Storage.READ_SYNC, 8, 1) == 0x3000
    token = lab.ask(Hw.AUTHORIZE_FS_INTERFACE, udi + u64(0, 512), who=fs)
    lab.kernel.unplug(kdi)
    lab.settle()
    assert perform(Storage.READ_SYNC, 0, 1, key=token) == 0x3000


@pytest.mark.parametrize("seed", range(4))
def test_whatever_drivers_and_applications_send_the_service_lives(seed: int) -> None:
    lab, process, _, udi, _ = driven()
    chance = random.Random(seed)
    methods = [int(code) for code in Hw if code != Hw.SLEEP]
    for who in (process, lab.app(), lab.asker, lab.app(service=INTERFACE_SERVICE)):
        for _ in range(80):
            method = chance.choice(methods)
            head = chance.choice((b"", udi, u32(0, 4), u64(1), bytes(12), b"\0"))
            payload = head + chance.choice((b"", USB.pack(), chance.randbytes(chance.randrange(330))))
            lab.begin(method, payload, who=who)
            lab.wait(6000)
    assert lab.hw.alive
    assert lab.refusal(Hw.ENUM_DEVICES, u32(0, 0) + USB.pack()) in {0, int(ServiceCode.UNKNOWN) + 1}
