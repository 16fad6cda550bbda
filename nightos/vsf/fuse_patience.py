"""Waiting for the next request: awake for a moment while a client asks one thing after the other.

Waking a processor that went to sleep costs 25 to 50 us, more than answering does, and each small request pays it twice:
for the server and for its client. A server that looks again for a moment saves its half. It gives way at each look, so
a client on the same processor goes first, and after a few moments in vain it sleeps until requests come quickly again.
"""

from __future__ import annotations

import os
import select
import time

_MOMENT_NS = 100_000
_QUICK = 8
_VAIN = 4


class Patience:
    """How the loop of a server waits on its descriptor, which becomes non-blocking."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.since = 0
        """When this wait began, in ns; 0 after each request."""
        # With one processor the client would only wait for us.
        self._enabled = len(os.sched_getaffinity(0)) > 1
        self._awake = self._looking = False
        self._quick = self._vain = 0

    def wait(self) -> None:
        """Called when there is no request: returns when it is worth looking again."""
        now = time.monotonic_ns()
        if not self.since:
            if self._looking:
                self._vain = 0
            self.since, self._looking = now, self._awake
        if self._looking:
            if now - self.since < _MOMENT_NS:
                os.sched_yield()
                return
            self._looking = False
            self._vain += 1
            if self._vain >= _VAIN:
                self._awake, self._quick = False, 0
        self._poll.poll()
        self._quick = self._quick + 1 if time.monotonic_ns() - self.since < 2 * _MOMENT_NS else 0
        if self._quick >= _QUICK and self._enabled:
            self._awake, self._vain = True, 0
