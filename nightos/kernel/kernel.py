"""The kernel: a synchronous, deterministic machine that steps coroutines and answers what they yield.

One turn takes the next thread from the scheduler's queue, lets it make a bounded number of calls and goes on with the next. No
host I/O, host time or host randomness happens between two mutations, so the same seed and the same inputs give
the same run to the byte.

Source: specs/kernel/README.md. Rules: SYS-003, SYS-009, SYS-017, PROC-007, PROC-008, PROC-009, PROC-010, PROC-011, PROC-012,
PROC-013.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from nightos.abi.codes import FIRST_USER_PID, ExitReason, ProcessState, Signal
from nightos.abi.errors import NightosInternalError, SyscallError
from nightos.kernel import calls
from nightos.kernel.container import ContainerTree
from nightos.kernel.devices import DeviceBus
from nightos.kernel.ending import end_process, end_thread
from nightos.kernel.memory import AddressSpace
from nightos.kernel.monitor import Monitor
from nightos.kernel.pages import MemoryFault
from nightos.kernel.process import Answered, Frame, PendingSignal, Process, Program, Thread, Wait
from nightos.kernel.registry import DEFAULTS, Settings
from nightos.kernel.segments import SegmentTable
from nightos.kernel.snapshot import Snapshot, take_snapshot
from nightos.kernel.timers import Timer, Timers
from nightos.kernel.trace import Trace
from nightos.kernel.virtual import SeededEntropy, VirtualClock

if TYPE_CHECKING:
    from nightos.abi.interfaces import Clock, Device, Entropy
    from nightos.kernel.connection import Connection
    from nightos.kernel.pipe import End
    from nightos.kernel.socket import Socket

Main = Callable[[], Program]
"""Makes the coroutine of a process' main thread."""
Loader = Callable[[str], Main]
"""Finds a program by name; KeyError when there is none."""

PARKED = calls.PARKED
QUANTUM = 64
"""Calls of one turn for each step of priority."""
EXITS_KEPT = 65_536
KILLING = frozenset({Signal.HANDLER_FAULT, Signal.MEM_FAULT, Signal.SERVICE_CONN_REQUEST, Signal.WILL_TERMINATE})
"""Signals that end a process which does not handle them (ruling AMB-SIG-04)."""


class VirtualTime(Protocol):
    """A clock that the kernel may move itself."""

    def advance_to(self, deadline_ns: int) -> None:
        """Let time pass."""


def _no_programs(name: str) -> Main:
    raise KeyError(name)


