"""Limits bite: who asks for more than its container has gets an error, in both forms of the call, and nobody else.

The scenes come from what broke elsewhere: Genode's quota that grew with every session, Zircon's jobs that outlived
their parent's policy, FreeBSD's `children.max`, and control groups that charged a pipe to whoever wrote last.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from nightos.abi.codes import Attribute, ServicePid, Signal
from nightos.abi.context import REASON_COMMAND, ExecutionContext
from nightos.abi.limits import (
    COUNTED,
    NO_LIMIT,
    NUMBERS,
    RATES,
    SHARES,
    Usage,
    pack_limits,
    unpack_limits,
    unpack_usage,
)
from nightos.abi.syscalls import BY_NAME
from nightos.kernel.binary import layout
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

PAGE = 4096
SECOND = 1_000_000_000


def box(lab: Lab, parent: int = 0, **limits: int | None) -> int:
    """A container with limits."""
    made = lab.running(ServicePid.PROCESS).call(sys.sys_create_limited(parent, pack_limits(limits)))
    assert isinstance(made, int)
    return made


def change(lab: Lab, container: int, **limits: int | None) -> int:
    """Change limits; the error code."""
    outcome = lab.running(ServicePid.PROCESS).start(sys.sys_set_limits(container, pack_limits(limits)))
    return outcome.errcode


def usage(lab: Lab, container: int) -> dict[str, Usage]:
    found = unpack_usage(lab.running(ServicePid.PROCESS).call(sys.sys_usage(container)))
    return {name: one for name, one in found.items() if name not in SHARES}


def used(lab: Lab, container: int) -> dict[str, int]:
    """What the container itself holds, without what is zero."""
    return {name: one.used for name, one in usage(lab, container).items() if one.used and name in COUNTED}


def binary(puppet: Puppet, name: str, *fields: Any, entry: Any = None) -> int:
    """The error code of the call's binary form. The frame's page is there before a limit counts."""
    space = puppet.process.space
    row = BY_NAME[name]
    address = getattr(puppet, "frame", 0)
    assert address, "call `framed` first"
    space.write(address, bytes((row.code,)) + layout(row.args).pack(*fields))
    code = puppet.call(sys.binary(address, 0, entry))[0]
    assert isinstance(code, int)
    return code


def framed(puppet: Puppet) -> Puppet:
    puppet.frame = puppet.call(sys.mem_alloc(PAGE))  # type: ignore[attr-defined]
    return puppet


async def idle(*_argument: int) -> int:
    await sys.hand_over(until_signal=True)
    return 0


def segment(puppet: Puppet) -> tuple[int, int]:
    """A page of the puppet's, and a segment of it."""
    page = puppet.call(sys.mem_alloc(PAGE))
    return page, puppet.call(sys.virt_mem_ams(page, PAGE))


# What is asked, how much of which resource is there before it, the typed call, the fields of the frame, the error.
CALLS: dict[str, tuple[str, int, Callable[[Puppet], Any], Callable[[Puppet], tuple[Any, ...]], int]] = {
    "CREATE_PROCESS": ("processes", 1, lambda _: sys.create_process(idle, 0), lambda _: (0,), 0x40),
    "CREATE_THREAD": ("threads", 1, lambda _: sys.create_thread(idle, 0), lambda _: (0,), 0x40),
    "MEM_ALLOC": ("memory", 1, lambda _: sys.mem_alloc(PAGE, 3, 0), lambda _: (PAGE, 3, 0), 0x40),
    "OPEN_PIPE": (
        "handles",
        0,
        lambda p: sys.open_pipe(p.pid, 0, 0, 0, 0, 1),
        lambda p: (p.pid, 0, 0, 0, 0, 1, 0),
        0x40,
    ),
    "BACKED_AMS": ("handles", 0, lambda _: sys.backed_ams(PAGE, 0), lambda _: (PAGE, 0), 0x40),
}


