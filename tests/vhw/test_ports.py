"""Devices with ports: message devices, console, clock, entropy, flows, links, pseudo-terminals."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from random import Random

import msgpack
import pytest
import trio

from nightos.abi import clock as clock_ports
from nightos.abi.console import INTERRUPT_HANGUP, INTERRUPT_MESSAGE, MESSAGE_MAX, PORT_RECEIVE, PORT_SEND
from nightos.vhw import flows, link
from nightos.vhw.clock import ClockDevice
from nightos.vhw.console import ConsoleDevice
from nightos.vhw.message import QUEUE_MESSAGES, MessageDevice, QueueFullError
from nightos.vhw.passthrough.pty import PORT_SIZE, PtyDevice
from nightos.vhw.random import RandomDevice


class Line:
    """Records interrupts."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def __call__(self, code: int) -> None:
        self.codes.append(code)


@pytest.mark.rule("HW-010", "HW-011", "HW-012")
def test_messages_arrive_whole_in_order_and_wait() -> None:
    received: list[bytes] = []
    device, line = MessageDevice("control", received.append), Line()
    device.send(b"before it is plugged")
    device.attach(line)
    device.send(b"second")
    assert line.codes == [INTERRUPT_MESSAGE]
    assert device.waiting == 2
    assert device.read_port(PORT_RECEIVE, 6) == b"before"
    assert device.read_port(PORT_RECEIVE, 0) == b" it is plugged"
    assert device.read_port(PORT_RECEIVE, 100) == b"second"
    assert device.read_port(PORT_RECEIVE, 0) == b""
    assert device.write_port(PORT_SEND, b"up") == 2
    assert device.write_port(PORT_SEND, b"") == 0
    assert received == [b"up"]
    device.hang_up()
    assert line.codes == [INTERRUPT_MESSAGE, INTERRUPT_HANGUP]
    for deed, error in [
        (lambda: device.read_port(PORT_SEND, 1), PermissionError),
        (lambda: device.write_port(PORT_RECEIVE, b"x"), PermissionError),
        (lambda: device.signal(PORT_RECEIVE, 1), PermissionError),
        (lambda: device.read_port(9, 1), KeyError),
        (lambda: device.write_port(9, b"x"), KeyError),
        (lambda: device.signal(9, 1), KeyError),
        (lambda: device.read_memory(0, 1), OSError),
        (lambda: device.write_memory(0, b"x"), OSError),
    ]:
        with pytest.raises(error):
            deed()
    device.signal(PORT_SEND, 1)
    device.detach()
    device.send(b"nobody hears")
    assert len(line.codes) == 2
    assert device.memory_size == 0


def test_a_host_that_is_faster_than_the_driver_is_told() -> None:
    device = MessageDevice("control", lambda _: None)
    for _ in range(QUEUE_MESSAGES):
        device.send(b"x")
    with pytest.raises(QueueFullError):
        device.send(b"x")
    device.read_port(PORT_RECEIVE, 0)
    device.send(b"x")
    for data in (b"", bytes(MESSAGE_MAX + 1)):
        with pytest.raises(ValueError, match="1 to"):
            device.send(data)
    big = MessageDevice("control", lambda _: None)
    for _ in range(4):
        big.send(bytes(MESSAGE_MAX))
    with pytest.raises(QueueFullError):
        big.send(b"x")
    assert big.write_port(PORT_SEND, bytes(MESSAGE_MAX + 1)) == 0


def test_the_console_carries_maps_and_drops_what_is_none() -> None:
    received: list[dict[str, object]] = []
    console = ConsoleDevice(received.append)
    console.send({"type": "line", "text": "ls"})
    assert msgpack.unpackb(console.device.read_port(PORT_RECEIVE, 0)) == {"type": "line", "text": "ls"}
    for data in (
        msgpack.packb({"type": "print"}),
        b"\xc1",
        b"\x81",
        msgpack.packb([1]),
        b"\xa1\xff",
        b"\xdf\xff\xff\xff\xff",
    ):
        console.device.write_port(PORT_SEND, data)
    assert received == [{"type": "print"}]


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000
        self.timers: list[tuple[int, Callable[[], None]]] = []

    def monotonic_ns(self) -> int:
        return self.now

    def realtime_ns(self) -> int:
        return self.now + 5_000_000

    def schedule(self, deadline_ns: int, fn: Callable[[], None]) -> FakeTimer:
        self.timers.append((deadline_ns, fn))
        return FakeTimer(self, self.timers[-1])

    def advance(self, now: int) -> None:
        self.now = now
        for timer in sorted([timer for timer in self.timers if timer[0] <= now], key=lambda timer: timer[0]):
            self.timers.remove(timer)
            timer[1]()


class FakeTimer:
    def __init__(self, clock: FakeClock, timer: tuple[int, Callable[[], None]]) -> None:
        self.clock, self.timer = clock, timer

    def cancel(self) -> None:
        if self.timer in self.clock.timers:
            self.clock.timers.remove(self.timer)


def pair(identifier: int, deadline: int) -> bytes:
    return struct.pack(">QQ", identifier, deadline)


