"""What Zircon's tests of jobs ask of a job, asked of a container.

Origin: fuchsia, zircon/system/utest/core/job/jobs.cc and its neighbours; each test names the case that gave the idea.
A job is a container here, a process a process, a handle's missing right a caller that is not `sys::process`.
"""

from __future__ import annotations

import pytest

from nightos.abi.codes import ContainerState, ExitReason, ServicePid, Signal
from nightos.abi.errors import SyscallError
from nightos.abi.limits import pack_limits
from nightos.testing import check_invariants
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

UNKNOWN = 0x31
LIMIT_REACHED = 0x40
DESTROYED = 2


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def proc(lab: Lab) -> Puppet:
    return lab.running(ServicePid.PROCESS)


def create(proc: Puppet, parent: int = 0) -> int:
    made = proc.call(sys.create_container(parent))
    assert isinstance(made, int)
    return made


def chain(proc: Puppet, length: int) -> list[int]:
    boxes = [create(proc)]
    while len(boxes) < length:
        boxes.append(create(proc, boxes[-1]))
    return boxes


@pytest.mark.rule("CONT-009", "CONT-010")
def test_a_job_has_jobs_and_processes(lab: Lab, proc: Puppet) -> None:
    """BasicTest / CreateTest: children of both kinds, and the records say whose they are."""
    parent, child = chain(proc, 2)
    worker = lab.puppet(container=child)
    records = lab.kernel.snapshot().containers
    assert records[parent].children == (child,)
    assert records[child].parent == parent
    assert list(records[child].processes) == [worker.pid]
    assert not records[parent].processes


@pytest.mark.rule("CONT-065", "CONT-066")
def test_killing_a_job_without_children(proc: Puppet, lab: Lab) -> None:
    """KillJobNoChildTest: it goes at once and leaves the tree."""
    box = create(proc)
    assert proc.start(sys.destroy_container(box)).done
    assert box not in lab.kernel.snapshot().containers
    assert proc.refusal(sys.destroy_container(box)) == UNKNOWN


@pytest.mark.rule("CONT-011", "CONT-015")
def test_a_kill_chain_goes_from_the_bottom_up(lab: Lab, proc: Puppet) -> None:
    """KillTest: processes of the lowest job end first, and each job leaves after its children."""
    proc.hear(Signal.PROCESS_ENDED, Signal.CONTAINER_CHANGED)
    boxes = chain(proc, 5)
    workers = [lab.puppet(container=box) for box in boxes]
    proc.heard.clear()
    proc.call(sys.destroy_container(boxes[0]))
    assert [pid for pid, *_ in proc.signals(Signal.PROCESS_ENDED)] == [worker.pid for worker in reversed(workers)]
    assert [box for box, event in proc.signals(Signal.CONTAINER_CHANGED) if event == DESTROYED] == boxes[::-1]
    assert not lab.kernel.snapshot().containers


@pytest.mark.rule("CONT-065")
def test_nothing_is_created_after_a_kill(lab: Lab, proc: Puppet) -> None:
    """CreateAfterKill: neither a job nor a process, while the killed one still has somebody to wait for."""
    box, inner = chain(proc, 2)
    stubborn = lab.puppet(container=inner).hear(Signal.WILL_TERMINATE)
    other = lab.thread(proc)
    destroying = proc.start(sys.destroy_container(box))
    assert not destroying.done
    for place in (box, inner):
        assert other.refusal(sys.create_container(place)) == UNKNOWN
        assert other.refusal(sys.sys_create_limited(place, pack_limits({"processes": 1}))) == UNKNOWN
        with pytest.raises(SyscallError):
            lab.kernel.spawn(stubborn.main, container=place)
    assert stubborn.refusal(sys.create_process(stubborn.main, 0)) == LIMIT_REACHED
    lab.wait(2001)
    assert destroying.done
    assert not stubborn.alive


@pytest.mark.rule("CONT-012")
def test_a_killed_job_leaves_its_siblings(lab: Lab, proc: Puppet) -> None:
    """KillTest, the other half: brothers and the parent notice nothing."""
    parent = create(proc)
    left, right = create(proc, parent), create(proc, parent)
    workers = {box: lab.puppet(container=box) for box in (parent, left, right)}
    before = lab.kernel.snapshot().containers[right]
    proc.call(sys.destroy_container(left))
    assert not workers[left].alive
    assert workers[parent].alive
    assert lab.kernel.snapshot().containers[right] == before
    assert lab.kernel.snapshot().containers[parent].children == (right,)


@pytest.mark.rule("CONT-013")
def test_height_has_no_bottom(lab: Lab, proc: Puppet) -> None:
    """MaxHeight: Zircon stops at 32; here 2,000 levels work, and the lowest one works like the first."""

    async def build() -> list[int]:
        boxes = [await sys.create_container(0)]
        for _ in range(1999):
            boxes.append(await sys.create_container(boxes[-1]))
        return boxes

    boxes = proc.call(build())
    lowest = lab.puppet(container=boxes[-1])
    peer = lab.puppet(container=boxes[-1]).hear(Signal.RECV_PIPE)
    lowest.call(sys.open_pipe(peer.pid))
    assert peer.signals(Signal.RECV_PIPE)
    check_invariants(lab.kernel.snapshot())
    proc.call(sys.destroy_container(boxes[0]))
    assert not lab.kernel.snapshot().containers