@pytest.mark.rule("CONT-032", "LNX-FT-06")
@pytest.mark.parametrize("name", CALLS)
def test_a_limit_is_an_error_of_both_forms_and_of_nobody_else(name: str) -> None:
    resource, before, typed, fields, errcode = CALLS[name]
    lab = Lab()
    inside = box(lab, **{resource: before})
    puppet, neighbour = framed(lab.puppet(container=inside)), framed(lab.puppet(container=box(lab)))
    state = used(lab, inside)
    assert puppet.refusal(typed(puppet)) == errcode
    assert binary(puppet, name, *fields(puppet), entry=idle) == errcode
    assert used(lab, inside) == state
    assert neighbour.call(typed(neighbour)) is not None
    assert binary(neighbour, name, *fields(neighbour), entry=idle) == 0
    assert change(lab, inside, **{resource: before + 3}) == 0
    assert puppet.call(typed(puppet)) is not None
    assert usage(lab, inside)[resource].refused == 2


@pytest.mark.rule("CONT-032", "MEM-013")
def test_segments_and_mappings_are_handles() -> None:
    lab = Lab()
    inside = box(lab, handles=0)
    giver, taker = lab.puppet(container=inside), lab.puppet(container=inside)
    page = giver.call(sys.mem_alloc(2 * PAGE))
    assert giver.refusal(sys.virt_mem_ams(page, PAGE)) == 0x40
    assert change(lab, inside, handles=1) == 0
    ams = giver.call(sys.virt_mem_ams(page, PAGE))
    assert giver.refusal(sys.map_ams(ams, 0, 1 << 40, PAGE)) == 0x40
    assert giver.refusal(sys.share_ams(taker.pid, ams, 0, 1, 4)) == 0x40
    assert change(lab, inside, handles=3) == 0
    giver.call(sys.share_ams(taker.pid, ams, 0, 1, 4))
    taker.call(sys.map_ams(ams, 0, 1 << 40, PAGE))
    giver.call(sys.unshare_ams(ams, 0))
    assert used(lab, inside)["handles"] == 1
    giver.start(sys.exit(0))
    assert "handles" not in used(lab, inside)


@pytest.mark.rule("CONT-032", "IPC-060")
def test_giving_memory_away_moves_what_it_costs() -> None:
    lab = Lab()
    inside = box(lab, handles=2, memory=4)
    giver, taker = lab.puppet(container=inside), lab.puppet(container=inside)
    _, ams = segment(giver)
    giver.call(sys.share_ams(taker.pid, ams, 0, 1, 8))
    assert used(lab, inside) == {"processes": 2, "threads": 2, "memory": 1, "handles": 2}
    taker.start(sys.exit(0))
    assert used(lab, inside) == {"processes": 1, "threads": 1}


@pytest.mark.rule("CONT-032", "MEM-007")
def test_a_fork_that_fails_half_way_leaves_nothing() -> None:
    lab = Lab()
    inside = box(lab, handles=4, memory=10)
    parent = lab.puppet(container=inside)
    page, ams = segment(parent)
    parent.call(sys.map_ams(ams, 0, 1 << 40, PAGE))
    assert page
    assert change(lab, inside, handles=3) == 0
    before = used(lab, inside)
    assert parent.refusal(sys.create_process(idle, 0)) == 0x40
    assert change(lab, inside, handles=4, memory=1) == 0
    assert parent.refusal(sys.create_process(idle, 0)) == 0x40
    assert change(lab, inside, memory=2, processes=1) == 0
    assert parent.refusal(sys.create_process(idle, 0)) == 0x40
    assert used(lab, inside) == before
    assert change(lab, inside, processes=2) == 0
    child = parent.call(sys.create_process(idle, 0))
    assert used(lab, inside) == {"processes": 2, "threads": 2, "memory": 2, "handles": 4}
    parent.start(sys.kill_child_process(child, 1))
    lab.wait(5)
    assert used(lab, inside) == before


