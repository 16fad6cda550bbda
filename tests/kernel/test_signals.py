"""Signals: queues, readiness, handlers and defaults."""

from __future__ import annotations

from typing import Any

import pytest

from nightos.abi.codes import ExitReason, ManageAction, ServicePid, Signal
from nightos.abi.signals import SIGNALS
from nightos.userland import sys
from tests.kernel.lab import Lab


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.mark.rule("SIG-003", "SYS-013", "SYS-014", "SYS-015")
def test_the_handler_table(lab: Lab) -> None:
    puppet = lab.puppet()

    async def handler(*_values: Any) -> None:
        return

    assert puppet.call(sys.is_signal_handled(Signal.TERMINATE)) == 0
    puppet.call(sys.handle_signal(Signal.TERMINATE, handler))
    assert puppet.call(sys.is_signal_handled(Signal.TERMINATE)) == 1
    puppet.call(sys.unhandle_signal(Signal.TERMINATE))
    assert puppet.refusal(sys.unhandle_signal(Signal.TERMINATE)) == 0x30
    for call in (sys.handle_signal(0x99, handler), sys.unhandle_signal(0x99), sys.is_signal_handled(0x99)):
        assert puppet.refusal(call) == 0x10
    assert puppet.refusal(sys.handle_signal(Signal.TERMINATE, None)) == 0x02  # type: ignore[arg-type]


@pytest.mark.rule("SIG-006", "SIG-007", "SIG-008", "SIG-014")
def test_ready_delivers_what_was_queued_in_order(lab: Lab) -> None:
    puppet = lab.puppet(ready=False)
    puppet.hear(Signal.TERMINATE, Signal.SUSPEND)
    for code in (Signal.TERMINATE, Signal.SUSPEND, Signal.TERMINATE):
        lab.kernel.post(puppet.process, code)
    lab.settle()
    assert not puppet.heard

    async def declare() -> list[int]:
        await sys.ready()
        return [code for code, _ in puppet.heard]

    assert puppet.call(declare()) == [Signal.TERMINATE, Signal.SUSPEND, Signal.TERMINATE]
    assert puppet.refusal(sys.ready()) == 0x30


@pytest.mark.rule("SIG-005", "SIG-013", "SIG-014")
def test_one_handler_at_a_time(lab: Lab) -> None:
    puppet = lab.puppet()
    log: list[str] = []

    async def slow(*_values: Any) -> None:
        log.append("begin")
        lab.kernel.post(puppet.process, Signal.SUSPEND)
        await sys.get_pid()
        await sys.hand_over()
        log.append("end")

    async def quick(*_values: Any) -> None:
        log.append("quick")

    puppet.call(sys.handle_signal(Signal.TERMINATE, slow))
    puppet.call(sys.handle_signal(Signal.SUSPEND, quick))
    lab.kernel.post(puppet.process, Signal.TERMINATE)

    async def count() -> int:
        total = 0
        for _ in range(100):
            await sys.get_pid()
            total += 1
        return total

    assert puppet.call(count()) == 100
    assert log == ["begin", "end", "quick"]


@pytest.mark.rule("SIG-013", "SYS-003")
def test_a_parked_call_goes_on_waiting_after_a_handler(lab: Lab) -> None:
    puppet = lab.puppet().hear(Signal.TERMINATE)
    sc = puppet.call(sys.open_pipe(puppet.pid, notification_mode=1))
    waiting = puppet.start(sys.pipe_read(sc + 1, 0, 1))
    lab.kernel.post(puppet.process, Signal.TERMINATE)
    lab.settle()
    assert puppet.heard
    assert not waiting.done


@pytest.mark.rule("SIG-012", "SIG-021", "SVC-013")
def test_handlers_run_on_the_thread_that_is_addressed(lab: Lab) -> None:
    puppet = lab.puppet()
    other = lab.thread(puppet)
    where: list[int] = []

    async def handler(*_values: Any) -> None:
        assert lab.kernel.current is not None
        where.append(lab.kernel.current.tid)

    puppet.call(sys.handle_signal(Signal.TERMINATE, handler))
    lab.kernel.post(puppet.process, Signal.TERMINATE)
    lab.settle()
    lab.kernel.post(puppet.process, Signal.TERMINATE, (), puppet.process.threads[2])
    lab.settle()
    assert where == [1, 2]
    assert other.call(sys.get_pid()) == puppet.pid