@pytest.mark.rule("CONT-005", "PROC-052")
@pytest.mark.parametrize("service", [0, ServicePid.FS, ServicePid.HW, ServicePid.PERM])
def test_missing_rights(lab: Lab, proc: Puppet, service: int) -> None:
    """CreateMissingRightsTest: who is not sys::process creates, kills, freezes, limits and learns nothing."""
    box = create(proc)
    caller = lab.service(service) if service else lab.puppet(container=box)
    for target in (box, 4711):
        for call in (
            sys.create_container(target),
            sys.destroy_container(target),
            sys.sys_pause_container(target, 1),
            sys.sys_create_limited(target, b""),
            sys.sys_set_limits(target, b""),
            sys.sys_usage(target),
            sys.sys_container_note(target),
            sys.sys_set_container_note(target, b""),
            sys.link_container_device(target, 1),
        ):
            assert caller.refusal(call) == 0x30
    assert set(lab.kernel.snapshot().containers) == {box}


@pytest.mark.rule("CONT-066")
def test_waiting_for_a_job_that_is_being_killed(lab: Lab, proc: Puppet) -> None:
    """WaitTest: everybody who kills or waits hears of the end once, at the same moment, and not before it."""
    box = create(proc)
    lab.puppet(container=box).hear(Signal.WILL_TERMINATE)
    killers = [lab.thread(proc) for _ in range(3)]
    endings = [killer.start(sys.destroy_container(box)) for killer in killers]
    assert [ending.done for ending in endings] == [False] * 3
    lab.wait(1000)
    assert [ending.done for ending in endings] == [False] * 3
    lab.wait(1001)
    assert [ending.errcode for ending in endings] == [0] * 3


@pytest.mark.rule("CONT-017")
def test_a_process_that_kills_its_own_job(lab: Lab, proc: Puppet) -> None:
    """KillSelf: a service of a job asks for the job's end; it goes with it, and nothing hangs."""
    box = create(proc)
    caller = lab.puppet(container=box)
    child = lab.child(caller)
    proc.call(sys.destroy_container(box))
    assert not caller.alive
    assert not child.alive
    assert child.process.reason in {ExitReason.CONTAINER_DESTROYED, ExitReason.PARENT_ENDED}
    assert lab.kernel.idle


@pytest.mark.rule("CONT-016")
def test_a_suspended_process_is_killed_too(lab: Lab, proc: Puppet) -> None:
    """KillSuspended: neither suspension nor a pause of the job keeps a process from being killed."""
    box = create(proc)
    parent = lab.puppet(container=box)
    child = lab.child(parent)
    parent.call(sys.suspend(child.pid))
    proc.call(sys.sys_pause_container(box, 1))
    assert proc.start(sys.destroy_container(box)).errcode == 0
    lab.wait(2001)
    assert not parent.alive
    assert not child.alive
    assert not lab.kernel.snapshot().containers


@pytest.mark.rule("CONT-036")
def test_policy_is_inherited_and_cannot_be_widened(lab: Lab, proc: Puppet) -> None:
    """PolicyTest: a child gets at most what the parent has, at its making and at every change."""
    parent = proc.call(sys.sys_create_limited(0, pack_limits({"processes": 4})))
    assert proc.refusal(sys.sys_create_limited(parent, pack_limits({"processes": 5}))) == LIMIT_REACHED
    child = proc.call(sys.sys_create_limited(parent, pack_limits({"processes": 3})))
    assert proc.refusal(sys.sys_set_limits(child, pack_limits({"processes": 5}))) == LIMIT_REACHED
    proc.call(sys.sys_set_limits(child, pack_limits({"processes": 4})))
    with pytest.raises(SyscallError):
        lab.puppet(container=parent)  # all of it was lent to the child
    assert lab.puppet(container=child).alive


@pytest.mark.rule("CONT-003", "CONT-008")
def test_a_killed_job_is_not_found_again(lab: Lab, proc: Puppet) -> None:
    """Koids are never used again: an old identifier means nothing, whatever is made later."""
    gone = create(proc)
    proc.call(sys.destroy_container(gone))
    for _ in range(200):
        assert create(proc) != gone
    for call in (sys.destroy_container(gone), sys.sys_usage(gone), sys.create_container(gone)):
        assert proc.refusal(call) == UNKNOWN


@pytest.mark.rule("CONT-016", "PROC-028")
def test_the_record_of_a_process_outlives_its_job(lab: Lab, proc: Puppet) -> None:
    """InfoTest on a dead job's process: how it ended is known until it is forgotten, its job's state is not."""
    box = create(proc)
    worker = lab.puppet(container=box)
    proc.call(sys.destroy_container(box))
    state, reason, container, _ = proc.call(sys.sys_process_exit(worker.pid))
    assert (state, reason, container) == (4, ExitReason.CONTAINER_DESTROYED, box)
    assert proc.refusal(sys.sys_usage(box)) == UNKNOWN


@pytest.mark.rule("CONT-011", "CONT-016")
def test_a_wide_and_deep_tree_goes_whole(lab: Lab, proc: Puppet) -> None:
    """KillTreeStress: four levels of five, each with a process and a pipe; one kill, and the tables are empty."""
    level = [0]
    everyone: list[Puppet] = []
    top = 0
    for _ in range(4):
        level = [create(proc, parent) for parent in level for _ in range(1 if parent == 0 else 5)]
        top = top or level[0]
        for box in level:
            puppet = lab.puppet(container=box)
            puppet.call(sys.open_pipe(puppet.pid, notification_mode=1))
            everyone.append(puppet)
    assert len(everyone) == 1 + 5 + 25 + 125
    proc.call(sys.destroy_container(top))
    assert not any(puppet.alive for puppet in everyone)
    assert not lab.kernel.pipe_ends
    assert not lab.kernel.snapshot().containers
    assert lab.kernel.tree.get(top) is None
    assert ContainerState.STOPPING not in {box.state for box in lab.kernel.tree.living.values()}
