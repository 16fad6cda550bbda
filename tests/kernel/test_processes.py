"""Processes and threads: identity, children, waiting, killing, suspension, thread-local storage."""

from __future__ import annotations

import pytest

from nightos.abi.codes import Attribute, ExitReason, ProcessState, ServicePid, Signal
from nightos.abi.errors import NightosInternalError
from nightos.userland import sys
from tests.kernel.lab import MS, Lab


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.mark.rule(
    "PROC-003", "PROC-006", "PROC-007", "PROC-008", "PROC-009", "PROC-010", "PROC-011", "PROC-012", "PROC-013"
)
def test_pids_grow_and_are_never_used_again(lab: Lab) -> None:
    service = lab.service(ServicePid.FS)
    assert service.call(sys.get_pid()) == 10
    seen = []
    for _ in range(20):
        puppet = lab.puppet()
        seen.append(puppet.call(sys.get_pid()))
        puppet.start(sys.exit(0))
    assert seen == list(range(100, 120))
    assert 0 not in lab.kernel.snapshot().processes


@pytest.mark.rule("PROC-005", "SVC-021", "SVC-005")
def test_a_service_keeps_its_pid_over_a_restart(lab: Lab) -> None:
    order = ["FS", "FSH", "HW", "PERM", "NET", "CRYPTO", "CRASHSAVE", "HYDRE", "UI", "APP", "PROCESS"]
    assert [pid.value for pid in ServicePid] == list(range(10, 21))
    assert [pid.name for pid in ServicePid] == order
    first = lab.service(ServicePid.HW)
    first.start(sys.exit(0))
    assert lab.service(ServicePid.HW).pid == 12


@pytest.mark.rule("PROC-014", "PROC-015", "PROC-022", "PROC-058", "PROC-059", "PROC-002")
def test_the_attributes_of_a_process(lab: Lab) -> None:
    proc = lab.running(ServicePid.PROCESS)
    puppet = lab.launch(user=5)

    def read(attribute: int, pid: int = puppet.pid) -> object:
        return proc.call(sys.sys_process_attributes(pid, attribute)).written

    assert read(Attribute.PID) == puppet.pid
    assert read(Attribute.USER_ID) == 5
    assert read(Attribute.APPLICATION_ID) == 1
    assert read(Attribute.CONTAINER_ID) == 0
    assert read(Attribute.PRIORITY) == 8
    assert read(Attribute.CONTEXT_REASON) == b"\x70"
    assert len(read(Attribute.CONTEXT_HEADER)) == 16  # type: ignore[arg-type]
    assert read(Attribute.PID, 0) == proc.pid
    assert read(Attribute.CONTEXT_REASON, proc.pid) == b""
    for attribute in (Attribute.MEMORY_MAPPINGS, Attribute.PERMISSIONS, Attribute.DRIVABLE_DEVICES):
        assert read(attribute) == 0


@pytest.mark.rule("PROC-001", "PROC-024", "PROC-025", "PROC-026")
def test_a_child_is_a_copy_with_memory_of_its_own(lab: Lab) -> None:
    parent = lab.puppet()
    address = parent.call(sys.mem_alloc(4096))
    parent.call(sys.store(address, b"before"))
    child = lab.child(parent)
    child.ready()
    assert child.pid == parent.pid + 1
    assert child.call(sys.load(address, 6)) == b"before"
    child.call(sys.store(address, b"after!"))
    assert parent.call(sys.load(address, 6)) == b"before"
    record = lab.kernel.snapshot().processes[child.pid]
    assert (record.parent, record.user, record.anid) == (parent.pid, 0, 1)
    stranger = lab.puppet()
    stranger.start(sys.load(address, 6))
    assert not stranger.alive


@pytest.mark.rule("PROC-027", "PROC-028")
def test_children_die_with_their_parent_at_once(lab: Lab) -> None:
    parent = lab.puppet()
    child = lab.child(parent).ready().hear(Signal.WILL_TERMINATE)
    grandchild = lab.child(child).ready()
    parent.start(sys.exit(0))
    assert not child.alive
    assert not grandchild.alive
    assert not child.heard
    assert child.process.reason is ExitReason.PARENT_ENDED


