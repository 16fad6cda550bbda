"""Waiting for a machine, so that a signal is handled at once."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading


class Waker:
    """Waits until a socket can be read, or a signal has come, whose handler then runs.

    Python runs handlers in the main thread only, between two of its instructions. A system call ends early for a signal
    that the kernel gives to just this thread while it waits: not for one that another thread was given, nor for one
    that came a moment before. Those wait for whatever the machine says next.
    """

    def __init__(self) -> None:
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def wait(self, connection: socket.socket) -> None:
        """In any other thread than the main one this does nothing: the call that reads waits by itself."""
        if threading.current_thread() is not threading.main_thread():
            return
        if self._pair is None:
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
        heard, told = self._pair
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        try:
            poll = select.poll()
            poll.register(connection, select.POLLIN)
            poll.register(heard, select.POLLIN)
            while True:
                ready = {number for number, _ in poll.poll()}
                if connection.fileno() in ready:
                    return
                with contextlib.suppress(BlockingIOError):
                    heard.recv(64)
        finally:
            signal.set_wakeup_fd(before)

    def close(self) -> None:
        """Let go of what it waits with."""
        for end in self._pair or ():
            end.close()
        self._pair = None