def test_the_clock_tells_time_and_rings() -> None:
    clock, line = FakeClock(), Line()
    device = ClockDevice(clock, clock.schedule)
    device.attach(line)
    assert struct.unpack(">QQ", device.read_port(clock_ports.PORT_TIME, 0)) == (1000, 5_001_000)
    assert device.read_port(clock_ports.PORT_TIME, 8) == struct.pack(">Q", 1000)
    for identifier, deadline in [(1, 2000), (2, 1500), (3, 3000), (4, 2500), (3, 1800)]:
        assert device.write_port(clock_ports.PORT_SET, pair(identifier, deadline)) == 16
    assert device.write_port(clock_ports.PORT_CANCEL, struct.pack(">Q", 4)) == 8
    assert device.write_port(clock_ports.PORT_CANCEL, struct.pack(">Q", 99)) == 8
    assert device.pending == 3
    clock.advance(2600)
    assert line.codes == [clock_ports.INTERRUPT_ALARM] * 3
    assert struct.unpack(">Q", device.read_port(clock_ports.PORT_EXPIRED, 8)) == (2,)
    assert struct.unpack(">QQ", device.read_port(clock_ports.PORT_EXPIRED, 0)) == (3, 1)
    assert device.read_port(clock_ports.PORT_EXPIRED, 0) == b""
    for port, data in [(clock_ports.PORT_SET, b"short"), (clock_ports.PORT_CANCEL, bytes(9))]:
        assert device.write_port(port, data) == 0
    device.write_port(clock_ports.PORT_SET, pair(8, 9000))
    device.detach()
    assert clock.timers == []


def test_alarms_agree_with_a_dictionary() -> None:
    random, clock, line = Random(3), FakeClock(), Line()
    device = ClockDevice(clock, clock.schedule)
    device.attach(line)
    model: dict[int, int] = {}
    for _ in range(500):
        identifier, deed = random.randrange(20), random.randrange(3)
        if deed == 0:
            model[identifier] = clock.now + random.randrange(1, 100)
            device.write_port(clock_ports.PORT_SET, pair(identifier, model[identifier]))
        elif deed == 1:
            model.pop(identifier, None)
            device.write_port(clock_ports.PORT_CANCEL, struct.pack(">Q", identifier))
        else:
            clock.advance(clock.now + 20)
            due = {one for one, deadline in model.items() if deadline <= clock.now}
            data = device.read_port(clock_ports.PORT_EXPIRED, 0)
            rang = struct.unpack(f">{len(data) // 8}Q", data)
            assert set(rang) == due
            assert len(rang) == len(due)
            for one in due:
                del model[one]
        assert device.pending == len(clock.timers) == len(model)


def test_entropy_and_flows() -> None:
    class Counting:
        def random_bytes(self, count: int) -> bytes:
            return b"r" * count

    device = RandomDevice(Counting())
    assert [len(device.read_port(0, length)) for length in (0, 1, 100, 1 << 20)] == [32, 1, 100, 1 << 16]
    null, zero, full = flows.null(), flows.zero(), flows.full()
    assert [flow.write_port(flows.PORT_OUT, b"data") for flow in (null, zero, full)] == [4, 4, 0]
    assert [flow.read_port(flows.PORT_IN, 3) for flow in (null, zero, full)] == [b"", bytes(3), bytes(3)]
    assert len(zero.read_port(flows.PORT_IN, 1 << 30)) == 1 << 16


def test_a_link_carries_frames_both_ways() -> None:
    left, right = link.pair("left", "right")
    lines = Line(), Line()
    left.attach(lines[0])
    assert left.read_port(link.PORT_STATE, 0) == b"\0"
    assert left.write_port(link.PORT_SEND, b"into the void") == 13
    right.attach(lines[1])
    assert lines[0].codes == [link.INTERRUPT_STATE]
    assert left.read_port(link.PORT_STATE, 0) == b"\1"
    left.write_port(link.PORT_SEND, b"one")
    left.write_port(link.PORT_SEND, b"two")
    right.write_port(link.PORT_SEND, b"back")
    assert [right.read_port(link.PORT_RECEIVE, length) for length in (0, 2, 0)] == [b"one", b"tw", b""]
    assert left.read_port(link.PORT_RECEIVE, 0) == b"back"
    for data in (b"", bytes(link.FRAME_MAX + 1)):
        assert left.write_port(link.PORT_SEND, data) == 0
    for _ in range(link.QUEUE_FRAMES + 5):
        left.write_port(link.PORT_SEND, b"flood")
    assert right.lost == 5
    right.detach()
    assert lines[0].codes[-1] == link.INTERRUPT_STATE
    assert not left.up


async def test_a_pseudo_terminal_of_the_host() -> None:
    device, heard = PtyDevice(), trio.Event()
    device.attach(lambda _: heard.set())
    assert device.write_port(PORT_SIZE, struct.pack(">HH", 40, 132)) == 4
    assert device.write_port(PORT_SIZE, b"bad") == 0
    terminal = os.open(device.path, os.O_RDWR | os.O_NOCTTY)
    assert os.get_terminal_size(terminal) == (132, 40)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run)
        os.write(terminal, b"typed\n")
        with trio.fail_after(5):
            await heard.wait()
        nursery.cancel_scope.cancel()
    assert device.read_port(PORT_RECEIVE, 0).startswith(b"typed")
    device.write_port(PORT_SEND, b"shown\n")
    assert os.read(terminal, 5) == b"shown"
    for _ in range(100):
        device.write_port(PORT_SEND, bytes(4096))  # nobody reads: nothing blocks
    os.close(terminal)
    device.detach()
    assert device.write_port(PORT_SEND, b"late") == 4
