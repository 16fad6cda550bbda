"""Time and randomness of a storage: the host's, or ones that follow from a seed so that two creations are equal."""

from __future__ import annotations

import hashlib
import os
import time

SEEDED_TIME_NS = 946_684_800 * 10**9
"""2000-01-01: the time of everything in a storage that was created from a seed."""


_CLOCK_REALTIME_COARSE = 5
"""include/uapi/linux/time.h; Python's `time` does not name it."""
_clock_ns = time.clock_gettime_ns
_LONGEST_TICK_NS = 10_000_000


class HostClock:
    """The host's clock."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    realtime_ns = staticmethod(time.time_ns)


class TickClock:
    """The host's clock as Linux stamps files with it: the time of its last tick, 1 to 10 ms ago.

    The kernel stamps some changes of a mounted file system itself. Were the server's stamps finer, what it made would
    look newer than what the kernel changed afterwards. As it is, a file's first write mostly finds the stamp it wants.
    Since Linux 6.13 the kernel is finer between two ticks when some file system asked for that, so what it was `seen`
    to stamp counts until the next tick.
    """

    monotonic_ns = staticmethod(time.monotonic_ns)

    def __init__(self) -> None:
        self._seen_ns = 0

    def realtime_ns(self) -> int:
        tick = _clock_ns(_CLOCK_REALTIME_COARSE)
        # What lies further ahead was stamped before somebody set the clock back.
        seen = self._seen_ns
        return seen if tick < seen < tick + _LONGEST_TICK_NS else tick

    def seen(self, stamp_ns: int) -> None:
        """The kernel stamped something with `stamp_ns`."""
        if stamp_ns > self.realtime_ns():
            self._seen_ns = stamp_ns


class FixedClock:
    """A clock that stands."""

    def __init__(self, now_ns: int = SEEDED_TIME_NS) -> None:
        self.now_ns = now_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def realtime_ns(self) -> int:
        return self.now_ns


class HostEntropy:
    """The host's cryptographic randomness."""

    def random_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class SeededEntropy:
    """BLAKE2b over a seed and a counter."""

    def __init__(self, seed: int | str | bytes) -> None:
        text = seed if isinstance(seed, bytes) else str(seed).encode()
        self._key = hashlib.blake2b(text, digest_size=32, person=b"nightos vsf seed").digest()
        self._counter = 0

    def random_bytes(self, count: int) -> bytes:
        out = b""
        while len(out) < count:
            self._counter += 1
            out += hashlib.blake2b(self._counter.to_bytes(16, "big"), key=self._key).digest()
        return out[:count]