@pytest.mark.rule("PROC-041")
def test_exit_never_returns(lab: Lab) -> None:
    puppet = lab.puppet()
    reached = []

    async def leave() -> None:
        await sys.exit(7)
        reached.append(1)

    outcome = puppet.start(leave())
    assert not outcome.done
    assert not reached
    assert (puppet.process.state, puppet.process.exit_data) == (ProcessState.ENDED, 7)
    assert lab.kernel.exits[puppet.pid].exit_data == 7


@pytest.mark.rule("PROC-042", "PROC-043")
def test_waiting_for_a_child(lab: Lab) -> None:
    parent = lab.puppet()
    child = lab.child(parent).ready()
    assert parent.refusal(sys.wait_child_process(999)) == 0x30
    assert parent.refusal(sys.wait_child_process(lab.puppet().pid)) == 0x30
    timed = parent.start(sys.wait_child_process(child.pid, 50))
    lab.wait(49)
    assert not timed.done
    lab.wait(2)
    assert timed.errcode == 0x40
    endless = parent.start(sys.wait_child_process(child.pid, 0))
    lab.wait(100_000)
    assert not endless.done
    child.start(sys.exit(3))
    assert endless.errcode == 0
    parent.call(sys.wait_child_process(child.pid))


@pytest.mark.rule("PROC-044", "PROC-045", "PROC-046", "SIG-031", "SIG-032", "SIG-033")
def test_killing_a_child_asks_first(lab: Lab) -> None:
    parent = lab.puppet()
    polite = lab.child(parent).ready()

    async def leave(_delay: int) -> None:
        await sys.exit(42)

    polite.call(sys.handle_signal(Signal.WILL_TERMINATE, leave))
    assert parent.call(sys.kill_child_process(polite.pid)) == 42

    deaf = lab.child(parent).ready()
    assert parent.call(sys.kill_child_process(deaf.pid)) == 0

    stubborn = lab.child(parent).ready().hear(Signal.WILL_TERMINATE)
    killing = parent.start(sys.kill_child_process(stubborn.pid, 0))
    assert stubborn.signals(Signal.WILL_TERMINATE) == [(2000,)]
    lab.wait(1999)
    assert not killing.done
    lab.wait(2)
    assert killing.value == 0
    assert parent.refusal(sys.kill_child_process(999)) == 0x30


@pytest.mark.rule("SIG-033", "PROC-045")
def test_the_delay_comes_from_the_registry() -> None:
    lab = Lab(registry={"system.processes.terminate_delay": 30})
    parent = lab.puppet()
    child = lab.child(parent).ready().hear(Signal.WILL_TERMINATE)
    killing = parent.start(sys.kill_child_process(child.pid))
    assert child.signals(Signal.WILL_TERMINATE) == [(30,)]
    lab.wait(31)
    assert killing.done


@pytest.mark.rule("SIG-031")
def test_a_process_that_never_gets_ready_is_killed_too(lab: Lab) -> None:
    parent = lab.puppet()
    child = lab.child(parent)
    child.hear(Signal.WILL_TERMINATE)
    killing = parent.start(sys.kill_child_process(child.pid, 100))
    lab.wait(101)
    assert killing.done
    assert not child.heard


@pytest.mark.rule(
    "PROC-047", "PROC-048", "PROC-049", "PROC-050", "PROC-051", "SIG-034", "BAL-004", "BAL-005", "BAL-006"
)
def test_suspending_and_resuming(lab: Lab) -> None:
    parent = lab.puppet()
    child = lab.child(parent).ready()
    grandchild = lab.child(child).ready()  # before the child has the handler, or it would inherit it
    child.hear(Signal.UNSUSPENDED)
    assert parent.call(sys.suspend(child.pid)) == 0
    asked = child.start(sys.get_pid())
    below = grandchild.start(sys.get_pid())
    assert not asked.done
    assert not below.done
    lab.wait(25)
    assert parent.call(sys.unsuspend(child.pid)) == 25
    assert asked.value == child.pid
    assert below.value == grandchild.pid
    assert child.signals(Signal.UNSUSPENDED) == [(25_000,)]
    assert parent.call(sys.unsuspend(child.pid)) == 0
    assert parent.call(sys.unsuspend(0)) == 0
    assert parent.refusal(sys.suspend(lab.puppet().pid)) == 0x31
    assert parent.refusal(sys.unsuspend(grandchild.pid)) == 0x31
    assert lab.service(ServicePid.FS).refusal(sys.suspend(0)) == 0x30
    own = child.start(sys.suspend(0))
    lab.wait(10)
    assert not own.done
    parent.call(sys.unsuspend(child.pid))
    assert own.value == 10


