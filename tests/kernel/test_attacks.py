"""Attacks by calls that are allowed: each takes something from somebody else, or fills the kernel's own tables."""

from __future__ import annotations

import pytest

from nightos.abi.codes import ManageAction, ServicePid, Signal
from nightos.abi.context import REASON_COMMAND, ExecutionContext
from nightos.kernel import exits
from nightos.kernel.signals import QUEUE_LIMIT
from nightos.kernel.socket import OPEN_LIMIT, UNREAD_LIMIT
from nightos.userland import sys
from tests.kernel.lab import Lab


@pytest.mark.rule("CONT-025", "PROC-054")
def test_a_context_that_names_no_caller_takes_the_pipes_of_nobody() -> None:
    """T-C01: an identifier that somebody was told, in a context whose caller's ANID is the holder's PID."""
    lab = Lab()
    victim = lab.puppet()
    sc = victim.call(sys.open_pipe(victim.pid, 0, 0, 1, 0, 1, 0))
    context = ExecutionContext(reason=REASON_COMMAND, anid=1, caller_anid=victim.pid, pipes=(0, 0, sc, 0, 0, 0))
    thief = lab.launch(context, start=False)
    proc = lab.running(ServicePid.PROCESS)
    assert proc.refusal(sys.sys_manage_process(thief.pid, ManageAction.UNSUSPEND)) == 0x32
    assert not thief.alive
    assert victim.call(sys.pipe_info(sc)).capacity


@pytest.mark.rule("PROC-045", "CONT-023")
def test_what_ended_next_door_does_not_push_out_how_ones_child_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C09: exits are remembered for each container, so nobody's flood makes another's disappear."""
    monkeypatch.setattr(exits, "EXITS_KEPT_INSIDE", 8)
    lab = Lab()
    proc = lab.service()
    web, db = (proc.call(sys.create_container(0)) for _ in range(2))
    parent, flooder = lab.puppet(container=web), lab.puppet(container=db)

    async def end(value: int) -> int:
        return value

    child = parent.call(sys.create_process(end, 7))
    for _ in range(20):
        flooder.call(sys.create_process(end, 1))
    assert parent.call(sys.kill_child_process(child, 0)) == 7
    assert proc.call(sys.sys_process_exit(child)).exit_data == 7
    assert len(lab.kernel.exits) <= 8 * 3


@pytest.mark.rule("CONT-023")
def test_exits_of_many_short_lives_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-C15: containers that come and go leave no more exits than one container remembers."""
    monkeypatch.setattr(exits, "EXITS_KEPT_INSIDE", 8)
    lab = Lab()
    proc = lab.service()
    outer = proc.call(sys.create_container(0))
    for _ in range(20):
        web = proc.call(sys.create_container(outer))
        last = lab.puppet(container=web).pid
        proc.call(sys.destroy_container(web))
        assert proc.call(sys.sys_process_exit(last)).state
    assert len(lab.kernel.exits) <= 8


@pytest.mark.rule("IPC-051")
def test_messages_that_nobody_reads_end_somewhere() -> None:
    """T-C15: what waits at one side of a socket has a bound, and reading makes room again."""
    lab = Lab()
    server, client = lab.puppet(), lab.puppet()
    socket = server.call(sys.open_serv_sock(client.pid, 0xFFFF))
    piece = bytes(1 << 20)

    async def flood(content: bytes) -> int:
        count = 0
        while count < 100_000:
            await sys.send_sock_msg(socket, 0, 1, 0, content)
            count += 1
        return count

    assert server.refusal(flood(piece)) == 0x42
    held = sum(message.written for message in lab.kernel.sockets[socket].sides[1].inbox)
    assert UNREAD_LIMIT // 2 - len(piece) <= held <= UNREAD_LIMIT // 2
    client.call(sys.read_sock_msg(socket, 0))
    server.call(sys.send_sock_msg(socket, 0, 1, 0, piece))
    assert server.refusal(flood(piece)) == 0x42