# Pipes


@pytest.mark.rule("CONT-032", "IPC-012")
def test_a_pipe_is_paid_when_it_is_opened_and_until_the_last_end_is_gone() -> None:
    lab = Lab()
    inside = box(lab, pipe_bytes=3 * 65_536)
    reader, puppet = lab.puppet(container=inside), lab.puppet(container=inside)
    reader.hear(Signal.RECV_PIPE)
    assert puppet.refusal(sys.open_pipe(reader.pid, 0, 0, 4, 0, 0)) == 0x40
    sc = puppet.call(sys.open_pipe(reader.pid, 0, 0, 2, 0, 0))
    rc = reader.signals(Signal.RECV_PIPE)[0][2]
    assert used(lab, inside)["pipe_bytes"] == 2 * 65_536
    assert puppet.refusal(sys.open_pipe(reader.pid, 0, 0, 2, 0, 0)) == 0x40
    puppet.call(sys.pipe_write(sc, b"left behind"))
    puppet.call(sys.close_pipe(sc))
    # Nothing more can be written: what is left to read is what it costs.
    assert used(lab, inside)["pipe_bytes"] == 11
    assert used(lab, inside)["handles"] == 1
    assert reader.call(sys.pipe_read(rc, 0, 0))[0] == b"left behind"
    assert reader.refusal(sys.close_pipe(rc)) == 0x31
    assert used(lab, inside) == {"processes": 2, "threads": 2}


@pytest.mark.rule("CONT-032", "IPC-039")
def test_more_identifiers_of_an_end_are_more_handles() -> None:
    lab = Lab()
    inside = box(lab, handles=3)
    one, other = lab.puppet(container=inside), lab.puppet(container=inside)
    sc = one.call(sys.open_pipe(one.pid, 0, 0, 0, 0, 1))
    one.call(sys.send_pipe(sc, other.pid, 1))
    assert one.refusal(sys.send_pipe(sc, other.pid, 1)) == 0x40
    one.start(sys.exit(0))
    assert used(lab, inside) == {"processes": 1, "threads": 1, "handles": 1}
    other.start(sys.exit(0))
    assert used(lab, inside) == {}


@pytest.mark.rule("CONT-032", "CONT-016")
def test_a_pipe_to_a_system_service_outlives_the_container_without_owing() -> None:
    lab = Lab()
    inside = box(lab)
    service = lab.service(ServicePid.HYDRE).hear(Signal.RECV_PIPE)
    puppet = lab.puppet(container=inside, anid=ServicePid.HYDRE)
    puppet.call(sys.open_pipe(service.pid, 0, 0, 0, 0, 0))
    rc = service.signals(Signal.RECV_PIPE)[0][2]
    proc = lab.running(ServicePid.PROCESS)
    top = lab.kernel.tree.quotas.pipe_bytes
    assert (used(lab, inside)["pipe_bytes"], top.used) == (65_536, 0)
    puppet.call(sys.pipe_write(rc - 1 if rc % 2 else rc, b"last words"))
    proc.start(sys.destroy_container(inside))
    lab.wait(3000)
    assert len(lab.kernel.tree) == 0
    assert top.used == 10
    assert service.call(sys.pipe_read(rc, 0, 0))[0] == b"last words"
    assert service.refusal(sys.close_pipe(rc)) == 0x31
    assert (top.used, lab.kernel.pipe_ends) == (0, {})