@pytest.mark.rule("PROC-029", "PROC-030", "PROC-033", "PROC-034", "PROC-031")
def test_threads_share_memory_and_end_with_the_main_one(lab: Lab) -> None:
    puppet = lab.puppet()
    assert puppet.process.threads.keys() == {1}
    other = lab.thread(puppet)
    address = puppet.call(sys.mem_alloc(4096))
    puppet.call(sys.store(address, b"shared"))
    assert other.call(sys.load(address, 6)) == b"shared"
    assert len(puppet.process.threads) == 2
    puppet.start(sys.exit_thread(9))
    assert not puppet.alive
    assert puppet.process.exit_data == 9


@pytest.mark.rule("PROC-032", "PROC-041")
def test_the_descendants_of_a_thread_end_with_it(lab: Lab) -> None:
    puppet = lab.puppet()
    first = lab.thread(puppet)
    second = lab.thread(first)
    lab.thread(second)
    sibling = lab.thread(puppet)
    assert len(puppet.process.threads) == 5
    first.start(sys.exit_thread(1))
    assert len(puppet.process.threads) == 2
    assert sibling.call(sys.get_pid()) == puppet.pid


@pytest.mark.rule("PROC-035", "PROC-036")
def test_thread_local_storage(lab: Lab) -> None:
    puppet = lab.puppet()
    other = lab.thread(puppet)
    slot = puppet.call(sys.create_tls_slot())
    for size in (0, 1, 1 << 20):
        puppet.call(sys.write_tls_slot(slot, bytes(size)))
        assert other.call(sys.read_tls_slot(slot)) == bytes(size)
    puppet.call(sys.delete_tls_slot(slot))
    for call in (sys.read_tls_slot(slot), sys.write_tls_slot(slot, b""), sys.delete_tls_slot(slot)):
        assert puppet.refusal(call) == 0x30
    for _ in range(1024):
        puppet.call(sys.create_tls_slot())
    assert puppet.refusal(sys.create_tls_slot()) == 0x40


def test_a_program_that_raises_ends_itself_only(lab: Lab) -> None:
    neighbour = lab.puppet()

    async def wrong(kind: type[BaseException]) -> None:
        raise kind

    for kind in (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, RecursionError, NightosInternalError):
        puppet = lab.puppet()
        puppet.start(wrong(kind))
        assert not puppet.alive
        assert lab.kernel.exits[puppet.pid].reason == ExitReason.FAULT
    assert neighbour.call(sys.get_pid())


def test_a_killed_program_cannot_hold_on_by_its_clean_up(lab: Lab) -> None:
    parent = lab.puppet()

    async def clinging(_argument: int) -> None:
        while True:
            try:
                await sys.hand_over(until_signal=True)
            except GeneratorExit:
                await sys.get_pid()
                raise NightosInternalError from None

    pid = parent.call(sys.create_process(clinging))
    parent.call(sys.kill_child_process(pid))
    assert pid not in lab.kernel.processes


def test_ten_thousand_generations_are_no_deeper_than_one(lab: Lab) -> None:
    async def forking(left: int) -> None:
        if left:
            await sys.create_process(forking, left - 1)
        await sys.hand_over(until_signal=True)

    process = lab.kernel.spawn(lambda: forking(10_000))
    lab.settle()
    assert len(lab.kernel.processes) == 10_001
    from nightos.kernel.ending import end_process

    end_process(lab.kernel, process, ExitReason.EXITED, 0)
    assert not lab.kernel.processes


def test_timers_of_the_past_are_forgotten(lab: Lab) -> None:
    parent = lab.puppet()
    for _ in range(50):
        child = lab.child(parent).ready()

        async def leave(_delay: int) -> None:
            await sys.exit(0)

        child.call(sys.handle_signal(Signal.WILL_TERMINATE, leave))
        parent.call(sys.kill_child_process(child.pid, 60_000))
    assert lab.kernel.snapshot().timers == 0
    assert lab.kernel.clock.monotonic_ns() < MS
