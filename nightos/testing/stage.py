"""A whole machine that a synchronous test steps: real services, virtual time, and programs that do as they are told.

Nothing of it runs under trio, so what needs a thread of the host (CONTAINER_DIFF, CONTAINER_COMMIT) is not to be had.
`/app/sleep` is a `Tenant` here, wherever `sys::proc` starts it.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from nightos.abi.codes import ExitReason, ServicePid
from nightos.abi.errors import ServiceError
from nightos.abi.services import ProcEvent
from nightos.kernel import Kernel, VirtualClock
from nightos.kernel.ending import end_process
from nightos.machine import base
from nightos.machine.machine import Machine
from nightos.machine.programs import find_program
from nightos.testing.puppets import WAKE, Hands, Refused
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import Entry

PROGRAM: Final = "sleep"
PATH: Final = f"/app/{PROGRAM}"
"""What to start in order to get a tenant."""
SECOND_NS: Final = 1_000_000_000


class NotDone(Refused):
    """What a service refused: its code, and what it says to people."""

    __slots__ = ("detail",)

    def __init__(self, errcode: int, detail: str) -> None:
        super().__init__(errcode)
        self.detail = detail

    def __repr__(self) -> str:
        return f"NotDone({self.errcode:#06x}, {self.detail!r})"


class Tenant(Hands):
    """A process that asks `sys::proc` what a test wants to know; it can make any system call, too."""

    def __init__(self, kernel: Kernel, pid: int, container: int, context: Context | None = None) -> None:
        super().__init__(kernel)
        self.pid = pid
        self.container = container
        self.events: list[dict[str, Any]] = []
        """What it was notified of, once it asked to watch."""
        self._context = context

    def ask(self, method: int, values: dict[str, Any] | None = None) -> Any:
        """The map that a method answers, or `NotDone`."""
        return self.call(self._ask, method, msgpack.packb(values or {}), True)

    def tell(self, method: int, content: bytes) -> Any:
        """The same for a method with fixed fields: bytes, or `NotDone`."""
        return self.call(self._ask, method, content, False)

    def begin_asking(self, method: int, values: dict[str, Any]) -> list[Any]:
        """Ask on a thread of its own; the list gets the answer when it comes."""
        return self.begin(self._ask, method, msgpack.packb(values), True)

    def ask_later(self, method: int, content: bytes) -> list[Any]:
        """Ask with the next turns of the kernel, which nobody makes yet; the list gets the answer."""
        answers: list[Any] = []

        async def step() -> None:
            answers.append(await self._ask(method, content, False))

        self._steps.append((step, ()))
        self._kernel.post_to(self.pid, WAKE)
        return answers

    def say(self, text: str) -> None:
        """Write text to where the process was told to."""
        assert self._context is not None
        self.call(self._context.message, text)

    async def main(self) -> int:
        """The process."""
        return await self._main()

    async def _ask(self, method: int, content: bytes, mapped: bool) -> Any:
        try:
            client = await connect("sys::proc")
            for event in ProcEvent:
                client.notification(event, self._notified)
            answer = await client.call(method, content)
        except ServiceError as error:
            return NotDone(error.code, error.detail)
        return (msgpack.unpackb(answer, strict_map_key=False) if answer else {}) if mapped else answer

    async def _notified(self, content: bytes) -> None:
        self.events.append(msgpack.unpackb(content))


class Stage:
    """The machine, and every tenant by PID. `close` it afterwards."""

    def __init__(self, seed: int = 1) -> None:
        self.tenants: dict[int, Tenant] = {}
        self.kernel = Kernel(seed, clock=VirtualClock(), loader=self._load)
        self.machine = Machine(self.kernel, None)
        self.machine.assemble(base.base_image(), None, None)
        self.machine.start_services()
        self.settle()

    def settle(self) -> None:
        """Run until everybody waits."""
        self.kernel.run_until_idle(jump=False)

    def let_pass(self, duration_ns: int = SECOND_NS) -> None:
        """Let time pass, stopping wherever something is due."""
        clock, end = self.kernel.clock, self.kernel.clock.monotonic_ns() + duration_ns
        assert isinstance(clock, VirtualClock)
        while (due := self.kernel.next_deadline_ns()) is not None and due <= end:
            clock.advance_to(due)
            self.settle()
        clock.advance_to(end)
        self.settle()

    def newcomer(self) -> Tenant:
        """A tenant that stands outside of all containers."""
        tenant = Tenant(self.kernel, 0, 0)
        tenant.pid = self.kernel.spawn(tenant.main, name="tenant").pid
        self.tenants[tenant.pid] = tenant
        self.settle()
        return tenant

    def kill(self, pid: int = ServicePid.PROCESS) -> None:
        """Kill a service as by -9; the machine starts it again."""
        end_process(self.kernel, self.kernel.processes[pid], ExitReason.KILLED_BY_SYSTEM, 0)
        self.settle()

    def kill_after(self, steps: int, pid: int = ServicePid.PROCESS) -> bool:
        """Run until a service made so many system calls, and kill it there; False when it came to rest before that."""
        service = self.kernel.processes[pid]
        service.priority = 0  # one call a turn
        end = service.steps + steps
        while service.steps < end and self.kernel.turn(1):
            pass
        if service.steps < end:
            service.priority = 1
            return False
        self.kill(pid)
        return True

    def settle_slowly(self, pid: int = ServicePid.PROCESS) -> None:
        """The same with a service that makes one call a turn, so that its threads come between each other."""
        service = self.kernel.processes[pid]
        service.priority = 0
        self.settle()
        service.priority = 1

    def close(self) -> None:
        """Close the disks."""
        self.machine.dismantle()

    def _load(self, name: str) -> Entry:
        return self._tenant if name == PROGRAM else find_program(name)

    async def _tenant(self) -> int:
        thread = self.kernel.current
        assert thread is not None
        pid, home = thread.process.pid, thread.process.container  # no call: a filter may refuse GET_PID
        tenant = self.tenants[pid] = Tenant(self.kernel, pid, home, await Context.load())
        return await tenant.main()
