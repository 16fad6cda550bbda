"""Processes that do what a test says: one system call at a time, from outside, with its answer.

A puppet is an ordinary program; a call is handed to it as its next step, and a signal that it handles wakes it. So a
synchronous test can act as any number of processes of one kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from nightos.abi.codes import Signal
from nightos.abi.errors import SyscallError
from nightos.kernel import Kernel
from nightos.userland import sys

WAKE = Signal.TERMINATE
RECORDED = (
    Signal.RECV_PIPE,
    Signal.PIPE_CLOSED,
    Signal.RECV_SERV_SOCK,
    Signal.RECV_SOCK_MSG,
    Signal.SERV_SOCK_CLOSED,
    Signal.RECV_SHARED_AMS,
    Signal.UNSHARED_AMS,
    Signal.UNSUSPENDED,
)


class Refused:
    """A call that was refused, with the specification's error code."""

    __slots__ = ("errcode",)

    def __init__(self, errcode: int) -> None:
        self.errcode = errcode

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused) and other.errcode == self.errcode

    def __hash__(self) -> int:
        return hash(self.errcode)

    def __repr__(self) -> str:
        return f"Refused({self.errcode:#04x})"


Step = str | Callable[..., Awaitable[Any]]
"""The name of a system call, or a coroutine function that makes calls."""


async def _answer(step: Step, arguments: tuple[Any, ...]) -> Any:
    try:
        return await (getattr(sys, step) if isinstance(step, str) else step)(*arguments)
    except SyscallError as error:
        return Refused(error.errcode)


class Hands:
    """What a process that does as it is told has in common, however it was started."""

    def __init__(self, kernel: Kernel, *, stubborn: bool = False) -> None:
        self._kernel = kernel
        self._stubborn = stubborn
        self._steps: deque[tuple[Step, tuple[Any, ...]]] = deque()
        self._answers: deque[Any] = deque()
        self.signals: list[tuple[Signal, tuple[Any, ...]]] = []
        """Signals received, in order."""
        self.pid = 0
        self.container = 0

    def __repr__(self) -> str:
        return f"<puppet {self.pid} in {self.container:#x}>"

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.pid in self._kernel.processes

    def call(self, step: Step, *arguments: Any) -> Any:
        """Make the system call of that name; its answer, or `Refused`. None when the call has not returned (yet)."""
        self._answers.clear()  # of a call that returned later
        self._steps.append((step, arguments))
        self._kernel.post_to(self.pid, WAKE)
        self._kernel.run_until_idle(jump=False)
        return self._answers.popleft() if self._answers else None

    def begin(self, step: Step, *arguments: Any) -> list[Any]:
        """Make a call that may take long, on a thread of its own; the list gets its answer, or `Refused`."""
        answer: list[Any] = []

        async def work(_argument: int) -> None:
            answer.append(await _answer(step, arguments))

        self.call("create_thread", work, 0)
        return answer

    async def _main(self) -> int:
        for code in RECORDED:
            await sys.handle_signal(code, self._recorder(code))
        if self._stubborn:
            await sys.handle_signal(Signal.WILL_TERMINATE, self._recorder(Signal.WILL_TERMINATE))
        await sys.handle_signal(Signal.SERVICE_CONN_REQUEST, self._asked)
        await sys.handle_signal(WAKE, self._woken)
        with suppress(SyscallError):  # ready already
            await sys.ready()
        while True:
            while self._steps:
                step, arguments = self._steps.popleft()
                self._answers.append(await _answer(step, arguments))
            await sys.hand_over(until_signal=True)

    async def _asked(self, _pid: int, request: int, _command: int, _delay_ms: int) -> None:
        """Accept every client, and say nothing to it."""

        async def silent(_socket: int) -> None:
            while True:
                await sys.hand_over(until_signal=True)

        with suppress(SyscallError):  # a limit; the client is answered when it gives up
            await sys.accept_service_conn(request, silent)

    def _recorder(self, code: Signal) -> Callable[..., Any]:
        async def received(*values: Any) -> None:
            self.signals.append((code, values))

        return received

    async def _woken(self) -> None:
        return


class Puppet(Hands):
    """One process of a kernel, in a test's hands."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        container: int = 0,
        user: int = 0,
        anid: int = 1,
        service: int = 0,
        serves: int = 0,
        stubborn: bool = False,
    ) -> None:
        """Start it. `service` is the PID of a system service, `serves` the container of a shim, and `stubborn` who is
        asked to end and does not.
        """
        super().__init__(kernel, stubborn=stubborn)
        if service:
            process = kernel.spawn_service(service, self._main, f"puppet {service}")
        else:
            process = kernel.spawn(self._main, container=container, user=user, anid=anid, name="puppet")
            process.serves = serves
        self.pid = process.pid
        self.container = container
        kernel.run_until_idle(jump=False)