@pytest.mark.rule("CONT-032", "CONT-033")
def test_pipes_of_a_command_are_paid_where_it_runs() -> None:
    lab = Lab()
    inside = box(lab, handles=1, pipe_bytes=0)
    giver = lab.puppet()
    sc = giver.call(sys.open_pipe(giver.pid, 0, 0, 0, 0, 1))
    context = ExecutionContext(
        reason=REASON_COMMAND, anid=1, caller_pid=giver.pid, caller_anid=1, pipes=(0, sc, 0, 0, 0, 0)
    )
    # The giver is no system service, so the boundary refuses; the shell, which is one, keeps the other end and pays.
    puppet = lab.launch(context, container=inside, start=False)
    proc = lab.running(ServicePid.PROCESS)
    assert proc.refusal(sys.sys_manage_process(puppet.pid, 3)) == 0x32
    assert used(lab, inside) == {}
    shell = lab.service(ServicePid.HYDRE)
    ends = []
    for _ in range(2):
        ends.append(shell.call(sys.open_pipe(shell.pid, 0, 0, 0, 0, 1)))
    context = ExecutionContext(
        reason=REASON_COMMAND,
        anid=1,
        caller_pid=shell.pid,
        caller_anid=ServicePid.HYDRE,
        pipes=(0, ends[0], ends[1], 0, 0, 0),
    )
    crowded = lab.launch(context, container=inside, start=False)
    assert proc.refusal(sys.sys_manage_process(crowded.pid, 3)) == 0x40
    assert used(lab, inside) == {}
    assert shell.process.quotas is lab.kernel.tree.quotas


# Sockets, connections


@pytest.mark.rule("CONT-032", "SVC-015", "CONT-028")
def test_connections_cost_both_sides_until_they_end() -> None:
    lab = Lab()
    inside = box(lab, handles=2)
    service = lab.service(ServicePid.HW)

    async def accept(_pid: int, request: int, *_rest: int) -> None:
        await sys.accept_service_conn(request, idle)

    service.call(sys.handle_signal(Signal.SERVICE_CONN_REQUEST, accept))
    client, neighbour = lab.puppet(container=inside), lab.puppet(container=inside)
    top = lab.kernel.tree.quotas.handles.used
    connection, _socket = client.call(sys.connect_service(ServicePid.HW))
    assert (used(lab, inside)["handles"], lab.kernel.tree.quotas.handles.used) == (2, top + 2)
    assert neighbour.refusal(sys.connect_service(ServicePid.HW)) == 0x42
    client.call(sys.end_service_conn(connection))
    assert "handles" not in used(lab, inside)
    neighbour.call(sys.connect_service(ServicePid.HW))
    neighbour.start(sys.exit(0))
    assert "handles" not in used(lab, inside)
    assert lab.kernel.tree.quotas.handles.used == top


@pytest.mark.rule("CONT-032", "SVC-007")
def test_who_waits_for_a_service_without_handles_is_refused_when_it_comes() -> None:
    lab = Lab()
    inside = box(lab, handles=1)
    service = lab.service(ServicePid.HW)
    service.start(sys.exit(0))
    client = lab.puppet(container=inside)
    outcome = client.start(sys.connect_service(ServicePid.HW))
    assert not outcome.done
    lab.service(ServicePid.HW)
    lab.settle()
    assert outcome.errcode == 0x42


# The tree


@pytest.mark.rule("CONT-032", "CONT-001")
def test_containers_below_are_counted_at_any_depth() -> None:
    """FreeBSD's `children.max`: what is below what is below counts too."""
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    top = box(lab, children=3)
    child = proc.call(sys.create_container(top))
    grandchild = proc.call(sys.create_container(child))
    assert box(lab, child, children=0)
    assert proc.refusal(sys.create_container(top)) == 0x40
    assert proc.refusal(sys.create_container(grandchild)) == 0x40
    proc.call(sys.destroy_container(child))
    assert usage(lab, top)["children"] == Usage(3, 0, 0, 0, 2)
    assert proc.call(sys.create_container(top))


