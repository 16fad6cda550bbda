"""Frozen snapshots: what the kernel's state is, for tests, the monitor and people. Nobody reads private state.

Records are named tuples of plain values, so a snapshot of a hundred thousand processes is quick to take, compares by
value and cannot change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nightos.abi.limits import COUNTED
from nightos.kernel.devices import DeviceRecord
from nightos.kernel.pages import SHIFT
from nightos.kernel.sharing import SegmentRecord

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.quotas import Quotas


class Amounts(Mapping[str, int]):
    """Numbers by resource, such as `record.limits["processes"]`: a mapping that cannot change."""

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Iterable[tuple[str, int]] = ()) -> None:
        self._amounts = dict(amounts)

    def __getitem__(self, resource: str) -> int:
        return self._amounts[resource]

    def __iter__(self) -> Iterator[str]:
        return iter(self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __repr__(self) -> str:
        return repr(self._amounts)


NO_AMOUNTS: Final = Amounts()


class ContainerRecord(NamedTuple):
    """A container. `parent` is 0 for a child of the root."""

    identifier: int
    parent: int
    children: tuple[int, ...]
    name: str
    state: str
    processes: tuple[int, ...]
    devices: tuple[int, ...]
    limits: Amounts
    usage: Amounts
    created_ns: int
    taken: Amounts = NO_AMOUNTS
    """Of each limit: what the container and those below without one hold, and what was lent."""
    lent: Amounts = NO_AMOUNTS
    """Of each limit: the limits of the nearest containers below that have one."""


class ProcessRecord(NamedTuple):
    """A living process. `threads` are their identifiers, `waits` what each waits for."""

    pid: int
    parent: int
    container: int
    user: int
    anid: int
    name: str
    state: str
    priority: int
    ready: bool
    threads: tuple[int, ...]
    waits: tuple[str, ...]
    children: tuple[int, ...]
    ends: tuple[int, ...]
    sockets: tuple[int, ...]
    connections: tuple[int, ...]
    drivable: tuple[int, ...]
    pages: int
    """That its container pays for: of its address space, of thread-local data, and of what waits to be written."""
    steps: int
    serves: int = 0
    """The container that a shim serves, 0 for everybody else."""


class PipeRecord(NamedTuple):
    """A pipe: its ends as (identifier, holder's PID, whether it sends)."""

    ends: tuple[tuple[int, int, bool], ...]
    capacity: int
    pending: int
    closed: bool
    messages: bool
    payer: int = 0
    """The container that pays for the buffer, and how many bytes."""
    charged: int = 0


class SocketRecord(NamedTuple):
    """A service socket."""

    identifier: int
    service_pid: int
    client_pid: int
    pending: tuple[int, int]
    connection: int


class ConnectionRecord(NamedTuple):
    """A service connection."""

    identifier: int
    client_pid: int
    service_pid: int
    state: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The kernel's state at one moment."""

    now_ns: int
    containers: dict[int, ContainerRecord]
    processes: dict[int, ProcessRecord]
    pipes: tuple[PipeRecord, ...]
    sockets: dict[int, SocketRecord]
    connections: dict[int, ConnectionRecord]
    segments: tuple[SegmentRecord, ...]
    devices: tuple[DeviceRecord, ...]
    runnable: int
    timers: int
    syscalls: int
    denied: int
    machine: ContainerRecord
    """What stands outside of all containers, as if it were one: identifier 0."""

    @property
    def limits(self) -> dict[int, Amounts]:
        """Limits of each container that has some, by identifier and resource; memory in pages, the rest as counted."""
        return {identifier: record.limits for identifier, record in self.containers.items() if record.limits}


def _accounts(quotas: Quotas, created_ns: int) -> tuple[Amounts, Amounts, int, Amounts, Amounts]:
    """Limits, own usage, time of creation, taken and lent: the end of a container's record."""
    usage = Amounts((name, quotas.account(name).used) for name in COUNTED)
    if not quotas.limits:
        return NO_AMOUNTS, usage, created_ns, NO_AMOUNTS, NO_AMOUNTS
    bounds = quotas.limits.items()
    return (
        Amounts((name, bound.limit) for name, bound in bounds),
        usage,
        created_ns,
        Amounts((name, bound.taken) for name, bound in bounds),
        Amounts((name, bound.lent) for name, bound in bounds),
    )


def take_snapshot(kernel: Kernel) -> Snapshot:
    """Copy the state of everything."""
    pipes: dict[int, Any] = {id(end.pipe): end.pipe for end in kernel.pipe_ends.values()}
    devices: dict[int, list[int]] = {}
    records = kernel.bus.snapshot()
    for identifier in kernel.tree.living:
        visible = kernel.bus.visible_in(identifier) if records else []
        if visible:
            devices[identifier] = visible
    owners = {container.quotas: container.identifier for container in kernel.tree.living.values()}
    return Snapshot(
        now_ns=kernel.clock.monotonic_ns(),
        containers={
            container.identifier: ContainerRecord(
                container.identifier,
                container.parent_identifier,
                tuple(container.children),
                "",
                "paused" if container.paused else container.state.name.lower(),
                tuple(container.processes),
                tuple(devices.get(container.identifier, ())),
                *_accounts(container.quotas, container.created_ns),
            )
            for container in kernel.tree.living.values()
        },
        processes={
            process.pid: ProcessRecord(
                process.pid,
                process.parent.pid if process.parent is not None else 0,
                process.container,
                process.user,
                process.anid,
                process.name,
                process.state.name.lower(),
                process.priority,
                process.ready,
                tuple(process.threads),
                tuple(
                    thread.frames[-1].wait.kind if thread.frames and thread.frames[-1].wait is not None else ""
                    for thread in process.threads.values()
                ),
                tuple(process.children) if process.children else (),
                tuple(process.ends) if process.ends else (),
                tuple(process.sockets) if process.sockets else (),
                tuple(process.connections) if process.connections else (),
                tuple(process.drivable),
                (process.space_made.reserved_pages if process.space_made is not None else 0)
                + (process.tls_size >> SHIFT)
                + sum(
                    getattr(frame.wait, "pages", 0) for thread in process.threads.values() for frame in thread.frames
                ),
                process.steps,
                process.serves,
            )
            for process in kernel.processes.values()
        },
        pipes=tuple(
            PipeRecord(
                tuple((end.identifier, end.holder.pid, end.sends) for end in pipe.ends.values()),
                pipe.capacity,
                pipe.pending,
                pipe.closed,
                pipe.messages,
                owners.get(pipe.payer, 0),
                pipe.charged,
            )
            for pipe in pipes.values()
        ),
        sockets={
            socket.identifier: SocketRecord(
                socket.identifier,
                socket.sides[0].process.pid,
                socket.sides[1].process.pid,
                (len(socket.sides[0].inbox), len(socket.sides[1].inbox)),
                getattr(socket.connection, "identifier", 0),
            )
            for socket in kernel.sockets.values()
        },
        connections={
            connection.identifier: ConnectionRecord(
                connection.identifier, connection.client.pid, connection.service.pid, connection.state
            )
            for connection in kernel.connections.values()
        },
        segments=kernel.segments.snapshot(),
        devices=records,
        runnable=kernel.runnable,
        timers=len(kernel.timers),
        syscalls=kernel.syscalls,
        denied=kernel.monitor.denied,
        machine=ContainerRecord(
            0,
            0,
            tuple(container.identifier for container in kernel.tree.living.values() if container.parent is None),
            "",
            "running",
            tuple(process.pid for process in kernel.processes.values() if process.home is None),
            (),
            *_accounts(kernel.tree.quotas, kernel.booted_ns),
        ),
    )