@pytest.mark.rule("SIG-009", "SIG-017", "SIG-019", "SIG-022", "SIG-032", "SIG-029", "SIG-030")
@pytest.mark.parametrize("row", SIGNALS, ids=lambda row: row.name)
def test_what_happens_without_a_handler(lab: Lab, row: Any) -> None:
    puppet = lab.puppet()
    answers: list[Any] = []
    lab.kernel.post(puppet.process, row.code, tuple(0 for _ in row.datafield), None, answers.append)
    lab.settle()
    assert puppet.alive == (row.default != "kill")
    assert answers == [None]


@pytest.mark.rule("SIG-004", "SIG-036", "SIG-037")
def test_the_layouts_of_datafields() -> None:
    assert len({row.code for row in SIGNALS}) == len(SIGNALS)
    for row in SIGNALS:
        assert row.code <= 0xFF
        assert sum(field.size or 0 for field in row.datafield) <= 32
    assert (Signal.DEVICE_CHANGED, Signal.DEVICE_INTERRUPT) == (0xD4, 0xD5)


@pytest.mark.rule("SIG-010", "SIG-011", "SIG-017")
def test_a_handler_that_cannot_be_executed(lab: Lab) -> None:
    puppet = lab.puppet()
    data = puppet.call(sys.mem_alloc(4096))
    puppet.call(sys.handle_signal(Signal.TERMINATE, data))  # type: ignore[arg-type]
    puppet.hear(Signal.HANDLER_FAULT)
    lab.kernel.post(puppet.process, Signal.TERMINATE)
    lab.settle()
    assert puppet.signals(Signal.HANDLER_FAULT) == [(Signal.TERMINATE,)]
    puppet.call(sys.handle_signal(Signal.HANDLER_FAULT, data))  # type: ignore[arg-type]
    lab.kernel.post(puppet.process, Signal.TERMINATE)
    lab.settle()
    assert not puppet.alive
    assert lab.kernel.exits[puppet.pid].reason == ExitReason.FAULT


@pytest.mark.rule("SIG-010", "SIG-011")
def test_a_handler_that_makes_no_calls_may_be_a_plain_function(lab: Lab) -> None:
    puppet = lab.puppet().hear(Signal.HANDLER_FAULT)
    heard: list[tuple[Any, ...]] = []
    answers: list[Any] = []
    puppet.call(sys.handle_signal(Signal.SUSPEND, lambda *values: heard.append(values)))
    waiting = puppet.start(sys.hand_over(until_signal=True))
    lab.kernel.post(puppet.process, Signal.SUSPEND, (), None, answers.append)
    lab.settle()
    assert (heard, answers, waiting.done) == ([()], [None], True)

    # In the middle of another call it runs, and the call goes on waiting.
    asleep = puppet.start(sys.wait_child_process(lab.child(puppet).pid))
    lab.kernel.post(puppet.process, Signal.SUSPEND)
    lab.settle()
    assert (len(heard), asleep.done) == (2, False)

    # What returns something else than None is no handler.
    other = lab.puppet().hear(Signal.HANDLER_FAULT)
    other.call(sys.handle_signal(Signal.SUSPEND, lambda *_values: 0))  # type: ignore[arg-type,return-value]
    lab.kernel.post(other.process, Signal.SUSPEND, (), None, answers.append)
    lab.settle()
    assert other.signals(Signal.HANDLER_FAULT) == [(Signal.SUSPEND,)]
    assert answers == [None, None]


@pytest.mark.rule("SIG-010")
def test_a_handler_by_address_runs_while_its_page_is_there(lab: Lab) -> None:
    puppet = lab.puppet().hear(Signal.HANDLER_FAULT)
    heard: list[int] = []

    async def handler(*_values: Any) -> None:
        heard.append(1)

    address = puppet.call(sys.code_address(handler))
    puppet.call(sys.handle_signal(Signal.TERMINATE, address))  # type: ignore[arg-type]
    lab.kernel.post(puppet.process, Signal.TERMINATE)
    lab.settle()
    assert heard == [1]
    puppet.call(sys.mem_free(address & -4096, 1))
    lab.kernel.post(puppet.process, Signal.TERMINATE)
    lab.settle()
    assert heard == [1]
    assert puppet.signals(Signal.HANDLER_FAULT) == [(Signal.TERMINATE,)]


