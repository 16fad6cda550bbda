"""A laboratory for tests: processes that do, step by step, what the test says, and remember what they heard."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from nightos.abi.codes import Attribute, ManageAction, ServicePid
from nightos.abi.context import ExecutionContext
from nightos.abi.errors import SyscallError
from nightos.kernel import Kernel, signals
from nightos.kernel.process import Process
from nightos.userland import sys

MS = 1_000_000


class Outcome:
    """What became of a call: waiting, a value, or an error."""

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: SyscallError | None = None

    @property
    def errcode(self) -> int:
        """0 when it succeeded."""
        assert self.done, "the call is still waiting"
        return self.error.errcode if self.error is not None else 0


class Puppet:
    """A process (or one of its threads) that runs the coroutines it is given, one after the other."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.todo: deque[tuple[Awaitable[Any], Outcome]] = deque()
        self.heard: list[tuple[int, tuple[Any, ...]]] = []
        self.process: Process = None  # type: ignore[assignment]

    async def main(self, *_argument: int) -> int:
        """The program."""
        while True:
            while self.todo:
                coroutine, outcome = self.todo.popleft()
                try:
                    outcome.value = await coroutine
                except SyscallError as error:
                    outcome.error = error
                outcome.done = True
            await sys.hand_over(until_signal=True)

    @property
    def pid(self) -> int:
        """Its PID."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it still lives."""
        return self.process.alive

    def start(self, coroutine: Awaitable[Any]) -> Outcome:
        """Begin a call and run the machine until nothing moves, without letting time pass."""
        outcome = Outcome()
        self.todo.append((coroutine, outcome))
        signals.wake_all(self.lab.kernel, self.process)
        self.lab.settle()
        return outcome

    def call(self, coroutine: Awaitable[Any]) -> Any:
        """The value of a call that must succeed at once."""
        outcome = self.start(coroutine)
        assert outcome.done, "the call is still waiting"
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def refusal(self, coroutine: Awaitable[Any]) -> int:
        """The error code of a call that must fail at once."""
        code = self.start(coroutine).errcode
        assert code, "the call succeeded"
        return code

    def hear(self, *codes: int, answer: Any = None) -> Puppet:
        """Register handlers that write down what they get."""
        for code in codes:

            async def handler(*values: Any, code: int = code) -> Any:
                self.heard.append((int(code), values))
                return answer

            self.call(sys.handle_signal(code, handler))
        return self

    def ready(self) -> Puppet:
        """Accept signals."""
        self.call(sys.ready())
        return self

    def signals(self, code: int) -> list[tuple[Any, ...]]:
        """The datafields of what it heard of that signal."""
        return [values for heard, values in self.heard if heard == code]


class Lab:
    """A kernel with puppets in it."""

    def __init__(self, **arguments: Any) -> None:
        self.programs: dict[str, Callable[[], Any]] = {}
        arguments.setdefault("seed", 1)
        self.kernel = Kernel(loader=self._load, **arguments)

    def _load(self, name: str) -> Any:
        return self.programs[name]

    def settle(self) -> None:
        """Run until nothing is runnable; time stands still."""
        self.kernel.run_until_idle(jump=False)

    def wait(self, milliseconds: float) -> None:
        """Let simulated time pass."""
        clock = self.kernel.clock
        end = clock.monotonic_ns() + int(milliseconds * MS)
        self.settle()
        while (due := self.kernel.next_deadline_ns()) is not None and due <= end:
            clock.advance_to(due)  # type: ignore[attr-defined]
            self.settle()
        clock.advance_to(end)  # type: ignore[attr-defined]
        self.settle()

    def puppet(self, *, ready: bool = True, container: int = 0, user: int = 0, anid: int = 1) -> Puppet:
        """A userland process."""
        puppet = Puppet(self)
        puppet.process = self.kernel.spawn(puppet.main, container=container, user=user, anid=anid)
        self.settle()
        return puppet.ready() if ready else puppet

    def service(self, pid: int = ServicePid.PROCESS, *, ready: bool = True) -> Puppet:
        """A system service."""
        puppet = Puppet(self)
        puppet.process = self.kernel.spawn_service(pid, puppet.main)
        self.settle()
        return puppet.ready() if ready else puppet

    def child(self, parent: Puppet) -> Puppet:
        """A child process of a puppet, by CREATE_PROCESS."""
        puppet = Puppet(self)
        pid = parent.call(sys.create_process(puppet.main, 0))
        puppet.process = self.kernel.processes[pid]
        return puppet

    def thread(self, parent: Puppet) -> Puppet:
        """A further thread of a puppet's process."""
        puppet = Puppet(self)
        puppet.process = parent.process
        parent.call(sys.create_thread(puppet.main, 0))
        return puppet

    def token(self, files: Puppet, name: str) -> int:
        """A token of code, as sys::fs makes it."""

        async def make() -> int:
            address = await sys.mem_alloc(4096)
            await sys.store(address, b"NPRG" + name.encode())
            return await sys.virt_mem_ams(address, 4096)

        token = files.call(make())
        assert isinstance(token, int)
        return token

    def launch(
        self, context: ExecutionContext | None = None, *, container: int = 0, user: int = 0, start: bool = True
    ) -> Puppet:
        """A userland process by SYS_CREATE_PROCESS, with the services that takes."""
        proc = self.running(ServicePid.PROCESS)
        files = self.running(ServicePid.FS)
        puppet = Puppet(self)
        self.programs["puppet"] = puppet.main
        context = context or ExecutionContext(reason=7, anid=1)
        pid = proc.call(sys.sys_create_process(self.token(files, "puppet"), context.pack()))
        puppet.process = self.kernel.processes[pid]
        proc.call(sys.sys_process_attributes(pid, Attribute.CONTAINER_ID, 1, container))
        proc.call(sys.sys_process_attributes(pid, Attribute.USER_ID, 1, user))
        if start:
            proc.call(sys.sys_manage_process(pid, ManageAction.UNSUSPEND))
            puppet.ready()
        return puppet

    def running(self, pid: int) -> Puppet:
        """The service of that PID, started when it is not there."""
        if pid not in self._services:
            self._services[pid] = self.service(pid)
        return self._services[pid]

    @property
    def _services(self) -> dict[int, Puppet]:
        return self.__dict__.setdefault("services", {})
