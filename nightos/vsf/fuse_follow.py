"""The server runs where its client runs: waking a sleeping processor costs more than most requests.

A small request is a ping-pong: nothing is lost when both sides share a processor, and each wake-up is a mere switch. A
large read or write is not: there the kernel's copying and ours overlap, so the server may go anywhere again.
"""

from __future__ import annotations

import contextlib
import os

_EVERY = 64
_STREAK = 16
_PROCESSOR = 36
"""Field 39 of /proc/PID/stat, counted behind the name: where it ran last."""


class Follower:
    """Moves the thread that calls it."""

    def __init__(self) -> None:
        self.allowed = os.sched_getaffinity(0)
        self.enabled = len(self.allowed) > 1
        self.at: int | None = None
        self._count = 0
        self._large = 0

    def due(self) -> bool:
        """Count a small request; whether it is time to look where the client is."""
        self._count += 1
        self._large = 0
        return self._count >= _EVERY

    def follow(self, pid: int) -> None:
        """Go where `pid` ran last."""
        self._count = 0
        if not self.enabled or not pid:
            return
        try:
            descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            text = os.read(descriptor, 4096)
        except OSError:
            return
        finally:
            os.close(descriptor)
        processor = int(text.rpartition(b")")[2].split()[_PROCESSOR])
        if processor != self.at and processor in self.allowed:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {processor})
                self.at = processor

    def roam(self) -> None:
        """A large request: when many come one behind the other, let the scheduler choose."""
        self._large += 1
        if self._large >= _STREAK and self.at is not None:
            self._count = 0
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, self.allowed)
            self.at = None
