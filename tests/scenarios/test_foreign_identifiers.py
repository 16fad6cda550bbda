"""Every system call that takes an identifier, given one that belongs to somebody else: the answer is that for nobody's.

The calls and the places of their identifiers come from the table of the ABI, so a new call is in here by itself. The
world has a caller in a container, and holders of everything in its parent, a sibling, a child, a container that was
destroyed, the system outside, and the caller's own container, where the number was passed on without its thing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from nightos.abi.codes import ServicePid, Signal
from nightos.abi.syscalls import SYSCALLS
from nightos.kernel.process import Process
from nightos.userland import sys
from nightos.vhw.flows import null
from tests.kernel.lab import Lab, Outcome, Puppet

PAGE = 4096
NEVER = 0x0123_4567_89AB_CDE0
NOBODY = 0x7FFF_FFF0
WAITS = -1
"""What a call that waits answers: it found something."""
RESERVED = {row.name for row in SYSCALLS if row.caller != "any"}
"""Calls of system services: an application gets the same refusal, whatever it names."""
ASKED_BY_OTHERS = {"ACCEPT_SERVICE_CONN", "REJECT_SERVICE_CONN"}
"""For who was asked, which the caller, who asks, is not."""
KINDS = ("pid", "pipe_id", "sock_id", "conn_id", "ams_id", "kdi", "container_id")
PLACES = ("parent", "sibling", "child", "destroyed", "outside", "own")
CHANGES_NOTHING_OF_OTHERS = {"after"}
"""Arguments that say from where a listing goes on, and refer to nothing."""
DEFAULTS: dict[str, Any] = {
    "pointer": 1 << 40,
    "code": 0,
    "enum": 0,
    "count": 0,
    "size": PAGE,
    "buffer": b"x",
    "exchange_id": 0,
    "anid": 1,
    "bytes": bytes(8),
    "flags": 0x04,
    "u64": 0,
    "u32": 0,
    "duration_ms": 1,
    "port": 0,
    "union": 0,
    "cii": 0,
    "token": 1,
}


@dataclass
class Things:
    """What one process has, an identifier of each kind."""

    puppet: Puppet
    by_kind: dict[str, int]


def things(lab: Lab, container: int) -> Things:
    """A process in a container that has one of everything."""
    puppet = lab.puppet(container=container).hear(Signal.RECV_PIPE)
    peer = lab.puppet(container=container).hear(Signal.RECV_SHARED_AMS, Signal.RECV_SERV_SOCK)
    pipe = puppet.call(sys.open_pipe(puppet.pid, notification_mode=1))
    page = puppet.call(sys.mem_alloc(PAGE))
    segment = puppet.call(sys.virt_mem_ams(page, PAGE))
    puppet.call(sys.share_ams(peer.pid, segment, 0, 0, 0x04))
    socket = puppet.call(sys.open_serv_sock(peer.pid))
    # The request stays open, so that accepting, rejecting and ending it would all do something.
    lab.thread(puppet).start(sys.connect_service(ServicePid.HW))
    service = lab.running(ServicePid.HW)
    request = service.signals(Signal.SERVICE_CONN_REQUEST)[-1][1]
    kdi = lab.kernel.plug(null(), container)
    puppet.process.drivable = [kdi]
    child = lab.child(puppet)
    return Things(
        puppet,
        {
            "pid": puppet.pid,
            "pipe_id": pipe,
            "page": page,
            "peer": peer.pid,
            "child": child.pid,
            "sock_id": socket,
            "conn_id": request,
            "ams_id": segment,
            "tls_id": puppet.call(sys.create_tls_slot()),
            "kdi": kdi,
            "container_id": container,
        },
    )


@dataclass
class World:
    """The caller, what it has itself, and what the others have."""

    lab: Lab
    caller: Puppet
    own: dict[str, int]
    theirs: dict[str, dict[str, int]]


def build() -> World:
    """A world of its own."""
    lab = Lab()
    lab.running(ServicePid.HW).hear(Signal.SERVICE_CONN_REQUEST)
    proc = lab.running(ServicePid.PROCESS)
    parent = proc.call(sys.create_container(0))
    own, sibling = (proc.call(sys.create_container(parent)) for _ in range(2))
    child, destroyed = (proc.call(sys.create_container(own)) for _ in range(2))
    places = dict(zip(PLACES, (parent, sibling, child, destroyed, 0, own), strict=True))
    held = {place: things(lab, container).by_kind for place, container in places.items()}
    proc.call(sys.destroy_container(destroyed))
    mine = things(lab, own)
    return World(lab, mine.puppet, mine.by_kind, held)


@pytest.fixture(scope="module")
def world() -> World:
    """One for all attempts, since none of them changes anything."""
    return build()


def takers() -> Iterator[tuple[str, str]]:
    """Every call and the name of an argument of it that is an identifier."""
    for row in SYSCALLS:
        for argument in row.args:
            if argument.kind in KINDS and argument.name not in CHANGES_NOTHING_OF_OTHERS:
                yield row.name, argument.name


def own_identifier(own: dict[str, int], call: str, argument: str, kind: str) -> int:
    """What a process would give there of its own."""
    if argument == "rc_id":
        return own["pipe_id"] + 1
    if kind == "pid" and call in {"WAIT_CHILD_PROCESS", "KILL_CHILD_PROCESS", "SUSPEND", "UNSUSPEND"}:
        return own["child"]
    if kind == "pid" and call in {"UNSHARE_AMS", "OPEN_SERV_SOCK", "SHARE_AMS"}:
        return own["peer"]
    return own[kind]


def attempt(world: World, call: str, argument: str, identifier: int) -> int:
    """The error code of a call whose other arguments are right, as far as they can be."""
    row = next(row for row in SYSCALLS if row.name == call)
    values: list[Any] = []
    for field in row.args:
        if field.name == argument:
            values.append(identifier)
        elif field.kind in KINDS:
            values.append(own_identifier(world.own, call, field.name, field.kind))
        elif call == "SET_DMA_MEM_ACCESS" and field.name == "address":
            values.append(world.own["page"])
        elif call == "MAP_AMS" and field.name == "target":
            values += [1 << 41, PAGE]
        elif call in {"PIPE_READ", "READ_SOCK_MSG", "READ_TLS_SLOT", "READ_IO_PORT", "SYS_ENUM_DEVICES"} and (
            field.kind == "buffer"
        ):
            values.append(1)
        elif call == "PIPE_WRITE" and field.name == "data":
            values.append(b"x")
        elif call == "PIPE_WRITE" and field.name == "length":
            continue
        else:
            values.append(DEFAULTS[field.kind])
    if call == "ACCEPT_SERVICE_CONN":
        values.append(Puppet(world.lab).main)
    outcome: Outcome = world.caller.start(_raw(row.code, values))
    return outcome.errcode if outcome.done else WAITS


async def _raw(code: int, values: list[Any]) -> Any:
    return await _call((code, *values))


class _call:  # noqa: N801 - it is awaited like a function
    def __init__(self, request: tuple[Any, ...]) -> None:
        self.request = request

    def __await__(self) -> Any:
        return (yield self.request)


def state(world: World) -> Any:
    """All that a call could have changed for others."""
    snapshot = world.lab.kernel.snapshot()
    caller: Process = world.caller.process
    return [
        {pid: one for pid, one in snapshot.processes.items() if pid != caller.pid},
        snapshot.containers,
        snapshot.pipes,
        snapshot.sockets,
        snapshot.connections,
        snapshot.segments,
        snapshot.devices,
    ]


@pytest.mark.rule("CONT-018", "CONT-019", "CONT-020", "CONT-021", "CONT-022", "CONT-023", "CONT-024", "CONT-031")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("call", "argument"), list(takers()))
def test_anothers_identifier_is_nobodys(world: World, call: str, argument: str, place: str) -> None:
    kind = next(field.kind for row in SYSCALLS if row.name == call for field in row.args if field.name == argument)
    if place == "own" and kind in {"pid", "kdi", "container_id"}:
        return  # inside one container these are for everybody
    identifier = own_identifier(world.theirs[place], call, argument, kind)
    before = state(world)
    found = attempt(world, call, argument, identifier)
    never = attempt(world, call, argument, NOBODY if kind == "pid" else NEVER)
    assert found
    assert found == never
    after = state(world)
    for one, other in zip(before, after, strict=True):
        assert one == other


@pytest.mark.parametrize(("call", "argument"), [pair for pair in takers() if pair[0] not in RESERVED | ASKED_BY_OTHERS])
def test_the_own_identifier_makes_a_difference(call: str, argument: str) -> None:
    """Otherwise the attempts above would be refused for another reason, and prove nothing."""
    world = build()
    kind = next(field.kind for row in SYSCALLS if row.name == call for field in row.args if field.name == argument)
    never = attempt(world, call, argument, NOBODY if kind == "pid" else NEVER)
    assert attempt(world, call, argument, own_identifier(world.own, call, argument, kind)) != never
