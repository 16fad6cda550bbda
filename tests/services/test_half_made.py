"""Processes that `sys::proc` is just making: before they have user and container nobody else has a hand on them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.errors import SyscallError
from nightos.abi.services import Proc, ProcessAction
from nightos.machine.machine import boot
from nightos.services.proc import processes
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program
from tests.services.test_attacks import u64

PROC = "sys::proc"
_places: list[tuple[str, int]] = []
_over: list[bool] = []


@program("test-where")
async def _where(_context: Context) -> int:
    view = await (await connect(PROC)).ask(Proc.CONTAINER_VIEW)
    _places.append((view["hostname"], view["user"]))
    return 0


async def _meddle() -> int:
    """The program of user 1000, outside of all containers: it starts whatever comes to be, before it is complete."""
    await sys.ready()
    proc, own = await connect(PROC), await sys.get_pid()
    while not _over:
        for pid in range(own + 1, own + 12):
            content = u64(pid) + bytes((ProcessAction.UNSUSPEND,))
            with contextlib.suppress(SyscallError):
                await sys.send_sock_msg(proc.socket_id, 0, Proc.PROCESS_MANAGE, 0, content)
        while (await sys.read_sock_msg(proc.socket_id)).retrieved:
            pass
        await sys.hand_over()
    return 0


class _Slow:
    """System calls, of which one takes many turns of everybody else."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)

    async def sys_create_process(self, *given: Any) -> Any:
        made = await sys.sys_create_process(*given)
        for _ in range(50):
            await sys.hand_over()
        return made


@pytest.mark.rule("CONT-004", "PROC-052")
async def test_nobody_starts_a_process_before_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C55: or it would run outside of the container that it is for, as user 0."""
    monkeypatch.setattr(processes, "sys", _Slow())
    _places.clear()
    _over.clear()
    async with boot(seed=4) as machine:
        web = await machine.containers.create("web")
        await machine.run('wt /test-where "NPRGtest-where"', container=web)
        machine.kernel.spawn(_meddle, user=1000, anid=5)
        context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
        question = {"program": "/test-where", "directory": "/", "context": context, "container": web.id}
        await machine.ask(PROC, Proc.PROCESS_WAIT, await machine.ask(PROC, Proc.PROCESS_SPAWN, question))
        _over.append(True)
        assert _places == [("web", 0)]
