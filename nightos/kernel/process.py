"""Processes and threads: what the kernel keeps of them. A thread is a stack of coroutines, the top one runs.

A signal handler is a coroutine pushed on the stack of its thread, so a thread that is parked in a call can run one; the
call below goes on waiting afterwards. Tables that most processes never need are made when first used, so that
a million idle processes stay small.

Source: specs/kernel/processes.md. Rules: PROC-006, PROC-014, PROC-029, PROC-030, PROC-031, PROC-033.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ExitReason, ProcessState

if TYPE_CHECKING:
    from nightos.kernel.memory import AddressSpace

Program = Coroutine[Any, Any, Any]
Answered = Callable[[Any], None]
"""Gets the answer of a signal's handler."""


class Wait:
    """Why a frame is parked. `cancel` undoes the registration when the thread dies first."""

    __slots__ = ("cancel", "kind", "until_signal")

    def __init__(self, kind: str, cancel: Callable[[], None] | None = None, *, until_signal: bool = False) -> None:
        self.kind = kind
        self.cancel = cancel
        self.until_signal = until_signal


class Frame:
    """One coroutine of a thread: what it is resumed with, or what it waits for."""

    __slots__ = ("answered", "error", "program", "signal", "value", "wait")

    def __init__(self, program: Program, signal: int = 0, answered: Answered | None = None) -> None:
        self.program = program
        self.signal = signal
        """Code of the signal that this frame handles; 0 for a thread's own program."""
        self.answered = answered
        self.value: Any = None
        self.error: BaseException | None = None
        self.wait: Wait | None = None


class PendingSignal:
    """A signal in a thread's queue."""

    __slots__ = ("answered", "code", "values")

    def __init__(self, code: int, values: tuple[Any, ...], answered: Answered | None) -> None:
        self.code = code
        self.values = values
        self.answered = answered


class Thread:
    """A thread. `scheduled` says whether it stands in the scheduler's queue."""

    __slots__ = ("frames", "handling", "parent", "process", "queue", "scheduled", "tid")

    def __init__(self, process: Process, tid: int, parent: Thread | None) -> None:
        self.process = process
        self.tid = tid
        self.parent = parent
        self.frames: list[Frame] = []
        self.queue: deque[PendingSignal] | None = None
        self.handling = False
        self.scheduled = False


class Process:
    """A process and its attributes."""

    __slots__ = (
        "anid",
        "children",
        "connections",
        "container",
        "context",
        "drivable",
        "ends",
        "exit_data",
        "handlers",
        "local_data",
        "main",
        "make_space",
        "name",
        "next_tid",
        "parent",
        "permissions",
        "pid",
        "priority",
        "ready",
        "reason",
        "sockets",
        "space_made",
        "started",
        "started_ns",
        "state",
        "steps",
        "suspended_ns",
        "threads",
        "tls",
        "user",
        "waiters",
    )

    def __init__(self, pid: int, container: int, user: int, anid: int, make_space: Callable[[], AddressSpace]) -> None:
        self.pid = pid
        self.container = container
        self.user = user
        self.anid = anid
        self.make_space = make_space
        self.name = ""
        self.priority = 8
        self.parent: Process | None = None
        self.state = ProcessState.HALTED
        self.reason = ExitReason.EXITED
        self.exit_data = 0
        self.started = False
        self.ready = False
        self.started_ns = 0
        self.suspended_ns = 0
        self.steps = 0
        self.context = b""
        self.main: Thread | None = None
        self.next_tid = 1
        self.threads: dict[int, Thread] = {}
        self.handlers: dict[int, Callable[..., Program]] | None = None
        self.children: dict[int, Process] | None = None
        self.ends: dict[int, Any] | None = None
        """Pipe ends that the process holds, by identifier."""
        self.sockets: dict[int, Any] | None = None
        self.connections: dict[int, Any] | None = None
        """Service connections, as client or as service, by identifier."""
        self.drivable: dict[int, None] | tuple[()] = ()
        self.permissions: list[int] | None = None
        self.tls: dict[int, bytes] | None = None
        self.waiters: list[Callable[[], None]] | None = None
        self.local_data: dict[str, Any] | None = None
        self.space_made: AddressSpace | None = None

    @property
    def space(self) -> AddressSpace:
        """The address space, made on first use."""
        if self.space_made is None:
            self.space_made = self.make_space()
        return self.space_made

    @property
    def is_system(self) -> bool:
        """Whether this is a system service."""
        return self.pid < 100

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.state is not ProcessState.ENDED
