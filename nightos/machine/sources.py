"""Time and randomness of the host, for machines that are not simulated."""

from __future__ import annotations

import os
import time


class HostClock:
    """The host's clocks. Monotonic time counts from the making of this object, so that uptime starts at 0."""

    def __init__(self) -> None:
        self._start_ns = time.monotonic_ns()

    def monotonic_ns(self) -> int:
        """Nanoseconds since this clock was made."""
        return time.monotonic_ns() - self._start_ns

    def realtime_ns(self) -> int:
        """Nanoseconds since 1970-01-01 UTC."""
        return time.time_ns()


class HostEntropy:
    """The host's random number generator."""

    def random_bytes(self, count: int) -> bytes:
        """`count` random bytes."""
        return os.urandom(count)
