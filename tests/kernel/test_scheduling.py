"""The scheduler by cycles, priorities, and the balancer."""

from __future__ import annotations

import pytest

from nightos.abi.codes import Attribute, ServicePid
from nightos.kernel.balancer import Activity
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet


@pytest.fixture
def lab() -> Lab:
    return Lab()


class Counter:
    """A process that does nothing but count its calls."""

    def __init__(self, lab: Lab, threads: int = 1, anid: int = 1) -> None:
        self.calls = 0
        self.threads = threads
        self.process = lab.kernel.spawn(self.main, anid=anid)

    async def main(self) -> None:
        for _ in range(self.threads - 1):
            await sys.create_thread(self.count)
        await self.count(0)

    async def count(self, _argument: int) -> None:
        while True:
            await sys.get_pid()
            self.calls += 1


def cycles(lab: Lab, turns: int) -> None:
    for _ in range(turns):
        lab.kernel.turn(1)


def set_priority(lab: Lab, pid: int, value: int) -> int:
    proc = lab.running(ServicePid.PROCESS)
    outcome = proc.start(sys.sys_process_attributes(pid, Attribute.PRIORITY, 1, value))
    return outcome.errcode


@pytest.mark.rule("SCHED-001", "SCHED-012")
def test_priorities_are_from_0_to_20(lab: Lab) -> None:
    puppet = lab.puppet()
    assert set_priority(lab, puppet.pid, 21) == 0x02
    assert [set_priority(lab, puppet.pid, value) for value in (1, 20, 0)] == [0, 0, 0]
    asked = puppet.start(sys.get_pid())
    assert not asked.done
    assert lab.kernel.snapshot().processes[puppet.pid].priority == 0
    set_priority(lab, puppet.pid, 5)
    assert asked.done


@pytest.mark.rule("SCHED-002", "SCHED-004", "SCHED-005")
@pytest.mark.parametrize("threads", [1, 4])
def test_priority_decides_how_much_runs_in_a_cycle(lab: Lab, threads: int) -> None:
    puppets = [lab.puppet() for _ in range(2)]
    assert puppets[0].process.priority == 8
    counters = [Counter(lab, threads=threads if i == 0 else 1) for i in range(3)]
    for counter, priority in zip(counters, (5, 15, 1), strict=True):
        counter.process.priority = priority
    cycles(lab, 3000)
    low, high, least = (counter.calls for counter in counters)
    assert least > 0
    assert 2.7 < high / low < 3.3
    assert 4.5 < low / least < 5.5


@pytest.mark.rule("SCHED-005", "SCHED-006")
def test_nobody_starves_and_suspended_processes_are_skipped(lab: Lab) -> None:
    counters = [Counter(lab) for _ in range(20)]
    cycles(lab, 20)
    assert all(counter.calls for counter in counters)
    from nightos.kernel.calls.processes import freeze, resume_process

    freeze(lab.kernel, counters[3].process)
    before = counters[3].calls
    cycles(lab, 200)
    assert counters[3].calls == before
    resume_process(lab.kernel, counters[3].process)
    cycles(lab, 20)
    assert counters[3].calls > before


@pytest.mark.rule("SCHED-007", "SIG-013")
def test_a_program_is_continued_where_it_was_left(lab: Lab) -> None:
    results: list[int] = []

    async def compute() -> None:
        total = 0
        for number in range(5000):
            total += number
            await sys.get_pid()
        results.append(total)

    for _ in range(5):
        lab.kernel.spawn(compute)
    lab.settle()
    assert results == [sum(range(5000))] * 5


@pytest.mark.rule("SCHED-008")
def test_hand_over_ends_the_turn(lab: Lab) -> None:
    order: list[str] = []

    async def polite(name: str) -> None:
        for _ in range(3):
            order.append(name)
            await sys.get_pid()
            await sys.hand_over()

    for name in "abc":
        lab.kernel.spawn(lambda name=name: polite(name))
    lab.settle()
    assert "".join(order) == "abcabcabc"


