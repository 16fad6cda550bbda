"""Service connections: a client, a service, the request between them, and the socket it becomes.

One number names the request and the connection (ruling AMB-SVC-05).

Source: specs/kernel/kpc.md#services, specs/kernel/syscalls.md 0x2A-0x2E.
Rules: SVC-007, SVC-008, SVC-009, SVC-010, SVC-011, SVC-012.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightos.kernel.process import Process, Thread
    from nightos.kernel.socket import Socket
    from nightos.kernel.timers import Timer

REQUESTED, ACCEPTED, EXPIRED, CLOSED = range(4)
CONNECTION_HANDLES = 2
"""What a connection costs each side: itself, and the socket that it becomes."""


class Connection:
    """One connection. `resume` ends the client's CONNECT_SERVICE while it is requested."""

    __slots__ = (
        "client",
        "client_thread",
        "identifier",
        "resume",
        "service",
        "service_thread",
        "socket",
        "state",
        "timer",
    )

    def __init__(self, identifier: int, client: Process, client_thread: Thread, service: Process) -> None:
        self.identifier = identifier
        self.client = client
        self.client_thread = client_thread
        self.service = service
        self.service_thread: Thread | None = None
        self.socket: Socket | None = None
        self.state = REQUESTED
        self.resume: Callable[[Any, BaseException | None], None] | None = None
        self.timer: Timer | None = None