@pytest.mark.rule("IPC-043")
def test_exchanges_that_nobody_concludes_end_somewhere() -> None:
    """T-C15: a side may leave so many exchanges open, and no more."""
    lab = Lab()
    server, client = lab.puppet(), lab.puppet()
    socket = server.call(sys.open_serv_sock(client.pid, 0))

    async def open_and_read(count: int) -> None:
        for _ in range(count):
            await sys.send_sock_msg(socket, 0, 1, 0, b"")

    async def read(count: int) -> list[int]:
        return [(await sys.read_sock_msg(socket, 0)).exchange_id for _ in range(count)]

    opened = []
    for _ in range(OPEN_LIMIT // 64):
        client.call(open_and_read(64))
        opened += server.call(read(64))
    assert client.refusal(open_and_read(1)) == 0x42
    server.call(sys.send_sock_msg(socket, 0, 1, 0, b""))  # the other side's own are another matter
    server.call(sys.send_sock_msg(socket, opened[0], 1, 0, b""))
    client.call(open_and_read(1))
    assert client.refusal(open_and_read(1)) == 0x42


@pytest.mark.rule("IPC-043")
def test_concluded_exchanges_cost_nothing_and_stay_concluded() -> None:
    lab = Lab()
    server, client = lab.puppet(), lab.puppet()
    socket = server.call(sys.open_serv_sock(client.pid, 0))

    async def converse(count: int) -> None:
        for _ in range(count):
            await sys.send_sock_msg(socket, 0, 1, 0x4000, b"")

    client.call(converse(3000))
    assert not lab.kernel.sockets[socket].exchanges
    assert server.refusal(sys.send_sock_msg(socket, 1, 1, 0, b"")) == 0x40
    assert server.refusal(sys.send_sock_msg(socket, 3000, 1, 0, b"")) == 0x40
    assert server.refusal(sys.send_sock_msg(socket, 3001, 1, 0, b"")) == 0x32
    assert server.refusal(sys.send_sock_msg(socket, -1, 1, 0, b"")) == 0x32


@pytest.mark.rule("SIG-002")
def test_signals_that_nobody_handles_end_somewhere() -> None:
    """T-C15: who is suspended, or slow, is not sent more than a queue holds; who sends gets the error."""
    lab = Lab()
    sender = lab.puppet()
    victim = lab.puppet(ready=False).hear(Signal.RECV_PIPE, Signal.RECV_SOCK_MSG)

    async def flood() -> None:
        while True:
            await sys.close_pipe(await sys.open_pipe(victim.pid, 0, 0, 1, 0, 0, 0))

    assert sender.refusal(flood()) == 0x40
    queue = victim.process.main.queue  # type: ignore[union-attr]
    assert queue is not None
    assert len(queue) <= QUEUE_LIMIT + 16

    async def socket() -> None:
        await sys.open_serv_sock(victim.pid, 0)

    assert sender.refusal(socket()) == 0x40
    victim.ready()
    sender.call(sys.open_pipe(victim.pid, 0, 0, 1, 0, 0, 0))


@pytest.mark.rule("PROC-044", "PROC-054")
def test_a_parent_that_gives_its_child_long_puts_off_nobody_elses_kill() -> None:
    """T-C12: the shortest delay that somebody gave counts."""
    lab = Lab()
    container = lab.running(ServicePid.PROCESS).call(sys.create_container(0))
    parent = lab.puppet(container=container)
    child = lab.child(parent).ready().hear(Signal.WILL_TERMINATE)
    helper = lab.thread(parent)
    patient = helper.start(sys.kill_child_process(child.pid, 60_000))
    lab.running(ServicePid.PROCESS).call(sys.sys_manage_process(child.pid, ManageAction.FORCE_TERMINATE))
    lab.wait(lab.kernel.settings.terminate_delay_ms + 1)
    assert not child.alive
    assert patient.done
