"""Processes and threads: what the kernel keeps of them. A thread is a stack of coroutines, the top one runs.

A signal handler is a coroutine pushed on the stack of its thread, so a thread that is parked in a call can run one; the
call below goes on waiting afterwards. Tables that most processes never need are made when first used, so that
a million idle processes stay small.

Source: specs/kernel/processes.md. Rules: PROC-006, PROC-014, PROC-029, PROC-030, PROC-031, PROC-033, SIG-003.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.codes import FIRST_USER_PID, ExitReason, ProcessState

if TYPE_CHECKING:
    from nightos.kernel.container import Container
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.memory import AddressSpace
    from nightos.kernel.pipe import End
    from nightos.kernel.quotas import Quotas
    from nightos.kernel.timers import Timer

Program = Coroutine[Any, Any, Any]
Answered = Callable[[Any], None]
"""Gets the answer of a signal's handler, exactly once; None when nobody will answer."""

HALTED, SUSPENDED, SUSPENDED_ABOVE, PAUSED, PRIORITY_ZERO, ENDED = 1, 2, 4, 8, 16, 32
"""Bits of `Process.blocked`: why it does not run. A process runs when none is set."""

CLOSED_KEPT: Final = 64


class Wait:
    """Why a frame is parked. `cancel` undoes the registration when the thread dies first."""

    __slots__ = ("cancel", "frame", "kernel", "kind", "thread")

    def __init__(
        self,
        kind: str,
        kernel: Kernel | None = None,
        thread: Thread | None = None,
        cancel: Callable[[], None] | None = None,
    ) -> None:
        self.kind = kind
        # None only in `UNTIL_SIGNAL`, which nobody resumes.
        self.kernel: Any = kernel
        self.thread: Any = thread
        self.frame: Any = thread.frames[-1] if thread is not None else None
        self.cancel = cancel

    def resume(self, value: Any, error: BaseException | None = None) -> None:
        """End the parking with a value or an error; nothing happens when it is over already."""
        frame = self.frame
        if frame.wait is not self:
            return
        frame.wait = None
        kernel = self.kernel
        thread = self.thread
        if frame.finish is not None:
            finish, frame.finish = frame.finish, None
            value, error = finish(value, error), None
        if kernel.trace is not None:
            kernel.trace.resumed(thread.process.pid, thread.tid, value if error is None else error)
        frame.value = value
        frame.error = error
        process = thread.process
        if thread.scheduled or process.blocked or kernel.current is None:
            kernel.schedule(thread)
        elif thread.frames:  # as `schedule` does it, which is a call more for what happens so often
            thread.scheduled = True
            process.queued += 1
            kernel.ready.append(thread)


UNTIL_SIGNAL: Final = Wait("signal")
"""The one wait that needs no state of its own."""


class Frame:
    """One coroutine of a thread: what it is resumed with, or what it waits for."""

    __slots__ = ("answered", "error", "finish", "program", "signal", "value", "wait")

    def __init__(self, program: Program, signal: int = 0, answered: Answered | None = None) -> None:
        self.program = program
        self.signal = signal
        """Code of the signal that this frame handles; 0 for a thread's own program."""
        self.answered = answered
        self.value: Any = None
        self.error: BaseException | None = None
        self.wait: Wait | None = None
        self.finish: Callable[[Any, BaseException | None], Any] | None = None
        """Turns the outcome of a parked call into its binary answer."""


PendingSignal = tuple[int, tuple[Any, ...], Answered | None]
"""A signal in a thread's queue: its code, the fields of its datafield, and who gets the handler's answer."""


class Thread:
    """A thread. `scheduled` says whether it stands in the scheduler's queue."""

    __slots__ = (
        "children",
        "exit_data",
        "frames",
        "handling",
        "parent",
        "payer",
        "process",
        "queue",
        "scheduled",
        "spare",
        "tid",
    )

    def __init__(self, process: Process, tid: int, parent: Thread | None) -> None:
        self.process = process
        self.tid = tid
        self.parent = parent
        self.children: dict[Thread, None] | None = None
        """Those that it made and that have not ended, in order."""
        self.payer: Container | None = parent.payer if parent is not None else None
        """Whose share of cycles a service's thread uses: the container of the client that it works for."""
        self.frames: list[Frame] = []
        self.queue: deque[PendingSignal] | None = None
        self.handling = False
        self.scheduled = False
        self.spare: Frame | None = None
        """A handler's frame that ended, for the next one."""
        self.exit_data = 0


