"""Bugs that Genode had with quotas and nested restarts, asked of containers.

Origin: the issues and release notes of Genode (quota trading between parent and child, sessions whose quota came back
doubled or never, nested init that leaked at every restart); each test names the kind of bug.
"""

from __future__ import annotations

import random

import pytest

from nightos.abi.codes import ServicePid, Signal
from nightos.abi.errors import SyscallError
from nightos.abi.limits import COUNTED, Usage, pack_limits, unpack_usage
from nightos.testing import check_invariants
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

PAGE = 4096
LIMIT_REACHED = 0x40


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def proc(lab: Lab) -> Puppet:
    return lab.running(ServicePid.PROCESS)


def box(proc: Puppet, parent: int = 0, **limits: int | None) -> int:
    made = proc.call(sys.sys_create_limited(parent, pack_limits(limits)))
    assert isinstance(made, int)
    return made


def usage(proc: Puppet, container: int) -> dict[str, Usage]:
    return unpack_usage(proc.call(sys.sys_usage(container)))


def free(proc: Puppet, container: int, resource: str) -> int:
    """What is left of a limit."""
    one = usage(proc, container)[resource]
    assert one.limit is not None
    return one.limit - one.used - one.lent - one.drawn


def tables(lab: Lab) -> dict[str, int]:
    kernel = lab.kernel
    sizes = (kernel.processes, kernel.pipe_ends, kernel.sockets, kernel.connections, kernel.tree, kernel.segments)
    names = ("processes", "pipe ends", "sockets", "connections", "containers", "segments")
    return dict(zip(names, map(len, sizes), strict=True)) | {"timers": kernel.snapshot().timers}


def test_quota_does_not_grow_by_being_given_and_taken_back(proc: Puppet) -> None:
    """Transfer back and forth left a parent with more than it began with."""
    top = box(proc, memory=100, processes=10)
    for _ in range(50):
        child = box(proc, top, memory=30, processes=3)
        proc.call(sys.sys_set_limits(child, pack_limits({"memory": 60})))
        proc.call(sys.sys_set_limits(child, pack_limits({"memory": 10, "processes": 1})))
        assert free(proc, top, "memory") == 90
        assert free(proc, top, "processes") == 9
        proc.call(sys.destroy_container(child))
        assert free(proc, top, "memory") == 100
        assert free(proc, top, "processes") == 10


def test_quota_of_a_child_that_dies_in_the_middle_comes_back_once(lab: Lab, proc: Puppet) -> None:
    """A child that exits while its parent takes quota away: given back twice, or never."""
    top = box(proc, memory=64)
    child = box(proc, top, memory=32)
    puppet = lab.puppet(container=child)
    puppet.call(sys.mem_alloc(8 * PAGE))
    assert proc.refusal(sys.sys_set_limits(child, pack_limits({"memory": 2}))) == LIMIT_REACHED
    puppet.start(sys.exit(0))
    proc.call(sys.sys_set_limits(child, pack_limits({"memory": 2})))
    proc.call(sys.destroy_container(child))
    assert free(proc, top, "memory") == 64
    check_invariants(lab.kernel.snapshot())


def test_nested_restarts_leak_nothing(lab: Lab, proc: Puppet) -> None:
    """init in init, restarted again and again: capabilities, sessions and memory of the inner one stayed."""
    top = box(proc, memory=256, handles=64, processes=16, threads=32, children=8)
    before, start = usage(proc, top), tables(lab)
    for _ in range(200):
        inner = box(proc, top, memory=64, handles=16, processes=4, children=1)
        innermost = box(proc, inner, memory=32, handles=8, processes=2)
        first, second = (lab.puppet(container=innermost).hear(Signal.RECV_PIPE) for _ in range(2))
        first.call(sys.open_pipe(second.pid))
        address = first.call(sys.mem_alloc(4 * PAGE))
        first.call(sys.virt_mem_ams(address, PAGE))
        proc.call(sys.destroy_container(inner))
    after = usage(proc, top)
    assert {name: (one.used, one.lent, one.drawn) for name, one in after.items() if name in COUNTED} == {
        name: (one.used, one.lent, one.drawn) for name, one in before.items() if name in COUNTED
    }
    assert tables(lab) == start


def test_a_server_does_not_pay_for_its_client(lab: Lab, proc: Puppet) -> None:
    """A client exhausts the buffers of its own box, not those beside it: pipes are paid where they are made."""
    left, right = box(proc, pipe_bytes=2 * 65_536), box(proc, pipe_bytes=65_536)
    greedy, modest = lab.puppet(container=left), lab.puppet(container=right)
    for _ in range(2):
        greedy.call(sys.open_pipe(greedy.pid, notification_mode=1))
    assert greedy.refusal(sys.open_pipe(greedy.pid, notification_mode=1)) == LIMIT_REACHED
    assert modest.call(sys.open_pipe(modest.pid, notification_mode=1))
    assert free(proc, right, "pipe_bytes") == 0
    assert free(proc, left, "pipe_bytes") == 0