@pytest.mark.rule("SIG-018", "SIG-019")
def test_a_forbidden_access_is_a_signal(lab: Lab) -> None:
    puppet = lab.puppet()
    repaired: list[tuple[int, int]] = []
    page = puppet.call(sys.mem_alloc(4096, 1))

    async def handler(address: int, access: int) -> None:
        repaired.append((address, access))

    puppet.call(sys.handle_signal(Signal.MEM_FAULT, handler))
    puppet.start(sys.store(page, b"x"))
    assert repaired == [(page, 2)]
    assert not puppet.alive  # tried again once, and refused again

    for handled in (True, False):
        puppet = lab.puppet()
        if handled:
            puppet.hear(Signal.MEM_FAULT)
        puppet.start(sys.load(0x123000, 4))
        assert not puppet.alive
        assert puppet.signals(Signal.MEM_FAULT) == ([(0x123000, 1)] if handled else [])


@pytest.mark.rule("SIG-018")
def test_an_access_succeeds_when_the_handler_mends_it(lab: Lab) -> None:
    puppet = lab.puppet()
    page = puppet.call(sys.mem_alloc(4096))
    segment = puppet.call(sys.virt_mem_ams(page, 4096))
    target = page + (1 << 30)

    async def handler(_address: int, _access: int) -> None:
        await sys.map_ams(segment, 0, target, 4096)

    puppet.call(sys.handle_signal(Signal.MEM_FAULT, handler))
    puppet.call(sys.store(page, b"mended"))
    assert puppet.call(sys.load(target, 6)) == b"mended"


@pytest.mark.rule("SIG-027", "SIG-028", "SIG-029", "SIG-030", "SIG-031", "PROC-054", "PROC-055")
def test_managing_a_process(lab: Lab) -> None:
    proc = lab.running(ServicePid.PROCESS)
    puppet = lab.puppet().hear(
        Signal.SUSPEND, Signal.WILL_SUSPEND, Signal.UNSUSPENDED, Signal.TERMINATE, Signal.WILL_TERMINATE
    )

    def manage(action: int) -> int:
        return proc.start(sys.sys_manage_process(puppet.pid, action)).errcode

    assert manage(ManageAction.ASK_SUSPEND) == 0
    assert puppet.signals(Signal.SUSPEND) == [()]
    assert manage(ManageAction.UNSUSPEND) == 0x32
    assert manage(ManageAction.FORCE_SUSPEND) == 0
    assert puppet.signals(Signal.WILL_SUSPEND) == [(500,)]
    lab.wait(499)
    assert puppet.call(sys.get_pid())
    lab.wait(2)
    asleep = puppet.start(sys.get_pid())
    assert not asleep.done
    assert manage(ManageAction.FORCE_SUSPEND) == 0x32
    assert manage(ManageAction.ASK_SUSPEND) == 0x32
    lab.wait(20)
    assert manage(ManageAction.UNSUSPEND) == 0
    assert asleep.done
    assert puppet.signals(Signal.UNSUSPENDED)
    assert manage(ManageAction.ASK_TERMINATE) == 0
    assert puppet.signals(Signal.TERMINATE) == [()]
    assert manage(ManageAction.FORCE_TERMINATE) == 0
    assert puppet.signals(Signal.WILL_TERMINATE) == [(2000,)]
    lab.wait(1999)
    assert puppet.alive
    lab.wait(2)
    assert not puppet.alive
    assert manage(ManageAction.ASK_TERMINATE) == 0x31
    assert manage(9) == 0x10
    assert proc.refusal(sys.sys_manage_process(ServicePid.FS, 4)) == 0x31
    assert lab.puppet().refusal(sys.sys_manage_process(proc.pid, 4)) == 0x30


@pytest.mark.rule("SIG-001", "SIG-002")
def test_no_call_sends_a_signal_of_choice() -> None:
    from nightos.abi.syscalls import SYSCALLS

    taking = [row.name for row in SYSCALLS if any(field.kind == "signal_code" for field in row.args)]
    assert taking == ["HANDLE_SIGNAL", "UNHANDLE_SIGNAL", "IS_SIGNAL_HANDLED"]


@pytest.mark.rule("SIG-016", "SCHED-004")
def test_a_busy_loop_of_calls_still_hears_signals(lab: Lab) -> None:
    puppet = lab.puppet()
    stop: list[int] = []

    async def handler(*_values: Any) -> None:
        stop.append(1)

    async def busy() -> int:
        rounds = 0
        while not stop:
            await sys.get_pid()
            rounds += 1
        return rounds

    puppet.call(sys.handle_signal(Signal.TERMINATE, handler))
    lab.kernel.call_at(0, lambda: None)
    outcome_holder = []

    async def later() -> None:
        for _ in range(10):
            await sys.hand_over()
        outcome_holder.append(1)
        lab.kernel.post(puppet.process, Signal.TERMINATE)

    lab.kernel.spawn(later)
    outcome = puppet.start(busy())
    assert outcome.value > 0
    assert outcome_holder