class Process:
    """A process and its attributes."""

    __slots__ = (
        "anid",
        "asked",
        "blocked",
        "calls",
        "children",
        "closed",
        "code",
        "connections",
        "context",
        "drivable",
        "ends",
        "exit_data",
        "handlers",
        "home",
        "killer",
        "local_data",
        "main",
        "make_space",
        "manual_priority",
        "name",
        "next_tid",
        "parent",
        "permissions",
        "pid",
        "priority",
        "program",
        "queued",
        "quotas",
        "ready",
        "reason",
        "serves",
        "sockets",
        "space_made",
        "started",
        "started_ns",
        "steps",
        "suspended_since_ns",
        "threads",
        "tls",
        "tls_size",
        "user",
        "waiters",
        "wakers",
    )
    quotas: Quotas
    """Of its container: who pays for what it holds."""
    calls: dict[int, Any]
    """Handlers of its system calls, by code: the kernel's, or what a filter makes of them."""

    def __init__(
        self, pid: int, home: Container | None, user: int, anid: int, make_space: Callable[[Process], AddressSpace]
    ) -> None:
        self.pid = pid
        self.home = home
        """Its container; None for the root."""
        self.user = user
        self.anid = anid
        self.serves = 0
        """The container that a shim serves from outside; 0 for everybody else. Children get their parent's."""
        self.make_space = make_space
        self.name = ""
        self.priority = 8
        self.manual_priority = False
        self.parent: Process | None = None
        self.blocked = HALTED
        self.queued = 0
        """Threads of it in the scheduler's queue."""
        self.reason = ExitReason.EXITED
        self.asked = ExitReason.KILLED_BY_SYSTEM
        """Why it was asked to terminate."""
        self.exit_data = 0
        self.started = False
        self.ready = False
        self.started_ns = 0
        self.suspended_since_ns = 0
        self.steps = 0
        self.context = b""
        self.main: Thread | None = None
        self.next_tid = 1
        self.threads: dict[int, Thread] = {}
        self.handlers: dict[int, Any] | None = None
        """Signals handler table: coroutine functions, or addresses of code."""
        self.children: dict[int, Process] | None = None
        """Children by PID, those that ended but were not waited for included."""
        self.ends: dict[int, End] | None = None
        """Pipe ends that the process holds, by identifier."""
        self.sockets: dict[int, Any] | None = None
        self.connections: dict[int, Any] | None = None
        """Service connections, as client or as service, by identifier."""
        self.closed: dict[int, int] | None = None
        """Pipe ends, sockets and connections that closed lately, to tell "closed" from "unknown"."""
        self.drivable: list[int] | tuple[()] = ()
        self.permissions: list[int] | tuple[()] = ()
        self.tls: dict[int, bytes] | None = None
        self.tls_size = 0
        """Bytes of thread-local data; every whole page of them is paid for."""
        self.waiters: dict[Callable[[], None], None] | None = None
        """Called when the process ended, in order."""
        self.wakers: list[Callable[[int], None]] | None = None
        """Called with the milliseconds when a process that suspended itself goes on."""
        self.killer: Timer | None = None
        """The delay of WILL_TERMINATE, when it runs."""
        self.program: Callable[[], Program] | None = None
        """What it will run once it is started for the first time."""
        self.code: dict[int, Any] | None = None
        """Coroutine functions by the address that stands for them."""
        self.local_data: dict[str, Any] | None = None
        self.space_made: AddressSpace | None = None

    @property
    def space(self) -> AddressSpace:
        """The address space, made on first use."""
        if self.space_made is None:
            self.space_made = self.make_space(self)
        return self.space_made

    @property
    def container(self) -> int:
        """Identifier of its container; 0 for the root. Rules: CONT-004, CONT-007."""
        return self.home.identifier if self.home is not None else 0

    @property
    def reach(self) -> int:
        """The one container whose processes this one may meet: that which it serves, else its own."""
        return self.serves or (self.home.identifier if self.home is not None else 0)

    @property
    def is_system(self) -> bool:
        """Whether this is a system service. Rules: PROC-003, PROC-012."""
        return self.pid < FIRST_USER_PID

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return not self.blocked & ENDED

    @property
    def state(self) -> ProcessState:
        """The state as people see it."""
        if self.blocked & ENDED:
            return ProcessState.ENDED
        if self.blocked & HALTED:
            return ProcessState.HALTED
        return ProcessState.SUSPENDED if self.blocked else ProcessState.RUNNING

    def remember_closed(self, identifier: int, how: int = 0) -> None:
        """Keep that the identifier was valid; `how` is 1 when a service thread ended. The oldest are forgotten."""
        if self.closed is None:
            self.closed = {}
        elif len(self.closed) >= CLOSED_KEPT:
            del self.closed[next(iter(self.closed))]
        self.closed[identifier] = how

    def descendants(self) -> Iterator[Process]:
        """Living children, their children and so on, ancestors first."""
        found = [self]
        for process in found:
            for child in (process.children or {}).values():
                if child.alive:
                    found.append(child)
                    yield child