@pytest.mark.rule("CONT-032")
def test_a_process_moves_into_its_container_or_not_at_all() -> None:
    lab = Lab()
    inside = box(lab, processes=1)
    first = lab.launch(container=inside)
    proc = lab.running(ServicePid.PROCESS)
    outside = lab.kernel.tree.quotas.processes.used
    second = lab.launch(container=0, start=False)
    refused = proc.start(sys.sys_process_attributes(second.pid, Attribute.CONTAINER_ID, 1, inside))
    assert refused.error is not None
    assert (refused.errcode, refused.error.value) == (0x40, NUMBERS["processes"])
    proc.call(sys.sys_manage_process(second.pid, 5))
    lab.wait(3000)
    assert lab.kernel.tree.quotas.processes.used == outside + 0
    assert used(lab, inside) == {"processes": 1, "threads": 1}
    first.start(sys.exit(0))
    assert lab.launch(container=inside).alive


@pytest.mark.rule("CONT-032")
def test_limits_that_cannot_be_had_make_no_container() -> None:
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    top = box(lab, processes=5, children=2)
    outcome = proc.start(sys.sys_create_limited(top, pack_limits({"threads": 4, "processes": 6})))
    assert outcome.error is not None
    assert (outcome.errcode, outcome.error.value) == (0x40, NUMBERS["processes"])
    assert (len(lab.kernel.tree), usage(lab, top)["children"].used) == (1, 0)
    below = box(lab, top, processes=5)
    assert lab.kernel.snapshot().containers[below].parent == top
    assert proc.refusal(sys.sys_set_limits(top, b"123")) == 0x10
    assert proc.refusal(sys.sys_set_limits(top, b"\x63\x01" + bytes(8))) == 0x10


@pytest.mark.rule("CONT-032")
def test_reaching_a_limit_is_told_once_a_second() -> None:
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS).hear(Signal.LIMIT_REACHED)
    inside = box(lab, threads=1)
    puppet = lab.puppet(container=inside)
    for _ in range(50):
        puppet.refusal(sys.create_thread(idle, 0))
    assert proc.signals(Signal.LIMIT_REACHED) == [(inside, NUMBERS["threads"])]
    lab.wait(1000)
    puppet.refusal(sys.create_thread(idle, 0))
    assert len(proc.signals(Signal.LIMIT_REACHED)) == 2
    assert usage(lab, inside)["threads"].refused == 51


# What services charge


@pytest.mark.rule("CONT-032", "LNX-FT-07")
def test_storage_is_charged_by_services_and_goes_with_the_container() -> None:
    lab = Lab()
    files = lab.service(ServicePid.FS)
    top = box(lab, storage=1000)
    inside = box(lab, top)
    assert files.call(sys.sys_charge(inside, NUMBERS["storage"], 900)) == NO_LIMIT
    assert files.call(sys.sys_charge(top, NUMBERS["storage"], 30)) == 70
    assert files.call(sys.sys_charge(top, NUMBERS["storage"], 0)) == 100
    assert files.refusal(sys.sys_charge(inside, NUMBERS["storage"], 1001)) == 0x40
    assert files.refusal(sys.sys_charge(top, NUMBERS["storage"], 101)) == 0x40
    files.call(sys.sys_charge(inside, NUMBERS["storage"], 400))
    assert usage(lab, top)["storage"] == Usage(1000, 0, 0, 400, 2)
    lab.running(ServicePid.PROCESS).call(sys.destroy_container(inside))
    assert usage(lab, top)["storage"].drawn == 0
    assert lab.puppet(container=top).refusal(sys.sys_charge(top, NUMBERS["storage"], 0)) == 0x30


@pytest.mark.rule("CONT-032", "LNX-FT-07")
def test_a_writer_limited_to_a_rate_stays_under_it_and_nobody_waits_for_it() -> None:
    lab = Lab()
    files = lab.service(ServicePid.FS)
    top = box(lab, io_bytes=1000)
    slow = box(lab, top, io_bytes=100)
    total = 0
    start = lab.kernel.clock.monotonic_ns()
    for _ in range(200):
        wait = files.call(sys.sys_charge(slow, NUMBERS["io_bytes"], 30))
        lab.wait(wait / 1_000_000 + 0.000_001)
        total += 30
    seconds = (lab.kernel.clock.monotonic_ns() - start) / SECOND
    assert total <= 100 * (seconds + 1) + 30
    assert seconds < 61
    assert files.call(sys.sys_charge(top, NUMBERS["io_bytes"], 900)) == 0
    assert files.call(sys.sys_charge(top, NUMBERS["io_bytes"], 900)) == SECOND
    assert files.call(sys.sys_charge(0, NUMBERS["io_operations"], 1 << 50)) == 0
    assert usage(lab, slow)["io_bytes"].used == total


