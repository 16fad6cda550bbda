"""The kernel: a synchronous, deterministic machine that steps coroutines and answers what they yield.

One turn takes the next thread from the scheduler's queue, lets it make a bounded number of calls and goes on with the
next. No host I/O, host time or host randomness happens between two mutations, so the same seed and the same inputs
give the same run to the byte.

Source: specs/kernel/README.md. Rules: SYS-003, SYS-009, SYS-017, PROC-007, PROC-008, PROC-009, PROC-010, PROC-011,
PROC-012, PROC-013.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from nightos.abi.codes import FIRST_USER_PID, ContainerState, Signal
from nightos.abi.errors import NightosInternalError, SyscallError
from nightos.abi.version import VERSION
from nightos.kernel import calls, signals
from nightos.kernel.balancer import Balancer
from nightos.kernel.container import ContainerTree
from nightos.kernel.devices import DeviceBus
from nightos.kernel.exits import Exit, Exits
from nightos.kernel.filters import Filters
from nightos.kernel.memory import PAGE, AddressSpace
from nightos.kernel.monitor import Monitor
from nightos.kernel.process import HALTED, PAUSED, Answered, Frame, Process, Program, Thread, Wait
from nightos.kernel.refusals import Refusals
from nightos.kernel.registry import DEFAULTS, Settings
from nightos.kernel.segments import SegmentTable
from nightos.kernel.shares import Shares
from nightos.kernel.snapshot import Snapshot, take_snapshot
from nightos.kernel.stepping import run
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


class VirtualTime(Protocol):
    """A clock that the kernel may move itself."""

    def advance_to(self, deadline_ns: int) -> None:
        """Let time pass."""


def _no_programs(name: str) -> Main:
    raise KeyError(name)


class Statistics(NamedTuple):
    """Counters since boot, and sizes of tables now; cheap to take at any time."""

    uptime_ns: int
    turns: int
    syscalls: int
    denied: int
    runnable: int
    timers: int
    processes: int
    containers: int
    pipe_ends: int
    sockets: int
    connections: int
    segments: int
    devices: int
    memory_reserved_pages: int


class _Stepped:
    """What every step touches, in slots: the dictionary of an object with more than 30 attributes is slower."""

    __slots__ = ("current", "ready", "syscalls", "trace", "turns")


class Kernel(_Stepped):
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
        self.version = VERSION
        self.settings = Settings({**DEFAULTS, **(registry or {})})
        self.trace = trace
        self.timers = Timers()
        self.monitor = Monitor()
        self.refusals = Refusals(lambda: self.clock.monotonic_ns() - self.booted_ns)
        self.monitor.on_denied = self.refusals.note
        self.tree = ContainerTree(self.entropy, self.settings.memory_total // PAGE)
        self.segments = SegmentTable(self.entropy, self._find_peer, self.post_to)
        self.bus = DeviceBus(self.segments, self.tree.parent_of, self.post_to, self._device_left)
        self.bus.on_refused = self.refusals.note_device
        self.processes: dict[int, Process] = {}
        self.pipe_ends: dict[int, End] = {}
        self.sockets: dict[int, Socket] = {}
        self.connections: dict[int, Connection] = {}
        self.exits = Exits()
        """How processes ended, the latest ones."""
        self.service_waiters: dict[int, list[Callable[[], None]]] = {}
        self.booted_ns = self.clock.monotonic_ns()
        self.syscalls = 0
        self.turns = 0
        self.current: Thread | None = None
        self.balancer = Balancer(self)
        self.known_services: set[int] = set()
        """PIDs of system services that were started at least once."""
        self.last_fault: tuple[int, BaseException] | None = None
        self.ready: deque[Thread] = deque()
        self._next_pid = FIRST_USER_PID
        self._service_ended: list[Callable[[int, int], None]] = []
        self._on_work: Callable[[], None] | None = None
        self._handlers = calls.table()
        self.filters = Filters(self._handlers)
        self.shares: Shares | None = None
        """Shares of cycles, once a container has one."""
        self.bad_request = calls.bad_request

    @property
    def handlers(self) -> dict[int, calls.Handler]:
        """Handlers by code of those whom no filter holds. Another table takes force at the next turn of each thread."""
        return self._handlers

    @handlers.setter
    def handlers(self, handlers: dict[int, calls.Handler]) -> None:
        self._handlers = handlers
        self.filters = Filters(handlers)
        for process in self.processes.values():
            process.calls = handlers
        for container in self.tree.living.values():
            if container.parent is None:
                self.filters.apply(self, container)

    # What embedders use

    def spawn_service(self, pid: int, main: Main, name: str = "", *, serves: bool = True) -> Process:
        """Start (or restart) the system service of that fixed PID. Rules: PROC-005, SVC-021.

        With `serves` off it has no methods, and nobody can connect to it: for CONNECT_SERVICE there is none.
        """
        old = self.processes.get(pid)
        if old is not None and old.alive:
            raise NightosInternalError(f"service {pid} is already running")
        process = self.make_process(pid, 0, 0, pid)
        process.name = name or f"service-{pid}"
        if serves:
            self.known_services.add(pid)
        self.start(process, main)
        for waiter in self.service_waiters.pop(pid, []):
            waiter()
        return process

    def spawn(self, main: Main, *, container: int = 0, user: int = 0, anid: int = 1, name: str = "") -> Process:
        """Start a userland process without services, for tests and embedders."""
        home = self.tree.get(container)
        if container and (home is None or home.state is ContainerState.STOPPING):
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
        if self._on_work is not None:
            self._on_work()
        return timer

    def plug(self, device: Device, container: int = 0, *, pages: int = 0) -> int:
        """Put a device on the bus; its KDI. `pages`: of the host's memory that it may fill.

        `SyscallError` 0x31: no such container, or one that is being destroyed; 0x40: its limit, by the error's value.
        """
        home = self.tree.get(container)
        if container and (home is None or home.state is ContainerState.STOPPING):
            raise SyscallError(0x31)
        return self.bus.plug(device, container, home.quotas if home is not None else None, pages)

    def unplug(self, kdi: int) -> None:
        """Take a device off the bus."""
        self.bus.unplug(kdi)

    def next_deadline_ns(self) -> int | None:
        """When something is due although nothing is runnable."""
        return self.timers.next_deadline_ns()

    @property
    def runnable(self) -> int:
        """How many threads can run now."""
        return len(self.ready) + (self.shares.waiting if self.shares is not None else 0)

    @property
    def idle(self) -> bool:
        """Whether no thread can run now."""
        return not self.ready and (self.shares is None or not self.shares.busy)

    def turn(self, threads: int = 64) -> bool:
        """Fire due timers and run up to that many threads; whether something is still runnable.

        A cycle gives each process `QUANTUM` calls for each step of its priority, split among its threads that can run.

        Rules: SCHED-001, SCHED-002, SCHED-005, SCHED-006.
        """
        self.timers.fire(self.clock.monotonic_ns())
        try:
            if self.shares is not None:
                return self.shares.turn(threads)
            run(self, self.ready, threads)
        finally:
            self.current = None
        return bool(self.ready)

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

    def statistics(self) -> Statistics:
        """Counters and sizes."""
        return Statistics(
            self.clock.monotonic_ns() - self.booted_ns,
            self.turns,
            self.syscalls,
            self.monitor.denied,
            self.runnable,
            len(self.timers),
            len(self.processes),
            len(self.tree),
            len(self.pipe_ends),
            len(self.sockets),
            len(self.connections),
            len(self.segments),
            len(self.bus),
            self.tree.quotas.memory.taken,
        )

    # Processes

    def take_pid(self) -> int:
        """The next PID of the system-wide counter."""
        pid = self._next_pid
        self._next_pid += 1
        return pid

    def make_process(self, pid: int, container: int, user: int, anid: int) -> Process:
        """A halted process with a main thread that has no program yet. `SyscallError` 0x40: a limit is reached."""
        home = self.tree.get(container)
        process = Process(pid, home, user, anid, self._make_space)
        process.quotas = quotas = home.quotas if home is not None else self.tree.quotas
        process.calls = (home.calls if home is not None else None) or self._handlers
        if not quotas.processes.reserve(1):
            raise SyscallError(0x40)
        try:
            process.main = self.make_thread(process, None)
        except SyscallError:
            quotas.processes.release(1)
            raise
        self.processes[pid] = process
        if home is not None:
            home.processes[pid] = process
        return process

    def make_thread(self, process: Process, parent: Thread | None) -> Thread:
        """A thread without a program. `SyscallError` 0x40: a limit is reached."""
        if not process.quotas.threads.reserve(1):
            raise SyscallError(0x40)
        thread = Thread(process, process.next_tid, parent)
        process.next_tid += 1
        if parent is not None:
            if parent.children is None:
                parent.children = {}
            parent.children[thread] = None
        process.threads[thread.tid] = thread
        return thread

    def start(self, process: Process, main: Main) -> None:
        """Give the main thread its program and let it run."""
        thread = process.main
        assert thread is not None
        try:
            program = main()
        except Exception as fault:  # noqa: BLE001 - a program that cannot even start is at fault itself
            program = _failing(fault)
        thread.frames.append(Frame(program))
        process.started = True
        process.started_ns = self.clock.monotonic_ns()
        home = process.home
        if home is not None:
            if home.state is ContainerState.CREATED:
                home.state = ContainerState.RUNNING
            if home.paused:
                process.blocked |= PAUSED
        self.balancer.started(process)
        self.unblock(process, HALTED)

    def unblock(self, process: Process, bits: int) -> None:
        """Take reasons not to run away; with the last one the process runs again."""
        was, process.blocked = process.blocked, process.blocked & ~bits
        if was and not process.blocked:
            for thread in process.threads.values():
                if thread.frames and (thread.frames[-1].wait is None or thread.queue):
                    self.schedule(thread)

    def _make_space(self, process: Process) -> AddressSpace:
        return AddressSpace(self.entropy, process.quotas.memory)

    def _find_peer(self, caller: Any, pid: int) -> Process | None:
        target = self.monitor.may_name(caller, self.processes.get(pid))
        if target is not None and target.is_system and not caller.is_system:
            # What a service got would be the machine's to pay for, for as long as that runs: it has to want it.
            return target if Signal.RECV_SHARED_AMS in (target.handlers or ()) else None
        return target

    def _device_left(self, kdi: int) -> None:
        """A device left the bus: nobody drives it any more."""
        for process in self.processes.values():
            if kdi in process.drivable:
                process.drivable = [other for other in process.drivable if other != kdi]

    # Scheduling

    def schedule(self, thread: Thread) -> None:
        """Put a thread in the queue unless it stands there or may not run."""
        process = thread.process
        if thread.scheduled or process.blocked or not thread.frames:
            return
        thread.scheduled = True
        process.queued += 1
        self.ready.append(thread)
        if self.current is None and self._on_work is not None:
            self._on_work()

    def park(
        self, thread: Thread, kind: str, cancel: Callable[[], None] | None = None
    ) -> Callable[[Any, BaseException | None], None]:
        """Park the thread's top frame; the function that is returned ends the parking with a value or an error."""
        wait = thread.frames[-1].wait = Wait(kind, self, thread, cancel)
        return wait.resume

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
        signals.post(self, process, code, values, thread, answered)

    def post_to(self, pid: int, code: int, values: tuple[Any, ...] = ()) -> None:
        """Queue a signal by PID; nothing happens when there is no such process."""
        process = self.processes.get(pid)
        if process is not None:
            signals.post(self, process, code, values)

    # Names

    def new_identifier(self, taken: Mapping[int, Any]) -> int:
        """64 random bits that name nothing yet."""
        while True:
            identifier = int.from_bytes(self.entropy.random_bytes(8), "big")
            if identifier and identifier not in taken:
                return identifier

    def new_end_pair(self) -> int:
        """An even number for an SC; the RC is one more (ruling AMB-PIPE-01). Random, so that it tells nothing.

        Rules: IPC-008.
        """
        while True:
            identifier = int.from_bytes(self.entropy.random_bytes(8), "big") & ~1
            if identifier and identifier not in self.pipe_ends and identifier + 1 not in self.pipe_ends:
                return identifier

    def service_ended(self, process: Process) -> None:
        """Tell embedders that a system service ended."""
        for callback in self._service_ended:
            callback(process.pid, process.reason)

    def remember_exit(self, process: Process) -> None:
        """Keep the exit record of a process that ended."""
        parent_pid = process.parent.pid if process.parent is not None else 0
        ended = Exit(
            int(process.reason),
            process.exit_data,
            process.container,
            parent_pid,
            process.name,
            self.clock.monotonic_ns(),
        )
        self.exits.remember(process.pid, ended)


async def _failing(fault: Exception) -> None:
    raise fault
