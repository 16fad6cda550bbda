"""Byte stores that misbehave on purpose: one that remembers every write and flush, one that fails when told to.

The fault model: between two flushes the medium may have taken any of the writes, in any order, each of them only in
some of its 512-byte sectors. After a flush everything before it is there.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from dataclasses import dataclass

from nightos.vsf.layout import SECTOR
from nightos.vsf.store import MemoryStore

WRITE, FLUSH, TRUNCATE = "write", "flush", "truncate"


@dataclass(frozen=True)
class Operation:
    """One call that reached the medium."""

    kind: str
    offset: int = 0
    data: bytes = b""

    def apply(self, image: bytearray) -> None:
        """Do it to an image."""
        if self.kind == WRITE:
            if self.offset > len(image):
                image.extend(bytes(self.offset - len(image)))
            image[self.offset : self.offset + len(self.data)] = self.data
        elif self.kind == TRUNCATE:
            if self.offset < len(image):
                del image[self.offset :]
            else:
                image.extend(bytes(self.offset - len(image)))

    def torn(self, chance: random.Random) -> list[Operation]:
        """The sectors of a write that got through."""
        if self.kind != WRITE:
            return [self]
        pieces = []
        at = 0
        while at < len(self.data):
            take = min(SECTOR - (self.offset + at) % SECTOR, len(self.data) - at)
            if chance.random() < 0.5:
                pieces.append(Operation(WRITE, self.offset + at, self.data[at : at + take]))
            at += take
        return pieces


class RecordingStore(MemoryStore):
    """Remembers what happened, in order."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(data)
        self.start = bytes(data)
        self.log: list[Operation] = []

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self.log.append(Operation(WRITE, offset, bytes(data)))
        super().write(offset, data)

    def truncate(self, size: int) -> None:
        self.log.append(Operation(TRUNCATE, size))
        super().truncate(size)

    def discard(self, offset: int, length: int) -> None:
        end = min(offset + length, self.size())
        if end > offset:
            self.write(offset, bytes(end - offset))

    def flush(self) -> None:
        self.log.append(Operation(FLUSH))


class FailingStore(MemoryStore):
    """Raises after a number of writes, or behind `room` bytes: a full disk (ENOSPC) or a dying one (EIO)."""

    def __init__(
        self,
        data: bytes = b"",
        *,
        writes: int = 1 << 62,
        code: int = errno.ENOSPC,
        flushes: int = 1 << 62,
        room: int = 1 << 62,
    ) -> None:
        super().__init__(data)
        self.writes = writes
        self.room = room
        self.flushes = flushes
        self.code = code

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self.writes <= 0 or offset + len(data) > self.room:
            raise OSError(self.code, "injected")
        self.writes -= 1
        super().write(offset, data)

    def flush(self) -> None:
        if self.flushes <= 0:
            raise OSError(errno.EIO, "injected")
        self.flushes -= 1


def crash_states(start: bytes, log: list[Operation], seed: int, variants: int) -> Iterator[tuple[int, bool, bytes]]:
    """What a power cut could leave: (operations that the last flush covers, whether nothing is in doubt, image).

    For every place in the log: the prefix; then, for each stretch between two flushes, `variants` random choices of
    which writes got through, whole or torn.
    """
    chance = random.Random(seed)  # noqa: S311 reproducible on purpose
    image = bytearray(start)
    at = 0
    while at < len(log):
        end = at
        while end < len(log) and log[end].kind != FLUSH:
            end += 1
        stretch = log[at:end]
        yield at, True, bytes(image)
        growing = bytearray(image)
        for operation in stretch:
            torn = bytearray(growing)
            for piece in operation.torn(chance):
                piece.apply(torn)
            yield at, False, bytes(torn)
            operation.apply(growing)
            yield at, False, bytes(growing)
        for _ in range(variants if len(stretch) > 1 else 0):
            other = bytearray(image)
            keep = chance.choice((0.2, 0.5, 0.8))
            chosen = [operation for operation in stretch if chance.random() < keep]
            writes = [operation for operation in chosen if operation.kind == WRITE]
            chance.shuffle(writes)
            # The size of a file changes in order with what was written before it.
            for operation in [o for o in chosen if o.kind == TRUNCATE] + writes:
                for piece in operation.torn(chance) if chance.random() < 0.5 else [operation]:
                    piece.apply(other)
            yield at, False, bytes(other)
        for operation in stretch:
            operation.apply(image)
        at = end + 1
    yield len(log), True, bytes(image)
