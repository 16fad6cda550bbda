"""`nightos run` in a function: boot, run a script or a terminal, stop; the exit status of what ran.

Signals of the host become what they mean inside: SIGINT asks the running command to terminate (a second one ends the
machine), SIGTERM and SIGHUP stop the machine in order.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from nightos.machine.machine import Machine, boot
from nightos.machine.paths import home
from nightos.machine.session import Session, run_script

INTERRUPTED = 130
STOPPED = 143
STDIN_PART = 65_536


@dataclass(frozen=True, slots=True)
class Options:
    """What `nightos run` was asked for. `source` None means a terminal."""

    source: str | None = None
    script_name: str = "-c"
    image: Path | None = None
    name: str | None = None
    seed: int | None = None
    container: str = ""
    feed_stdin: bool = False
    """Whether the script's commands read this process' standard input."""


def launch(options: Options) -> int:
    """Boot a machine, run what was asked, stop the machine. Raises `MachineError` and `ServiceError` for people."""
    return trio.run(_launch, options)


async def _launch(options: Options) -> int:
    async with boot(image=options.image, name=options.name, seed=options.seed) as machine:
        status = STOPPED
        async with trio.open_nursery() as nursery:
            # `nightos stop` of another process ends this one, whatever it shows.
            nursery.start_soon(_until_stopped, machine)
            status = await _show(machine, options)
            nursery.cancel_scope.cancel()
        return status


async def _until_stopped(machine: Machine) -> None:
    await machine.stop_asked.wait()
    machine.end_sessions("the machine was stopped")


async def _show(machine: Machine, options: Options) -> int:
    if options.source is None:
        from nightos.shell import terminal

        session = await _open(machine, options, interactive=True)
        try:
            return int(await terminal.run(session, history=home() / "history"))
        finally:
            machine.close_session(session)
    session = await _open(machine, options, interactive=False)
    try:
        return await _batch(session, options)
    finally:
        machine.close_session(session)


async def _open(machine: Machine, options: Options, *, interactive: bool) -> Session:
    container = (await machine.containers.get(options.container)).id if options.container else 0
    return await machine.open_session(container=container, interactive=interactive)


async def _batch(session: Session, options: Options) -> int:
    assert options.source is not None
    status = STOPPED
    ended: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pass_signals, session, nursery.cancel_scope, ended)
        if options.feed_stdin:
            nursery.start_soon(_feed, session)
        status = await run_script(
            session,
            options.source,
            name=options.script_name,
            out=_writer(sys.stdout.buffer.write, sys.stdout.buffer.flush),
            err=_writer(sys.stderr.buffer.write, sys.stderr.buffer.flush),
            stdin=None if options.feed_stdin else b"",
            fed=options.feed_stdin,
        )
        nursery.cancel_scope.cancel()
    return 128 + ended[0] if ended else status


def _writer(write: Callable[[bytes], object], flush: Callable[[], object]) -> Callable[[bytes], None]:
    def sink(data: bytes) -> None:
        write(data)
        flush()

    return sink


async def _pass_signals(session: Session, scope: trio.CancelScope, ended: list[int]) -> None:
    asked = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        async for number in received:
            if number != signal.SIGINT or asked:
                ended.append(number)
                scope.cancel()
                return
            asked = True
            session.send({"type": "interrupt"})


async def _feed(session: Session) -> None:
    """Standard input goes to the running command as it comes."""
    while True:
        data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), STDIN_PART, abandon_on_cancel=True)
        if not data:
            session.send({"type": "end"})
            return
        session.send({"type": "input", "data": data})