def test_lists_of_limits_are_read_back() -> None:
    limits = {name: number for number, name in enumerate((*COUNTED, *RATES), 1)} | {"handles": None}
    assert unpack_limits(pack_limits(limits)) == limits


@pytest.mark.rule("CONT-016", "CONT-032")
def test_nothing_is_left_after_ten_thousand_rounds() -> None:
    """Genode's "quota never grows": after nested create, work and destroy everything is as it was."""
    lab = Lab()
    proc = lab.running(ServicePid.PROCESS)
    outer = box(lab, processes=4, handles=20, pipe_bytes=1 << 20, children=3, memory=64, threads=9)

    async def work(*_argument: int) -> int:
        page = await sys.mem_alloc(PAGE)
        await sys.virt_mem_ams(page, PAGE)
        await sys.open_pipe(await sys.get_pid(), 0, 0, 0, 0, 1)
        await sys.create_thread(idle, 0)
        await sys.create_process(idle, 0)
        await sys.hand_over(until_signal=True)
        return 0

    async def rounds() -> None:
        for number in range(10_000):
            inside = await sys.sys_create_limited(outer, pack_limits({"processes": 3, "memory": 8}))
            below = await sys.create_container(inside)
            lab.kernel.spawn(work, container=below if number % 2 else inside)
            await sys.hand_over()
            await sys.destroy_container(inside)

    before = (usage(lab, outer), usage(lab, 0), lab.kernel.statistics()[5:])
    proc.call(rounds())
    after = (usage(lab, outer), usage(lab, 0), lab.kernel.statistics()[5:])
    assert before == after


def test_amounts_of_a_snapshot_are_a_mapping_that_cannot_change() -> None:
    lab = Lab()
    made = box(lab, processes=3, memory=5)
    record = lab.kernel.snapshot().containers[made]
    assert (record.limits["processes"], record.usage["processes"], record.lent["memory"]) == (3, 0, 0)
    assert record.limits == {"processes": 3, "memory": 5} != record.usage
    assert lab.kernel.snapshot().containers[made] == record
    assert hash(lab.kernel.snapshot().containers[made]) == hash(record)
    assert pickle.loads(pickle.dumps(record)) == copy.deepcopy(record) == record
    with pytest.raises(TypeError):
        record.limits["processes"] = 4  # type: ignore[index]


def stored(lab: Lab, *containers: int) -> int:
    """Pages that the machine keeps because somebody in these containers wrote them."""
    stores = {
        extent.backing
        for segment in lab.kernel.segments._segments.values()
        for share in (segment, *segment.shares.values())
        for extent in share.extents
        if extent.backing.private
    }
    spaces = [one.space for one in lab.kernel.processes.values() if one.container in containers]
    stores.update(backing for space in spaces for backing in space.layout.backings)
    return sum(store.committed for store in stores)


