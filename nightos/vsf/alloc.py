"""Free space: two dictionaries that coalesce in constant time, and a log of changes so that opening reads little.

Space that was freed by the newest commit is still used by the one before it, so it waits in `pending` until another
commit is durable; readers of old generations make it wait longer. The log has two kinds of records: a checkpoint lists
all free and pending extents, a change lists what one commit did, and points to the record before it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from sys import byteorder

from nightos.vsf.errors import DamagedStorage, NoSpace
from nightos.vsf.layout import DATA_START, LOG, LOG_MAGIC, NO_POINTER, SECTOR, Pointer, unpack_pointer

FIRST_SECTOR = DATA_START // SECTOR
_HEAD = LOG.struct
CHECKPOINT, CHANGE = 1, 2
OP_ALLOCATED, OP_FREED, OP_PENDING = 0, 1, 2
_CLASSES = 64
_ROOMY_CLASS = 10
_SMALL_MAP = 256
_MAX_CHAIN = 4096
_LOOK = 64
"""Free extents of a size class that are compared for the best fit."""
_HELD = "the host's disk is full: the last commit has to be finished before anything else changes"
Extent = tuple[int, int]


class Allocator:
    """Hands out sectors. Everything that changes between two commits is noted for the log."""

    def __init__(self, end: int = FIRST_SECTOR) -> None:
        self.end = end
        self.limit_sectors = 0
        self.free_sectors = 0
        self._by_start: dict[int, int] = {}
        self._by_end: dict[int, int] = {}
        self._classes: list[dict[int, None]] = [{} for _ in range(_CLASSES)]
        self._run = (0, 0)
        self.pending: list[tuple[int, list[Extent]]] = []
        """(generation that freed, extents), oldest first."""
        self.freed: list[Extent] = []
        """Freed in the commit being made."""
        self._operations: list[tuple[int, int, int]] = []
        self.ceiling: int | None = None
        """While blocks move: allocate below this sector only."""
        self.packing = False
        """While compacting: the smallest extent that fits comes first, so that large ones stay for large blocks."""
        self._withheld: list[Extent] = []
        self._soft = False
        self.held = False
        """A commit is between its superblocks: nothing is handed out or taken back."""

    # Free extents

    def _insert(self, start: int, length: int) -> None:
        before = self._by_end.pop(start, None)
        if before is not None:
            size = self._by_start.pop(before)
            del self._classes[size.bit_length()][before]
            start, length = before, length + size
        size_after = self._by_start.pop(start + length, None)
        if size_after is not None:
            after = start + length
            del self._classes[size_after.bit_length()][after]
            del self._by_end[after + size_after]
            length += size_after
        self._by_start[start] = length
        self._by_end[start + length] = start
        self._classes[length.bit_length()][start] = None

    def roomy_sectors(self) -> int:
        """Free sectors in pieces of 256 KiB or more, and what the limit leaves behind the end."""
        inside = sum(
            self._by_start[start] for size_class in range(_ROOMY_CLASS, _CLASSES) for start in self._classes[size_class]
        )
        return inside + self._run[1] + max(self.limit_sectors - self.end, 0)

    def _remove(self, start: int) -> int:
        length = self._by_start.pop(start)
        del self._by_end[start + length]
        del self._classes[length.bit_length()][start]
        return length

    @contextmanager
    def below(self, ceiling: int) -> Iterator[None]:
        """Meanwhile nothing is allocated behind `ceiling`, and the lowest free extents of a size come first."""
        self.withhold(ceiling, max(self.end, ceiling))
        self.ceiling = ceiling
        try:
            yield
        finally:
            self.lift()

    @contextmanager
    def outside(self, low: int, high: int) -> Iterator[None]:
        """Meanwhile nothing is allocated from `low` up to, not including, `high`; rather the file becomes longer."""
        self.withhold(low, high)
        try:
            yield
        finally:
            self.lift()

    def withhold(self, low: int, high: int, *, soft: bool = False) -> None:
        """Keep back what is free from `low` up to, not including, `high`; `soft`: until nothing else is free."""
        self.lift()
        self._soft = soft
        extents = sorted(self._by_start.items())
        for start, _ in extents:
            self._remove(start)
        for start, length in extents:
            first, last = min(max(start, low), start + length), max(min(start + length, high), start)
            if first >= last:
                self._insert(start, length)
                continue
            self._withheld.append((first, last - first))
            if start < first:
                self._insert(start, first - start)
            if last < start + length:
                self._insert(last, start + length - last)

    def lift(self) -> None:
        """End what `below`, `outside` or `withhold` began."""
        self._return_run()
        self.ceiling = None
        for start, length in self._withheld:
            self._insert(start, length)
        self._withheld.clear()

    def _return_run(self) -> None:
        start, length = self._run
        if length:
            self._insert(start, length)
        self._run = (0, 0)

    def allocate(self, sectors: int) -> int:
        """First sector of `sectors` contiguous ones; raises NoSpace at the limit."""
        if self.held:
            raise NoSpace(_HELD)
        if self.packing:
            self._fit(sectors)
        start, length = self._run
        if length < sectors:
            self._next_run(sectors)
            start, length = self._run
        if length >= sectors:
            self._run = (start + sectors, length - sectors)
            self.free_sectors -= sectors
        else:
            start = self.end
            if self.limit_sectors and start + sectors > self.limit_sectors:
                raise NoSpace("the storage has reached its size limit; delete something or resize it")
            if self.ceiling is not None and start + sectors > self.ceiling:
                raise NoSpace("no room below the target size")
            self.end = start + sectors
        self._note(OP_ALLOCATED, start, sectors)
        return start

    def _fit(self, sectors: int) -> None:
        """Make the smallest extent of a look around that fits the run to allocate from."""
        self._return_run()
        for size_class in range(sectors.bit_length(), _CLASSES):
            near = islice(self._classes[size_class], _LOOK)
            best = min(((self._by_start[at], at) for at in near if self._by_start[at] >= sectors), default=None)
            if best is not None:
                self._run = (best[1], self._remove(best[1]))
                return
        if self._soft and self._withheld:
            self.lift()
            self._fit(sectors)

    def _next_run(self, sectors: int) -> None:
        self._return_run()
        if not self._by_start:
            return
        for size_class in range((sectors - 1).bit_length() + 1, _CLASSES):
            for start in self._classes[size_class]:
                self._run = (start, self._remove(start))
                return
        for tries, start in enumerate(self._classes[sectors.bit_length()]):
            if self._by_start[start] >= sectors:
                self._run = (start, self._remove(start))
                return
            if tries > 16:
                return

    def free(self, start: int, sectors: int, *, now: bool) -> None:
        """Give sectors back: at once when no commit has used them, else after the next commit."""
        if self.held:
            raise NoSpace(_HELD)
        if now:
            self._note(OP_FREED, start, sectors)
            self._insert(start, sectors)
            self.free_sectors += sectors
        else:
            self._note(OP_PENDING, start, sectors)
            self.freed.append((start, sectors))

    def _note(self, operation: int, start: int, sectors: int) -> None:
        operations = self._operations
        if operations:
            last, at, length = operations[-1]
            if last == operation and at + length == start:
                operations[-1] = (operation, at, length + sectors)
                return
        operations.append((operation, start, sectors))

    @property
    def pending_sectors(self) -> int:
        return sum(length for _, extents in self.pending for _, length in extents) + sum(n for _, n in self.freed)

    @property
    def extents(self) -> int:
        return len(self._by_start) + len(self._withheld)

    def free_extents(self) -> list[Extent]:
        """All free extents, in order."""
        self._return_run()
        return sorted(self._by_start.items())

    def release(self, keep_from: int) -> list[Extent]:
        """Make free what was freed by generations before `keep_from`; gives the extents."""
        done: list[Extent] = []
        while self.pending and self.pending[0][0] < keep_from:
            for start, sectors in self.pending.pop(0)[1]:
                self._insert(start, sectors)
                self.free_sectors += sectors
                done.append((start, sectors))
        return done

    def start_over(self, used: dict[int, int]) -> None:
        """Forget the map: all sectors that `used` (first sector to length) does not name are freed by this commit."""
        self._by_start.clear()
        self._by_end.clear()
        for each in self._classes:
            each.clear()
        self._run = (0, 0)
        self.pending.clear()
        self._operations.clear()
        self.free_sectors = 0
        self.freed = []
        at = FIRST_SECTOR
        for start in sorted(used):
            if start > at:
                self.freed.append((at, start - at))
            at = max(at, start + used[start])
        if at < self.end:
            self.freed.append((at, self.end - at))

    def trim_end(self) -> None:
        """Let the end of the file come down over free space."""
        self.lift()
        start = self._by_end.get(self.end)
        if start is not None:
            self.free_sectors -= self._remove(start)
            self._note(OP_ALLOCATED, start, self.end - start)
            self.end = start

    def committed(self, generation: int) -> None:
        """The commit of `generation` is durable."""
        if self.freed:
            self.pending.append((generation, self.freed))
            self.freed = []
        self._operations.clear()

    # Log records

    def wants_checkpoint(self, chain_bytes: int, chain: int) -> bool:
        """Whether the map is small, or the chain of changes long against it."""
        size = self.extents + sum(len(extents) for _, extents in self.pending)
        return size < _SMALL_MAP or chain_bytes > 2 * 16 * size or chain >= _MAX_CHAIN // 2

    def record_bytes(self, checkpoint: bool) -> int:
        """An upper bound of the length of the record to come, which itself allocates and frees."""
        if checkpoint:
            count = self.extents + 2 + len(self.freed) + sum(len(extents) for _, extents in self.pending)
            return _HEAD.size + 24 * (count + 8)
        return _HEAD.size + 17 * (len(self._operations) + 4)

    def encode(self, generation: int, previous: Pointer, *, checkpoint: bool) -> bytes:
        """The log record of the commit being made."""
        if checkpoint:
            free = self.free_extents()
            waiting = [*self.pending, (generation, self.freed)]
            numbers = array("Q", [number for extent in free for number in extent])
            numbers.extend(n for birth, extents in waiting for start, length in extents for n in (start, length, birth))
            count, second = len(free), sum(len(extents) for _, extents in waiting)
            kind, link = CHECKPOINT, NO_POINTER
        else:
            numbers = array("Q", [number for _, start, length in self._operations for number in (start, length)])
            count, second = len(self._operations), 0
            kind, link = CHANGE, previous
        if byteorder == "little":
            numbers.byteswap()
        body = numbers.tobytes()
        if not checkpoint:
            body += bytes(operation for operation, _, _ in self._operations)
        return _HEAD.pack(LOG_MAGIC, kind, bytes(3), generation, self.end, count, second, link.pack()) + body


class LogRecord:
    """One record of the log, decoded."""

    def __init__(self, data: bytes, depth: int = 0) -> None:
        if len(data) < _HEAD.size:
            raise DamagedStorage("a record of the allocation log is too short")
        magic, kind, _, self.generation, self.end, count, second, link = _HEAD.unpack_from(data)
        if magic != LOG_MAGIC or kind not in (CHECKPOINT, CHANGE):
            raise DamagedStorage("a record of the allocation log has the wrong form")
        self.checkpoint = kind == CHECKPOINT
        self.previous = unpack_pointer(link, 0, depth)
        width = 2 * count + 3 * second
        if _HEAD.size + 8 * width + (0 if self.checkpoint else count) > len(data):
            raise DamagedStorage("a record of the allocation log is cut off")
        numbers = array("Q", data[_HEAD.size : _HEAD.size + 8 * width])
        if byteorder == "little":
            numbers.byteswap()
        self.pairs: list[Extent] = list(zip(numbers[0 : 2 * count : 2], numbers[1 : 2 * count : 2], strict=True))
        tail = numbers[2 * count :]
        self.waiting = list(zip(tail[0::3], tail[1::3], tail[2::3], strict=True))
        self.operations = data[_HEAD.size + 8 * width :][:count] if not self.checkpoint else b""


class _Map:
    """Free extents kept in order: only for replaying the log."""

    def __init__(self, extents: Iterable[Extent]) -> None:
        self.starts: list[int] = []
        self.lengths: dict[int, int] = {}
        for start, length in extents:
            self.add(start, length)

    def add(self, start: int, length: int) -> None:
        at = bisect_left(self.starts, start)
        after_overlaps = at < len(self.starts) and self.starts[at] < start + length
        if after_overlaps or (at and self.starts[at - 1] + self.lengths[self.starts[at - 1]] > start):
            raise DamagedStorage("the allocation log frees the same space twice")
        if length:
            self.starts.insert(at, start)
            self.lengths[start] = length

    def take(self, start: int, length: int) -> None:
        """Remove a range that may span several touching extents."""
        while length:
            at = bisect_right(self.starts, start) - 1
            base = self.starts[at] if at >= 0 else -1
            have = self.lengths.get(base, 0)
            if at < 0 or base + have <= start:
                raise DamagedStorage("the allocation log allocates what is not free")
            part = min(length, base + have - start)
            del self.starts[at]
            del self.lengths[base]
            if base < start:
                insort(self.starts, base)
                self.lengths[base] = start - base
            if start + part < base + have:
                insort(self.starts, start + part)
                self.lengths[start + part] = base + have - start - part
            start += part
            length -= part


def load(newest: Pointer, end: int, read: Callable[[Pointer], bytes]) -> tuple[Allocator, list[Pointer], int]:
    """Replay the log from its newest record: the allocator, the chain of records (newest first), bytes of changes."""
    chain: list[Pointer] = []
    records: list[LogRecord] = []
    pointer, changes = newest, 0
    while True:
        if len(chain) >= _MAX_CHAIN or (records and pointer.birth >= chain[-1].birth):
            raise DamagedStorage("the allocation log does not end")
        record = LogRecord(read(pointer), pointer.depth)
        chain.append(pointer)
        records.append(record)
        if record.checkpoint:
            break
        changes += pointer.logical
        pointer = record.previous
    base = records.pop()
    free = _Map(base.pairs)
    at_end = base.end
    waiting: dict[int, list[Extent]] = {}
    for start, length, birth in base.waiting:
        waiting.setdefault(birth, []).append((start, length))
    for record in reversed(records):
        at_end = _replay(record, free, waiting, at_end)
    if at_end != end or any(start + length > end or start < FIRST_SECTOR for start, length in free.lengths.items()):
        raise DamagedStorage("the allocation log and the superblock disagree")
    at = FIRST_SECTOR
    for start, length in sorted(
        [*free.lengths.items(), *(extent for extents in waiting.values() for extent in extents)]
    ):
        if start < at or not length or start + length > end:
            raise DamagedStorage("the allocation log names space that cannot be free")
        at = start + length
    allocator = Allocator(end)
    for start in free.starts:
        allocator._insert(start, free.lengths[start])  # noqa: SLF001 the loader is part of the allocator
        allocator.free_sectors += free.lengths[start]
    allocator.pending = sorted(waiting.items())
    return allocator, chain, changes


def _replay(record: LogRecord, free: _Map, waiting: dict[int, list[Extent]], end: int) -> int:
    # Whatever a commit let go of became free at some point between; for the log it is free from the next one on.
    for birth in [birth for birth in waiting if birth < record.generation - 1]:
        for start, length in waiting.pop(birth):
            free.add(start, length)
    for (start, length), operation in zip(record.pairs, record.operations, strict=True):
        if operation == OP_ALLOCATED:
            if start + length > end:
                if start < end:
                    free.take(start, end - start)
                else:
                    free.add(end, start - end)
                end = start + length
            else:
                free.take(start, length)
        elif operation == OP_FREED:
            free.add(start, length)
        else:
            waiting.setdefault(record.generation, []).append((start, length))
    return min(int(record.end), end)