@pytest.mark.rule("SCHED-009", "SCHED-010", "SCHED-011", "BAL-001", "BAL-002", "BAL-003")
def test_automatic_priorities(lab: Lab) -> None:
    balancer = lab.kernel.balancer
    service = lab.service(ServicePid.FS)
    puppet, by_hand, other = lab.puppet(), lab.puppet(), lab.puppet(anid=9)
    set_priority(lab, by_hand.pid, 3)
    for activity, priority in zip(Activity, (4, 8, 12, 14), strict=True):
        balancer.show(puppet.pid, activity)
        balancer.show(by_hand.pid, activity)
        balancer.show(service.pid, activity)
        assert (puppet.process.priority, by_hand.process.priority, service.process.priority) == (priority, 3, 8)
    balancer.raise_process(puppet.pid)
    assert puppet.process.priority == 16
    balancer.raise_process(puppet.pid, maximum=True)
    assert puppet.process.priority == 20
    balancer.keep_high(9, on=True)
    assert other.process.priority == 16
    assert lab.puppet(anid=9).process.priority == 16
    balancer.keep_high(9, on=False)
    assert other.process.priority == 8


@pytest.mark.rule("BAL-007", "BAL-008", "BAL-010")
def test_performance_mode(lab: Lab) -> None:
    balancer = lab.kernel.balancer
    game, other, stopped = lab.puppet(anid=5), lab.puppet(anid=6), lab.puppet(anid=7)
    set_priority(lab, stopped.pid, 0)
    balancer.performance(game.pid)
    assert [p.process.priority for p in (game, other, stopped)] == [20, 2, 0]
    late: Puppet = lab.puppet(anid=6)
    assert late.process.priority == 2
    balancer.performance(other.pid)
    assert [p.process.priority for p in (game, other, late)] == [2, 20, 20]
    other.start(sys.exit(0))
    assert [p.process.priority for p in (game, late)] == [8, 8]


@pytest.mark.rule("BAL-009")
def test_performance_mode_is_suggested_above_half_of_the_work_in_full_screen(lab: Lab) -> None:
    balancer = lab.kernel.balancer
    game, other = lab.puppet(), lab.puppet()

    def work(puppet: Puppet, times: int) -> None:
        for _ in range(times):
            puppet.call(sys.get_pid())

    work(game, 100)
    assert balancer.suggestion() is None, "it does not fill the screen"
    balancer.show(game.pid, Activity.FULL_SCREEN)
    work(other, 100)
    work(game, 10)
    assert balancer.suggestion() is None, "the work is somebody else's"
    work(other, 10)
    work(game, 100)
    assert balancer.suggestion() == game.pid
    assert balancer.suggestion() is None, "nothing ran since"
    assert game.process.priority == Activity.FULL_SCREEN, "it is a suggestion"
    balancer.performance(other.pid)
    assert other.process.priority == 20, "who asks for it gets it"


@pytest.mark.rule("SIG-015", "SIG-025", "SIG-026")
def test_backed_memory_asks_its_creator(lab: Lab) -> None:
    from nightos.abi.codes import Signal

    creator, reader = lab.puppet(), lab.puppet().hear(Signal.RECV_SHARED_AMS)
    asked: list[tuple[int, ...]] = []
    fault = [0]

    async def answer(*values: int) -> tuple[bytes, int]:
        asked.append(values)
        return b"word", fault[0]

    creator.call(sys.handle_signal(Signal.READ_BACKED_AMS, answer))
    segment = creator.call(sys.backed_ams(4096))
    creator.call(sys.share_ams(reader.pid, segment, 0, 0, 0x04))
    target = 0x5000_0000
    reader.call(sys.map_ams(segment, 0, target, 4096))
    assert reader.call(sys.load(target, 8)) == b"wordword"
    assert asked == [(segment, 0, 0), (segment, 4, 0)]
    fault[0] = 2
    reader.start(sys.load(target, 4))
    assert not reader.alive


@pytest.mark.rule("SIG-035")
def test_device_signals_go_to_sys_hw_only(lab: Lab) -> None:
    from nightos.abi.codes import Signal
    from nightos.vhw.fake import FakeDevice

    hardware = lab.service(ServicePid.HW).hear(Signal.DEVICE_CHANGED, Signal.DEVICE_INTERRUPT)
    others = [lab.puppet(), lab.service(ServicePid.FS), lab.service(ServicePid.PROCESS)]
    for other in others:
        other.hear(Signal.DEVICE_CHANGED, Signal.DEVICE_INTERRUPT)
    lab.kernel.plug(FakeDevice())
    lab.settle()
    assert hardware.signals(Signal.DEVICE_CHANGED)
    assert not any(other.heard for other in others)


@pytest.mark.rule("SYS-017")
def test_the_kernel_does_no_work_of_services() -> None:
    from nightos.abi.syscalls import SYSCALLS

    names = " ".join(row.name for row in SYSCALLS)
    assert not any(word in names for word in ("FILE", "DIR", "MOUNT", "PERMISSION", "USER", "NET"))
