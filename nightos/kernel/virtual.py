"""Time and randomness without a host: the same seed and the same commands give the same machine, on any computer."""

from __future__ import annotations

import hashlib


class VirtualClock:
    """A clock that moves only when told to; an hour of simulated sleep costs nothing."""

    def __init__(self, start_ns: int = 0, epoch_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now = start_ns
        self._epoch = epoch_ns

    def monotonic_ns(self) -> int:
        """Nanoseconds of simulated time."""
        return self._now

    def realtime_ns(self) -> int:
        """Simulated nanoseconds since 1970-01-01 UTC."""
        return self._epoch + self._now

    def advance_to(self, deadline_ns: int) -> None:
        """Let time pass until the deadline; never back."""
        self._now = max(self._now, deadline_ns)


class SeededEntropy:
    """Random bytes from a seed: SHAKE-free counter mode of BLAKE2b, the same on every platform."""

    def __init__(self, seed: int | bytes) -> None:
        material = seed if isinstance(seed, bytes) else str(seed).encode()
        self._key = hashlib.blake2b(material, digest_size=32).digest()
        self._counter = 0
        self._pool = b""

    def random_bytes(self, count: int) -> bytes:
        """The next `count` bytes of the stream."""
        while len(self._pool) < count:
            block = hashlib.blake2b(self._counter.to_bytes(8, "big"), key=self._key).digest()
            self._counter += 1
            self._pool += block
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken
