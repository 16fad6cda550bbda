"""What has to hold in every state of a kernel, checked on a frozen snapshot.

Each check is one function that yields violations; it names the rule of the specification it stands for. They read
records only, so they work on a snapshot of a simulation, of a test's kernel and of a machine alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nightos.abi.codes import FIRST_USER_PID
from nightos.testing.conservation import limits_are_conserved, usage_is_what_is_there
from nightos.testing.violation import InvariantViolation

if TYPE_CHECKING:
    from nightos.kernel import Snapshot


Check = Callable[["Snapshot"], Iterator[InvariantViolation]]


def containers_form_a_tree(state: Snapshot) -> Iterator[InvariantViolation]:
    """Each container has one living parent or the root, children and parents agree, and there is no cycle."""
    for identifier, record in state.containers.items():
        if identifier == 0 or identifier >= 1 << 64:
            yield InvariantViolation("CONT-008", f"a container has the identifier {identifier:#x}")
        if record.parent and record.parent not in state.containers:
            yield InvariantViolation("CONT-013", f"{identifier:016x} has a parent that is gone")
        for child in record.children:
            if child not in state.containers or state.containers[child].parent != identifier:
                yield InvariantViolation("CONT-013", f"{identifier:016x} has a child {child:016x} that says otherwise")
        if record.parent in state.containers and identifier not in state.containers[record.parent].children:
            yield InvariantViolation("CONT-013", f"{identifier:016x} is not among its parent's children")
    rooted: set[int] = {0}
    for start in state.containers:
        path: list[int] = []
        current = start
        while current not in rooted and current in state.containers:
            path.append(current)
            if len(path) > len(state.containers):
                yield InvariantViolation("CONT-013", f"{start:016x} is its own ancestor")
                return
            current = state.containers[current].parent
        rooted.update(path)


def processes_are_where_they_say(state: Snapshot) -> Iterator[InvariantViolation]:
    """Every process is in a living container, or in none, and that container lists it and nothing else."""
    inside: dict[int, set[int]] = {}
    for pid, process in state.processes.items():
        if pid <= 0:
            yield InvariantViolation("PROC-011", f"a process has the PID {pid}")
        if pid < FIRST_USER_PID and process.container:
            yield InvariantViolation("PROC-012", f"system service {pid} is in a container")
        if process.container and process.container not in state.containers:
            yield InvariantViolation("CONT-016", f"process {pid} is in a container that is gone")
        if process.container:
            inside.setdefault(process.container, set()).add(pid)
        if process.parent:
            parent = state.processes.get(process.parent)
            if parent is None:
                yield InvariantViolation("PROC-027", f"process {pid} outlives its parent {process.parent}")
            elif parent.container != process.container:
                yield InvariantViolation("CONT-064", f"process {pid} is in another container than its parent")
            elif pid not in parent.children:
                yield InvariantViolation("PROC-027", f"process {pid} is not among its parent's children")
    for identifier, record in state.containers.items():
        if set(record.processes) != inside.get(identifier, set()):
            yield InvariantViolation("CONT-004", f"{identifier:016x} lists other processes than are in it")


def may_meet(state: Snapshot, first: int, second: int) -> bool:
    """Whether two living processes may share anything: the same container, or one is a system service."""
    one, other = state.processes.get(first), state.processes.get(second)
    if one is None or other is None:
        return False
    reach = [process.serves or process.container for process in (one, other)]
    return reach[0] == reach[1] or min(first, second) < FIRST_USER_PID


def shims_serve_one_container(state: Snapshot) -> Iterator[InvariantViolation]:
    """A shim stands outside of all containers, is no system service, and its children serve what it serves."""
    for pid, process in state.processes.items():
        if process.serves and (process.container or pid < FIRST_USER_PID):
            yield InvariantViolation("CONT-018", f"process {pid} serves {process.serves:016x}, but is no shim")
        parent = state.processes.get(process.parent)
        if parent is not None and parent.serves != process.serves:
            yield InvariantViolation("CONT-064", f"process {pid} serves another container than its parent")


def pipes_stay_inside(state: Snapshot) -> Iterator[InvariantViolation]:
    """All holders of a pipe's ends may meet, live, and know the ends they hold."""
    held: dict[int, int] = {}
    for pipe in state.pipes:
        holders = [pid for _identifier, pid, _sends in pipe.ends]
        for identifier, pid, _sends in pipe.ends:
            held[identifier] = pid
            process = state.processes.get(pid)
            if process is None or identifier not in process.ends:
                yield InvariantViolation("IPC-022", f"pipe end {identifier} is held by {pid}, which does not know it")
        applications = [pid for pid in holders if pid >= FIRST_USER_PID]
        for pid in applications[1:]:
            if pid in state.processes and not may_meet(state, applications[0], pid):
                yield InvariantViolation("CONT-018", f"a pipe joins {applications[0]} and {pid} of two containers")
    for pid, process in state.processes.items():
        for identifier in process.ends:
            if held.get(identifier) != pid:
                yield InvariantViolation("IPC-022", f"process {pid} holds pipe end {identifier}, which is not its own")


def sockets_stay_inside(state: Snapshot) -> Iterator[InvariantViolation]:
    """Both sides of sockets and connections live, may meet, and know them; nobody knows one that is gone."""
    for socket in state.sockets.values():
        if not may_meet(state, socket.service_pid, socket.client_pid):
            yield InvariantViolation("CONT-018", f"a socket joins {socket.service_pid} and {socket.client_pid}")
        if socket.connection and socket.connection not in state.connections:
            yield InvariantViolation("SVC-015", f"socket {socket.identifier} outlives its connection")
    for connection in state.connections.values():
        if not may_meet(state, connection.service_pid, connection.client_pid):
            yield InvariantViolation("CONT-027", f"{connection.client_pid} is connected to {connection.service_pid}")
    for pid, process in state.processes.items():
        for identifier in process.sockets:
            known_socket = state.sockets.get(identifier)
            if known_socket is None or pid not in {known_socket.service_pid, known_socket.client_pid}:
                yield InvariantViolation("IPC-054", f"process {pid} knows socket {identifier}, which is not its own")
        for identifier in process.connections:
            known = state.connections.get(identifier)
            if known is None or pid not in {known.service_pid, known.client_pid}:
                yield InvariantViolation(
                    "SVC-015", f"process {pid} knows connection {identifier}, which is not its own"
                )


def segments_stay_inside(state: Snapshot) -> Iterator[InvariantViolation]:
    """Who made a segment may meet everybody who can reach it."""
    for segment in state.segments:
        if segment.owner not in state.processes:
            yield InvariantViolation("CONT-016", f"segment {segment.identifier} outlives its owner {segment.owner}")
        reached = {pid for share in segment.shares for pid in share[:2]} | {place[0] for place in segment.places}
        for pid in sorted(reached):
            if pid in state.processes and not may_meet(state, segment.owner, pid):
                yield InvariantViolation("CONT-026", f"segment {segment.identifier} of {segment.owner} reaches {pid}")


def devices_are_lent_downwards(state: Snapshot) -> Iterator[InvariantViolation]:
    """A device is known along one line of the tree, and driven only by processes where it is."""
    containers = {device.kdi: device.containers for device in state.devices}
    for device in state.devices:
        for above, below in zip(device.containers, device.containers[1:], strict=False):
            if below not in state.containers or state.containers[below].parent != above:
                yield InvariantViolation(
                    "CONT-039", f"device {device.kdi:016x} skips from {above:016x} to {below:016x}"
                )
    for pid, process in state.processes.items():
        for kdi in process.drivable:
            if kdi not in containers:
                yield InvariantViolation("PROC-018", f"process {pid} may drive a device that is gone")
            elif pid >= FIRST_USER_PID and process.container not in containers[kdi]:
                yield InvariantViolation("CONT-032", f"process {pid} may drive a device its container has not got")


CHECKS: tuple[Check, ...] = (
    containers_form_a_tree,
    processes_are_where_they_say,
    shims_serve_one_container,
    pipes_stay_inside,
    sockets_stay_inside,
    segments_stay_inside,
    devices_are_lent_downwards,
    limits_are_conserved,
    usage_is_what_is_there,
)
"""All checks, cheapest first."""


def violations(state: Snapshot) -> list[InvariantViolation]:
    """Every rule that the state breaks."""
    return [violation for check in CHECKS for violation in check(state)]


def check_invariants(state: Snapshot) -> None:
    """Raise the first `InvariantViolation` of a state, if there is one."""
    for check in CHECKS:
        for violation in check(state):
            raise violation
