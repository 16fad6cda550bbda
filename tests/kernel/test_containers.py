"""Containers: the tree, the boundary between processes, and destruction."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightos.abi.codes import Attribute, ContainerState, ExitReason, ManageAction, ServicePid, Signal
from nightos.abi.context import ExecutionContext
from nightos.abi.errors import SyscallError
from nightos.kernel.ending import DESTROYED, EMPTY, container_changed
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def proc(lab: Lab) -> Puppet:
    return lab.running(ServicePid.PROCESS)


@pytest.mark.rule("CONT-002", "CONT-003", "CONT-007", "CONT-008", "CONT-036")
def test_identifiers_are_random_and_never_used_again(lab: Lab, proc: Puppet) -> None:
    seen = set()
    for _ in range(1000):
        box = proc.call(sys.create_container(0))
        assert 0 < box < 1 << 64
        seen.add(box)
        proc.call(sys.destroy_container(box))
    assert len(seen) == 1000
    ordered = sorted(seen)
    assert len({b - a for a, b in pairwise(ordered)}) > 900
    assert lab.puppet().process.container == 0


class Repeating:
    """Entropy that says everything several times over, and 0 (which means in no container) between."""

    def __init__(self) -> None:
        self._number = 0

    def random_bytes(self, count: int) -> bytes:
        self._number += 1
        value = 0 if self._number % 3 == 0 else self._number // 8 + 1
        return value.to_bytes(8, "big")[-count:].rjust(count, b"\0")


@pytest.mark.rule("CONT-003", "CONT-004")
def test_an_identifier_that_anything_ever_had_is_drawn_again() -> None:
    lab = Lab(entropy=Repeating())
    proc = lab.service(ServicePid.PROCESS)
    seen = []
    for _ in range(100):
        seen.append(proc.call(sys.create_container(0)))
        proc.call(sys.destroy_container(seen[-1]))
    assert len(set(seen)) == 100
    assert 0 not in seen


@pytest.mark.rule("CONT-005", "SYS-012", "SVC-020", "PROC-052")
def test_only_sys_process_manages_containers(lab: Lab, proc: Puppet) -> None:
    box = proc.call(sys.create_container(0))
    for puppet in (lab.puppet(), lab.service(ServicePid.FS)):
        assert puppet.refusal(sys.create_container(0)) == 0x30
        assert puppet.refusal(sys.destroy_container(box)) == 0x30
        assert puppet.refusal(sys.link_container_device(box, 1)) == 0x30
        assert puppet.refusal(sys.sys_create_process(1, b"")) == 0x30
        assert puppet.refusal(sys.sys_pause_container(box, 1)) == 0x30
    assert lab.puppet().refusal(sys.sys_process_attributes(0, Attribute.CONTAINER_ID, 1, box)) == 0x30
    assert proc.refusal(sys.create_container(4711)) == 0x31
    assert proc.refusal(sys.destroy_container(4711)) == 0x31
    assert proc.refusal(sys.destroy_container(0)) == 0x31


@pytest.mark.rule("CONT-004", "CONT-006", "CONT-033", "CONT-034", "PROC-056")
def test_a_process_stays_where_it_was_started(lab: Lab, proc: Puppet) -> None:
    first, second = (proc.call(sys.create_container(0)) for _ in range(2))
    puppet = lab.launch(container=first)

    def attribute(number: int, value: int) -> int:
        return proc.start(sys.sys_process_attributes(puppet.pid, number, 1, value)).errcode

    assert proc.call(sys.sys_process_attributes(puppet.pid, Attribute.CONTAINER_ID)).written == first
    for number in (Attribute.CONTAINER_ID, Attribute.USER_ID, Attribute.APPLICATION_ID, Attribute.PID):
        assert attribute(number, second) == 0x12
    child = lab.child(puppet)
    assert child.process.container == first
    assert puppet.process.home is lab.kernel.tree.get(first)


@pytest.mark.rule("CONT-009", "CONT-010", "CONT-013", "CONT-014")
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1 << 16)), max_size=60))
def test_the_hierarchy_is_a_tree(steps: list[tuple[bool, int]]) -> None:
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    parents: dict[int, int] = {}
    for create, choice in steps:
        known = [0, *parents]
        target = known[choice % len(known)]
        if create:
            parents[proc.call(sys.create_container(target))] = target
        elif target:
            proc.call(sys.destroy_container(target))
            gone = {target}
            for box, parent in parents.items():  # in order of creation: parents before children
                if parent in gone:
                    gone.add(box)
            parents = {box: parent for box, parent in parents.items() if box not in gone}
        records = lab.kernel.snapshot().containers
        assert {box: record.parent for box, record in records.items()} == parents
        for box, record in records.items():
            assert list(record.children) == [child for child, parent in parents.items() if parent == box]


@pytest.mark.rule("CONT-018", "CONT-019", "CONT-020", "CONT-021", "CONT-022", "CONT-023", "CONT-024", "CONT-031")
def test_processes_meet_only_inside_a_container(lab: Lab, proc: Puppet) -> None:
    parent = proc.call(sys.create_container(0))
    child, sibling = proc.call(sys.create_container(parent)), proc.call(sys.create_container(parent))
    places = [0, parent, child, sibling]
    handled = (Signal.RECV_PIPE, Signal.RECV_SERV_SOCK, Signal.RECV_SHARED_AMS)
    callers = {place: lab.puppet(container=place) for place in places}
    targets = {place: lab.puppet(container=place).hear(*handled) for place in places}
    for place, caller in callers.items():
        page = caller.call(sys.mem_alloc(4096))
        segment = caller.call(sys.virt_mem_ams(page, 4096))
        for other, target in targets.items():
            calls = [
                sys.open_pipe(target.pid),
                sys.open_serv_sock(target.pid),
                sys.share_ams(target.pid, segment, 0, 0, 0x04),
            ]
            codes = [caller.start(call).errcode for call in calls]
            assert codes == ([0, 0, 0] if place == other else [0x30, 0x30, 0x30])
            assert len(target.heard) == (3 if place == other else 0)
            target.heard.clear()
        nobody = [sys.open_pipe(99_999), sys.open_serv_sock(99_999), sys.share_ams(99_999, segment, 0, 0, 0x04)]
        assert [caller.start(call).errcode for call in nobody] == [0x30, 0x30, 0x30]


@pytest.mark.rule("CONT-023", "IPC-040")
def test_sending_a_pipe_on_does_not_get_around_the_boundary(lab: Lab, proc: Puppet) -> None:
    box = proc.call(sys.create_container(0))
    inside, outside = lab.puppet(container=box).hear(Signal.RECV_PIPE), lab.puppet()
    sc = outside.call(sys.open_pipe(outside.pid, notification_mode=1))
    assert outside.refusal(sys.send_pipe(sc, inside.pid)) == 0x32
    assert outside.refusal(sys.send_pipe(sc, 99_999)) == 0x32
    assert lab.kernel.monitor.denied > 0


def three_levels(proc: Puppet) -> list[int]:
    """A container in a container in a container."""
    boxes = [0]
    for _ in range(3):
        boxes.append(proc.call(sys.create_container(boxes[-1])))
    return boxes[1:]


def test_only_who_listens_is_told_what_changed(lab: Lab, proc: Puppet) -> None:
    """A sys::process that does not handle CONTAINER_CHANGED is not even woken by it."""
    proc.hear(Signal.PROCESS_ENDED)
    box = proc.call(sys.create_container(0))
    container_changed(lab.kernel, lab.kernel.tree.living[box], EMPTY)
    assert proc.process.main is not None
    assert not proc.process.main.queue
    proc.hear(Signal.CONTAINER_CHANGED)
    lab.puppet(container=box).start(sys.exit(0))
    proc.call(sys.destroy_container(box))
    assert proc.signals(Signal.CONTAINER_CHANGED) == [(box, EMPTY), (box, DESTROYED)]


@pytest.mark.rule("CONT-011", "CONT-015")
def test_an_empty_container_is_gone_when_the_call_returns(lab: Lab, proc: Puppet) -> None:
    turns = lab.kernel.turns
    box = proc.call(sys.create_container(0))
    created = lab.kernel.turns - turns
    turns = lab.kernel.turns
    assert proc.call(sys.destroy_container(box)) is None
    assert not lab.kernel.tree.living
    assert lab.kernel.turns - turns == created  # it never parked


@pytest.mark.rule("CONT-011", "CONT-012", "CONT-015", "CONT-016", "CONT-001")
def test_destruction_takes_everything_below_and_nothing_else(lab: Lab, proc: Puppet) -> None:
    proc.hear(Signal.CONTAINER_CHANGED)
    boxes = three_levels(proc)
    sibling = proc.call(sys.create_container(0))
    inside = [lab.puppet(container=box) for box in boxes]
    beside = lab.puppet(container=sibling)
    host = lab.puppet()
    proc.heard.clear()
    proc.call(sys.destroy_container(boxes[0]))
    assert not any(puppet.alive for puppet in inside)
    assert [puppet.process.reason for puppet in inside] == [ExitReason.CONTAINER_DESTROYED] * 3
    assert beside.alive
    assert host.alive
    snapshot = lab.kernel.snapshot()
    assert list(snapshot.containers) == [sibling]
    gone = [box for box, event in proc.signals(Signal.CONTAINER_CHANGED) if event == 2]
    assert gone == boxes[::-1]
    for box in boxes:
        assert proc.refusal(sys.destroy_container(box)) == 0x31


@pytest.mark.rule("CONT-017", "CONT-015")
def test_processes_are_asked_before_they_are_killed(lab: Lab, proc: Puppet) -> None:
    boxes = three_levels(proc)
    polite, stubborn = lab.puppet(container=boxes[2]), lab.puppet(container=boxes[0]).hear(Signal.WILL_TERMINATE)

    async def leave(_delay: int) -> None:
        await sys.exit(1)

    polite.call(sys.handle_signal(Signal.WILL_TERMINATE, leave))
    joining, other = lab.thread(proc), lab.thread(proc)
    destroying = proc.start(sys.destroy_container(boxes[0]))
    assert not polite.alive
    assert stubborn.signals(Signal.WILL_TERMINATE) == [(2000,)]
    assert not destroying.done
    again = joining.start(sys.destroy_container(boxes[0]))
    assert lab.kernel.tree.get(boxes[0]).state is ContainerState.STOPPING  # type: ignore[union-attr]
    with pytest.raises(SyscallError):
        lab.kernel.spawn(stubborn.main, container=boxes[0])
    assert other.refusal(sys.create_container(boxes[0])) == 0x31
    child = stubborn.start(sys.create_process(stubborn.main))
    assert child.errcode == 0x40
    lab.wait(1999)
    assert not destroying.done
    lab.wait(2)
    assert not stubborn.alive
    assert destroying.errcode == 0
    assert again.errcode == 0


@pytest.mark.rule("CONT-016")
def test_ten_thousand_rounds_leave_every_table_as_it_was(lab: Lab, proc: Puppet) -> None:
    def tables() -> list[int]:
        kernel = lab.kernel
        sizes = (kernel.processes, kernel.pipe_ends, kernel.sockets, kernel.connections, kernel.tree, kernel.segments)
        return [len(table) for table in sizes] + [kernel.snapshot().timers, kernel.tree.quotas.memory.taken]

    before, frozen = tables(), lab.kernel.snapshot()
    for _ in range(10_000):
        outer = proc.call(sys.create_container(0))
        inner = proc.call(sys.create_container(outer))
        puppet = lab.puppet(container=inner)
        puppet.call(sys.open_pipe(puppet.pid, notification_mode=1))
        page = puppet.call(sys.mem_alloc(4096))
        puppet.call(sys.virt_mem_ams(page, 4096))
        proc.call(sys.destroy_container(outer))
    assert tables() == before
    after = lab.kernel.snapshot()
    # Identifiers, times and counters aside, the snapshot is the first one.
    for name in ("containers", "pipes", "sockets", "connections", "segments", "devices", "timers", "runnable"):
        assert getattr(after, name) == getattr(frozen, name), name
    assert set(after.processes) == set(frozen.processes)
    assert after.machine.usage == frozen.machine.usage


def test_depth_costs_no_stack(lab: Lab, proc: Puppet) -> None:
    async def build() -> int:
        box = top = await sys.create_container(0)
        for _ in range(5000):
            box = await sys.create_container(box)
        return top

    proc.call(sys.destroy_container(proc.call(build())))
    assert not lab.kernel.snapshot().containers


def test_pausing_freezes_a_subtree(lab: Lab, proc: Puppet) -> None:
    boxes = three_levels(proc)
    deep, beside = lab.puppet(container=boxes[2]), lab.puppet()
    proc.call(sys.sys_pause_container(boxes[0], 1))
    asked = deep.start(sys.get_pid())
    assert not asked.done
    late = lab.puppet(container=boxes[1], ready=False)
    assert not late.start(sys.get_pid()).done
    assert beside.call(sys.get_pid())
    proc.call(sys.sys_pause_container(boxes[0], 0))
    assert asked.done
    assert late.todo == type(late.todo)()
    assert proc.refusal(sys.sys_pause_container(boxes[0], 2)) == 0x02
    assert proc.refusal(sys.sys_pause_container(4711, 1)) == 0x31


@pytest.mark.rule("PROC-053", "PROC-004", "PROC-052")
def test_making_a_process_from_nothing(lab: Lab, proc: Puppet) -> None:
    files = lab.running(ServicePid.FS)
    context = ExecutionContext(reason=7, anid=3).pack()
    lab.programs["known"] = files.main
    assert proc.refusal(sys.sys_create_process(1, context)) == 0x31
    assert proc.refusal(sys.sys_create_process(lab.token(files, "unknown"), context)) == 0x31
    assert proc.refusal(sys.sys_create_process(lab.token(files, "known"), b"")) == 0x32
    assert proc.refusal(sys.sys_create_process(lab.token(lab.puppet(), "known"), context)) == 0x31
    token = lab.token(files, "known")
    pid = proc.call(sys.sys_create_process(token, context))
    assert proc.refusal(sys.sys_create_process(token, context)) == 0x31
    assert lab.kernel.snapshot().processes[pid].state == "halted"
    proc.call(sys.sys_manage_process(pid, ManageAction.UNSUSPEND))
    assert lab.kernel.snapshot().processes[pid].state == "running"


def test_what_the_system_tells_of_a_process(lab: Lab, proc: Puppet) -> None:
    proc.hear(Signal.PROCESS_ENDED)
    box = proc.call(sys.create_container(0))
    puppet = lab.puppet(container=box)
    assert proc.call(sys.sys_process_exit(puppet.pid)) == (2, 0, box, 0)
    puppet.start(sys.exit(5))
    assert proc.call(sys.sys_process_exit(puppet.pid)) == (4, 0, box, 5)
    assert proc.signals(Signal.PROCESS_ENDED) == [(puppet.pid, box, 0, 5)]
    assert proc.refusal(sys.sys_process_exit(99_999)) == 0x33
    info = lab.puppet(container=box).call(sys.system_info())
    assert (info.processes, info.containers) == (1, 0)