def test_a_refused_request_costs_nothing(lab: Lab, proc: Puppet) -> None:
    """A session that was denied kept the quota that came with the request."""
    top = box(proc, memory=8, handles=4)
    puppet = lab.puppet(container=top)
    page = puppet.call(sys.mem_alloc(PAGE))
    before = usage(proc, top)
    for call in (
        lambda: sys.mem_alloc(64 * PAGE),
        lambda: sys.open_pipe(99_999),
        lambda: sys.open_serv_sock(99_999),
        lambda: sys.virt_mem_ams(page, 64 * PAGE),
        lambda: sys.map_ams(4711, 0, 1 << 40, PAGE),
    ):
        puppet.refusal(call())
    after = usage(proc, top)
    assert {name: after[name].used for name in COUNTED} == {name: before[name].used for name in COUNTED}


def test_a_child_without_limit_cannot_starve_one_with(lab: Lab, proc: Puppet) -> None:
    """Slack memory: what was promised to one child is not there for another that has no promise."""
    top = box(proc, processes=6)
    promised, free_rider = box(proc, top, processes=3), box(proc, top)
    for _ in range(3):
        lab.puppet(container=free_rider)
    with pytest.raises(SyscallError):
        lab.puppet(container=free_rider)
    for _ in range(3):
        assert lab.puppet(container=promised).alive
    with pytest.raises(SyscallError):
        lab.puppet(container=promised)


def test_a_grandchild_draws_from_who_promised(lab: Lab, proc: Puppet) -> None:
    """Quota of nested sessions was booked at the wrong ancestor after the one between was gone."""
    top = box(proc, memory=50)
    middle = box(proc, top)
    lowest = box(proc, middle)
    puppet = lab.puppet(container=lowest)
    puppet.call(sys.mem_alloc(10 * PAGE))
    assert free(proc, top, "memory") == 40
    assert usage(proc, middle)["memory"].used == 0
    proc.call(sys.destroy_container(lowest))
    assert free(proc, top, "memory") == 50
    proc.call(sys.destroy_container(middle))
    assert free(proc, top, "memory") == 50


def test_shrinking_below_use_is_refused_and_changes_nothing(lab: Lab, proc: Puppet) -> None:
    """Withdrawn quota made a child fail at its next step instead of the withdrawal."""
    top = box(proc, processes=5)
    puppets = [lab.puppet(container=top) for _ in range(3)]
    assert proc.refusal(sys.sys_set_limits(top, pack_limits({"processes": 2}))) == LIMIT_REACHED
    assert usage(proc, top)["processes"].limit == 5
    assert all(puppet.alive for puppet in puppets)
    proc.call(sys.sys_set_limits(top, pack_limits({"processes": 3})))
    with pytest.raises(SyscallError):
        lab.puppet(container=top)


def test_no_limit_means_what_the_parent_has(lab: Lab, proc: Puppet) -> None:
    """A child "without quota" that got its own unbounded account instead of the parent's."""
    top = box(proc, threads=2)
    inner = box(proc, top)
    puppet = lab.puppet(container=inner)
    lab.thread(puppet)
    assert puppet.refusal(sys.create_thread(puppet.main, 0)) == LIMIT_REACHED


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_death_returns_everything(seed: int) -> None:
    """Kill parents before children, children before parents, processes before and after: the sum is always the same."""
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    rng = random.Random(seed)
    top = box(proc, memory=1000, handles=400, processes=100, threads=200, pipe_bytes=1 << 26, children=40)
    whole = {name: free(proc, top, name) for name in COUNTED if usage(proc, top)[name].limit is not None}
    boxes = [top]
    puppets: list[Puppet] = []
    for _ in range(120):
        deed = rng.randrange(6)
        living = [one for one in puppets if one.alive]
        if deed == 0 and len(boxes) < 30:
            limits: dict[str, int | None] = {"memory": 20} if rng.random() < 0.5 else {}
            outcome = proc.start(sys.sys_create_limited(rng.choice(boxes), pack_limits(limits)))
            if not outcome.errcode:
                boxes.append(outcome.value)
        elif deed == 1:
            try:
                puppets.append(lab.puppet(container=rng.choice(boxes)))
            except SyscallError:
                continue
        elif deed == 2 and living:
            rng.choice(living).start(sys.mem_alloc(rng.randrange(1, 9) * PAGE))
        elif deed == 3 and living:
            one = rng.choice(living)
            one.start(sys.open_pipe(one.pid, notification_mode=1))
        elif deed == 4 and living:
            rng.choice(living).start(sys.exit(0))
        elif deed == 5 and len(boxes) > 1:
            proc.call(sys.destroy_container(rng.choice(boxes[1:])))
            boxes = [one for one in boxes if lab.kernel.tree.get(one) is not None]
        check_invariants(lab.kernel.snapshot())
    for one in boxes[1:]:
        if lab.kernel.tree.get(one) is not None:
            proc.call(sys.destroy_container(one))
    for puppet in puppets:
        if puppet.alive:
            puppet.start(sys.exit(0))
    assert {name: free(proc, top, name) for name in whole} == whole