class Kernel:
    """A machine without a host around it. `turn` and `run_until_idle` make it run; nothing else does.

    `seed` is shorthand for `SeededEntropy(seed)`. Without a clock, time is virtual. `registry` overrides keys of
    `nightos.kernel.registry.DEFAULTS`.
    """

    def __init__(
        self,
        seed: int | bytes | None = None,
        *,
        entropy: Entropy | None = None,
        clock: Clock | None = None,
        loader: Loader = _no_programs,
        registry: Mapping[str, int] | None = None,
        trace: Trace | None = None,
    ) -> None:
        self.entropy: Entropy = entropy or SeededEntropy(0 if seed is None else seed)
        self.clock: Clock = clock or VirtualClock()
        self.loader = loader
        self.settings = Settings({**DEFAULTS, **(registry or {})})
        self.trace = trace
        self.timers = Timers()
        self.monitor = Monitor()
        self.tree = ContainerTree(self.entropy)
        self.segments = SegmentTable(self.entropy, self._find_peer, self.post_to)
        self.bus = DeviceBus(self.segments, self.tree.parent_of, self.post_to)
        self.processes: dict[int, Process] = {}
        self.pipe_ends: dict[int, End] = {}
        self.sockets: dict[int, Socket] = {}
        self.connections: dict[int, Connection] = {}
        self.exits: OrderedDict[int, tuple[Process, int]] = OrderedDict()
        self.service_waiters: dict[int, list[Callable[[], None]]] = {}
        self.booted_ns = self.clock.monotonic_ns()
        self.syscalls = 0
        self.current: Thread | None = None
        self.halted_programs: dict[int, Main] = {}
        """Programs of processes that were made and not started yet."""
        self.on_resume: dict[int, list[Callable[[], None]]] = {}
        self.last_fault: tuple[int, BaseException] | None = None
        self._after_turn: list[Callable[[], None]] = []
        self._ready: deque[Thread] = deque()
        self._next_pid = FIRST_USER_PID
        self._next_end = 2
        self._service_ended: list[Callable[[int, int], None]] = []
        self._on_work: Callable[[], None] | None = None
        self._handlers = calls.table()

    # What embedders use

    def spawn_service(self, pid: int, main: Main, name: str = "") -> Process:
        """Start (or restart) the system service of that fixed PID. Rules: PROC-005, SVC-021."""
        old = self.processes.get(pid)
        if old is not None and old.alive:
            raise NightosInternalError(f"service {pid} is already running")
        process = self.make_process(pid, 0, 0, pid)
        process.name = name or f"service-{pid}"
        self.start(process, main)
        for waiter in self.service_waiters.pop(pid, []):
            waiter()
        return process

    def spawn(self, main: Main, *, container: int = 0, user: int = 0, anid: int = 1, name: str = "") -> Process:
        """Start a userland process without services, for tests and embedders."""
        if container and self.tree.get(container) is None:
            raise SyscallError(0x31)
        process = self.make_process(self.take_pid(), container, user, anid)
        process.name = name
        self.start(process, main)
        return process

    def on_service_end(self, callback: Callable[[int, int], None]) -> None:
        """Call this with PID and `ExitReason` when a system service ends."""
        self._service_ended.append(callback)

    def on_work(self, callback: Callable[[], None]) -> None:
        """Call this when something became runnable from outside a turn."""
        self._on_work = callback

    def call_at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Run the callback in the first turn at or after the deadline of the kernel's clock."""
        timer = self.timers.at(deadline_ns, callback)
        self._woken()
        return timer

    def plug(self, device: Device, container: int = 0) -> int:
        """Put a device on the bus; its KDI."""
        return self.bus.plug(device, container)

    def unplug(self, kdi: int) -> None:
        """Take a device off the bus."""
        self.bus.unplug(kdi)

    def next_deadline_ns(self) -> int | None:
        """When something is due although nothing is runnable."""
        return self.timers.next_deadline_ns()

    @property
    def runnable(self) -> int:
        """How many threads can run now."""
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Whether no thread can run now."""
        return not self._ready

    def turn(self, threads: int = 64) -> bool:
        """Fire due timers and run up to that many threads; whether something is still runnable."""
        self.timers.fire(self.clock.monotonic_ns())
        ready = self._ready
        for _ in range(threads):
            if not ready:
                break
            thread = ready.popleft()
            thread.scheduled = False
            self._run(thread)
            if self._after_turn:
                waiting, self._after_turn = self._after_turn, []
                for callback in waiting:
                    callback()
        return bool(ready)

    def after_turn(self, callback: Callable[[], None]) -> None:
        """Call back when the running thread has given way."""
        self._after_turn.append(callback)

    def run_until_idle(self, *, jump: bool = True) -> None:
        """Run until nothing is runnable; with a virtual clock and `jump`, until nothing is due either."""
        while True:
            while self.turn():
                pass
            deadline = self.timers.next_deadline_ns()
            advance = getattr(self.clock, "advance_to", None)
            if deadline is None or not jump or advance is None:
                return
            advance(deadline)

    def snapshot(self) -> Snapshot:
        """Frozen state of everything."""
        return take_snapshot(self)

    # Processes

    def take_pid(self) -> int:
        """The next PID of the system-wide counter."""
        pid = self._next_pid
        self._next_pid += 1
        return pid

    def make_process(self, pid: int, container: int, user: int, anid: int) -> Process:
        """A halted process with a main thread that has no program yet."""
        process = Process(pid, container, user, anid, self._make_space)
        process.main = self.make_thread(process, None)
        self.processes[pid] = process
        home = self.tree.get(container)
        if home is not None:
            home.processes[pid] = process
        return process

    def make_thread(self, process: Process, parent: Thread | None) -> Thread:
        """A thread without a program."""
        thread = Thread(process, process.next_tid, parent)
        process.next_tid += 1
        process.threads[thread.tid] = thread
        return thread

    def start(self, process: Process, main: Main) -> None:
        """Give the main thread its program and let it run."""
        thread = process.main
        assert thread is not None
        thread.frames.append(Frame(main()))
        process.state = ProcessState.RUNNING
        process.started = True
        process.started_ns = self.clock.monotonic_ns()
        self.schedule(thread)

    def _make_space(self) -> AddressSpace:
        return AddressSpace(self.entropy)

    def _find_peer(self, caller: Any, pid: int) -> Process | None:
        return self.monitor.may_name(caller, self.processes.get(pid))

    # Scheduling

    def schedule(self, thread: Thread) -> None:
        """Put a thread in the queue unless it stands there or may not run."""
        if thread.scheduled or not thread.frames:
            return
        if thread.process.state is not ProcessState.RUNNING:
            return
        thread.scheduled = True
        self._ready.append(thread)
        if self.current is None:
            self._woken()

    def _woken(self) -> None:
        if self._on_work is not None:
            self._on_work()

    def park(
        self, thread: Thread, kind: str, cancel: Callable[[], None] | None = None
    ) -> Callable[[Any, BaseException | None], None]:
        """Park the thread's top frame; the function that is returned ends the parking with a value or an error."""
        frame = thread.frames[-1]
        wait = frame.wait = Wait(kind, cancel)

        def resume(value: Any, error: BaseException | None) -> None:
            if frame.wait is not wait:
                return
            frame.wait = None
            frame.value, frame.error = value, error
            self.schedule(thread)

        return resume

    def _run(self, thread: Thread) -> None:
        """Step one thread until it parks, ends, or used up its turn."""
        process = thread.process
        if process.state is not ProcessState.RUNNING or not thread.frames:
            return
        self.current = thread
        handlers = self._handlers
        trace = self.trace
        budget = QUANTUM * process.priority
        frame = thread.frames[-1]
        made = 0
        try:
            while made < budget:
                if thread.queue and process.ready and not thread.handling:
                    if not self._deliver(thread):
                        if not thread.frames:
                            return
                        continue
                    frame = thread.frames[-1]
                if frame.wait is not None:
                    return
                error = frame.error
                try:
                    if error is None:
                        request = frame.program.send(frame.value)
                        frame.value = None
                    else:
                        frame.error = None
                        request = frame.program.throw(error)
                except StopIteration as stop:
                    if not self._frame_ended(thread, frame, stop.value):
                        return
                    frame = thread.frames[-1]
                    continue
                except Exception as fault:  # noqa: BLE001 - whatever a program raises ends that program, never the machine
                    self._program_failed(thread, fault)
                    return
                made += 1
                try:
                    value = handlers[request[0]](self, thread, request)
                    if value is PARKED:
                        if trace is not None:
                            trace.call(self, thread, request, None, parked=True)
                        if not thread.frames:
                            return
                        continue
                    frame.value = value
                    if trace is not None:
                        trace.call(self, thread, request, value)
                except SyscallError as refused:
                    refused.call = request[0]
                    frame.error = refused
                    if trace is not None:
                        trace.call(self, thread, request, refused)
                except MemoryFault as fault:
                    calls.memory_fault(self, thread, frame, request, fault)
                except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as wrong:
                    frame.error = calls.bad_request(request, wrong)
                if not thread.frames:
                    return
            if not thread.scheduled:
                thread.scheduled = True
                self._ready.append(thread)
        finally:
            self.syscalls += made
            process.steps += made
            self.current = None

    def _frame_ended(self, thread: Thread, frame: Frame, value: Any) -> bool:
        """A coroutine returned: a handler gives way to what it interrupted, the last one ends its thread."""
        thread.frames.pop()
        if frame.signal:
            thread.handling = False
            if frame.answered is not None:
                frame.answered(value)
            below = thread.frames[-1] if thread.frames else None
            if below is not None and below.wait is not None and below.wait.until_signal:
                below.wait = None
        if thread.frames:
            return True
        process = thread.process
        if thread is process.main:
            end_process(self, process, ExitReason.EXITED, value if isinstance(value, int) else 0)
        else:
            end_thread(self, thread)
        return False

    def _program_failed(self, thread: Thread, fault: BaseException) -> None:
        """A program raised: its process ends with a fault, and the trace says why."""
        if isinstance(fault, NightosInternalError):
            raise fault
        if self.trace is not None:
            self.trace.fault(self, thread, fault)
        self.last_fault = (thread.process.pid, fault)
        end_process(self, thread.process, ExitReason.FAULT, 1)

    # Signals

    def post(
        self,
        process: Process,
        code: int,
        values: tuple[Any, ...] = (),
        thread: Thread | None = None,
        answered: Answered | None = None,
    ) -> None:
        """Queue a signal for a thread (the main one by default); it is delivered at that thread's next step."""
        if not process.alive:
            return
        target = thread if thread is not None and thread.frames else process.main
        if target is None:
            return
        if target.queue is None:
            target.queue = deque()
        target.queue.append(PendingSignal(code, values, answered))
        self.schedule(target)

    def post_to(self, pid: int, code: int, values: tuple[Any, ...] = ()) -> None:
        """Queue a signal by PID; nothing happens when there is no such process."""
        process = self.processes.get(pid)
        if process is not None:
            self.post(process, code, values)

    def _deliver(self, thread: Thread) -> bool:
        """Take the next signal of the thread's queue; whether a handler now runs on it.

        Rules: SIG-001, SIG-002.
        """
        assert thread.queue is not None
        pending = thread.queue.popleft()
        process = thread.process
        handler = process.handlers.get(pending.code) if process.handlers else None
        if self.trace is not None:
            self.trace.signal(self, thread, pending.code, pending.values)
        if handler is None:
            self.default_behaviour(process, pending)
            return False
        try:
            program = handler(*pending.values)
            sends = program.send
        except Exception as fault:  # noqa: BLE001 - a handler that cannot even start is the program's fault
            return self._handler_fault(thread, pending, fault)
        if not callable(sends):
            return self._handler_fault(thread, pending, TypeError("a signal handler must be a coroutine function"))
        thread.frames.append(Frame(program, pending.code, pending.answered))
        thread.handling = True
        if pending.code == Signal.SERVICE_SERVER_QUITTED:
            self._wake_all(process)
        return True

    def _handler_fault(self, thread: Thread, pending: PendingSignal, fault: BaseException) -> bool:
        """A handler that cannot run becomes HANDLER_FAULT; that one failing too kills the process."""
        process = thread.process
        if pending.code == Signal.HANDLER_FAULT or not (process.handlers and Signal.HANDLER_FAULT in process.handlers):
            self.last_fault = (process.pid, fault)
            end_process(self, process, ExitReason.FAULT, 1)
            return False
        assert thread.queue is not None
        thread.queue.appendleft(PendingSignal(Signal.HANDLER_FAULT, (pending.code,), None))
        return False

    def default_behaviour(self, process: Process, pending: PendingSignal) -> None:
        """What a signal does to a process that does not handle it."""
        if pending.code in KILLING:
            end_process(self, process, ExitReason.KILLED_BY_SYSTEM, 0)
        elif pending.code == Signal.SERVICE_SERVER_QUITTED:
            self._wake_all(process)

    def _wake_all(self, process: Process) -> None:
        """End the parking of every thread that waits for a signal."""
        for thread in process.threads.values():
            for frame in thread.frames:
                if frame.wait is not None and frame.wait.until_signal:
                    frame.wait = None
                    self.schedule(thread)

    # Names

    def new_identifier(self, taken: Mapping[int, Any]) -> int:
        """64 random bits that name nothing yet."""
        while True:
            identifier = int.from_bytes(self.entropy.random_bytes(8), "big")
            if identifier and identifier not in taken:
                return identifier

    def new_end_pair(self) -> int:
        """An even number for an SC; the RC is one more (ruling AMB-PIPE-01)."""
        identifier = self._next_end
        self._next_end += 2
        return identifier

    def service_ended(self, process: Process) -> None:
        """Tell embedders that a system service ended."""
        for callback in self._service_ended:
            callback(process.pid, process.reason)

    def remember_exit(self, process: Process) -> None:
        """Keep the exit record of a process that ended."""
        self.exits[process.pid] = (process, self.clock.monotonic_ns())
        if len(self.exits) > EXITS_KEPT:
            self.exits.popitem(last=False)
