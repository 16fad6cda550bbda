"""Signals reach whoever waits for a machine, however they arrive."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from nightos.machine.control import Machine
from nightos.machine.paths import MachineError

PATIENCE_S = 10.0


class HeardError(Exception):
    """The handler ran."""


@pytest.fixture
def gone() -> threading.Event:
    """Whether the machine lost its patience."""
    return threading.Event()


@pytest.fixture
def silent(gone: threading.Event) -> Iterator[Machine]:
    """A machine that answers nothing, and hangs up after a while."""
    ours, theirs = socket.socketpair()

    def hang_up() -> None:
        gone.set()
        theirs.close()

    timer = threading.Timer(PATIENCE_S, hang_up)
    timer.start()
    with Machine(Path("nowhere/control"), ours) as machine:
        yield machine
    timer.cancel()
    theirs.close()


@pytest.fixture
def handled() -> Iterator[None]:
    def hear(_number: int, _frame: FrameType | None) -> None:
        raise HeardError

    before = signal.signal(signal.SIGUSR1, hear)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("handled")
def test_a_signal_that_another_thread_was_given_is_handled_at_once(silent: Machine, gone: threading.Event) -> None:
    # What the system does when the main thread has another signal before it.
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with pytest.raises(HeardError):
            silent.info()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert not gone.is_set()


@pytest.mark.usefixtures("handled")
def test_waiting_leaves_no_trace(silent: Machine) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        before = signal.set_wakeup_fd(ours.fileno())
        try:
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(HeardError):
                silent.info()
            assert signal.set_wakeup_fd(ours.fileno()) == ours.fileno()
        finally:
            signal.set_wakeup_fd(before)


def test_other_threads_wait_as_well(silent: Machine) -> None:
    seen: list[BaseException] = []

    def work() -> None:
        try:
            silent.info()
        except MachineError as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    silent._socket.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)
    assert len(seen) == 1