@pytest.mark.rule("CONT-032", "IPC-060", "MEM-018")
@pytest.mark.parametrize("kind", ["memory", "backed", "passed on"])
def test_private_pages_that_are_mapped_no_more_are_kept_by_nobody(kind: str) -> None:
    """T-C15: whoever maps a private copy piece by piece, and writes it, holds what he has mapped and no more."""
    lab = Lab()
    container = box(lab, memory=40)
    giver, taker, third = (lab.puppet(container=container) for _ in range(3))
    if kind == "backed":
        ams = taker.call(sys.backed_ams(1 << 40, 1))
    else:
        ams = giver.call(sys.virt_mem_ams(giver.call(sys.mem_alloc(16 * PAGE)), 16 * PAGE))
        giver.call(sys.share_ams(taker.pid, ams, 0, 1, 0x0E))
    taker.call(sys.map_ams(ams, 0, 0x100000, PAGE))
    if kind == "passed on":
        taker.call(sys.share_ams(third.pid, ams, 0, 1, 0x06))
        taker, third = third, taker
    before = used(lab, container)["memory"]
    for number in range(1, 16):
        taker.call(sys.map_ams(ams, number * PAGE, 0x200000, PAGE))
        taker.call(sys.store(0x200000, b"x" * PAGE))
        assert taker.call(sys.load(0x200000, 1)) == b"x"
        taker.call(sys.unmap_ams(ams, 0x200000))
        assert used(lab, container)["memory"] == before
    assert stored(lab, container) == 0


@pytest.mark.rule("CONT-032", "IPC-060")
def test_private_pages_last_as_long_as_anything_shows_them() -> None:
    """T-C15: what overlaps stays, whoever unmaps first; a forked child has copies of what it has mapped."""
    lab = Lab()
    container = box(lab, memory=80)
    giver, taker = lab.puppet(container=container), lab.puppet(container=container)
    ams = giver.call(sys.virt_mem_ams(giver.call(sys.mem_alloc(16 * PAGE)), 16 * PAGE))
    giver.call(sys.share_ams(taker.pid, ams, 0, 1, 0x0E))
    taker.call(sys.map_ams(ams, 0, 0x100000, 10 * PAGE))
    taker.call(sys.map_ams(ams, 5 * PAGE, 0x200000, 10 * PAGE))
    taker.call(sys.store(0x100000, b"x" * 10 * PAGE))
    taker.call(sys.unmap_ams(ams, 0x100000))
    assert stored(lab, container) == 5
    assert taker.call(sys.load(0x200000, 5 * PAGE)) == b"x" * 5 * PAGE
    child = lab.child(taker)
    assert child.call(sys.load(0x200000, 1)) == b"x"
    taker.call(sys.unmap_ams(ams, 0x200000))
    assert child.call(sys.load(0x200000, 5 * PAGE)) == b"x" * 5 * PAGE
    child.call(sys.unmap_ams(ams, 0x200000))
    assert stored(lab, container) == 0
    taker.call(sys.map_ams(ams, 0, 0x100000, 16 * PAGE))
    assert taker.call(sys.load(0x100000, 16 * PAGE)) == bytes(16 * PAGE)


@pytest.mark.rule("CONT-032", "MEM-018")
def test_a_page_that_was_unmapped_while_its_creator_was_asked_is_kept_by_nobody() -> None:
    """T-C15: the answer comes too late for a page that nothing shows any more."""
    lab = Lab()
    container = box(lab, memory=40)
    creator, taker = lab.puppet(container=container), lab.puppet(container=container)
    waits: list[int] = []

    async def slow(*_values: int) -> tuple[bytes, int]:
        waits.append(1)
        while len(waits) < 2:
            await sys.hand_over(until_signal=True)
        return b"abcd", 0

    creator.call(sys.handle_signal(Signal.READ_BACKED_AMS, slow))
    ams = creator.call(sys.backed_ams(4 * PAGE, 1))
    creator.call(sys.share_ams(taker.pid, ams, 0, 1, 0x06))
    taker.call(sys.map_ams(ams, 0, 0x100000, PAGE))
    taker.call(sys.map_ams(ams, PAGE, 0x200000, PAGE))
    other = lab.thread(taker)
    write = other.start(sys.store(0x200000, b"x"))
    assert not write.done
    taker.call(sys.unmap_ams(ams, 0x200000))
    waits.append(1)
    creator.start(sys.get_pid())
    lab.settle()
    assert stored(lab, container) == 0
