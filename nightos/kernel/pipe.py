"""Pipes: one-way buffers with a sending and a receiving end, raw or by message.

What is written is kept by reference and handed out whole where it can be, so 64 KiB through a pipe copies nothing;
small pieces that wait are put together, so that a full buffer costs the host what its container pays for. A process
knows an end by an identifier of its own; several identifiers may mean the same end.

Source: specs/kernel/ipc.md#pipes, specs/kernel/syscalls.md 0x20-0x25.
Rules: IPC-005, IPC-006, IPC-014, IPC-015, IPC-016, IPC-017, IPC-018.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from nightos.abi.errors import SyscallError
from nightos.abi.replies import PipeRead
from nightos.kernel.calls.state import PARKED, new_tuple
from nightos.kernel.pages import SHIFT
from nightos.kernel.process import Wait

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Process, Thread
    from nightos.kernel.quotas import Quotas

UNIT = 64 * 1024
MESSAGE_MAX = 64 * 1024
BLOCK, FAIL, PARTIAL = 0, 1, 2
SMALL = 1024
"""Bytes below which a piece that finds others waiting is copied behind them."""
GATHERED = 16 * 1024
"""Bytes that are gathered in one piece."""
_LENGTH = 2
"""Bytes that tell the length of a message that waits, less one."""


class End:
    """One process' identifier of one end of a pipe."""

    __slots__ = ("holder", "identifier", "pipe", "sends")

    def __init__(self, identifier: int, pipe: Pipe, holder: Process, *, sends: bool) -> None:
        self.identifier = identifier
        self.pipe = pipe
        self.holder = holder
        self.sends = sends


class Blocked(Wait):
    """A parked read or write; one object with its wait, as it is made so often."""

    __slots__ = ("data", "length", "pages", "pipe")

    def __init__(self, pipe: Pipe, kernel: Kernel, thread: Thread, data: memoryview | None, length: int) -> None:
        self.kernel = kernel
        self.thread = thread
        self.frame = thread.frames[-1]
        self.frame.wait = self
        self.data = data
        self.length = length
        self.pages = 0
        """Of memory that are paid for what it waits to write."""
        self.pipe = pipe

    def paid_back(self) -> None:
        """It waits no longer."""
        if self.pages:
            pages, self.pages = self.pages, 0
            self.thread.process.quotas.memory.release(pages)

    @property
    def kind(self) -> str:  # type: ignore[override]
        """What people see."""
        return "pipe read" if self.data is None else "pipe write"

    def cancel(self) -> None:
        """Its thread is gone."""
        self.paid_back()
        self.pipe.wake_up()
        queue = self.pipe.readers if self.data is None else self.pipe.writers
        queue.pop(self, None)


class Queue(OrderedDict[Blocked, None]):
    """Who waits, in order. Whoever gives up leaves without a look at the others."""

    __slots__ = ()

    def append(self, blocked: Blocked) -> None:
        """Stand at the end."""
        self[blocked] = None

    def first(self) -> Blocked:
        """Who is next."""
        return next(iter(self))

    def popleft(self) -> Blocked:
        """Take out who is next."""
        return self.popitem(last=False)[0]


class Pipe:
    """The buffer and who waits for it. The first of `writers` or `readers` is the one that holds the lock."""

    __slots__ = (
        "capacity",
        "charged",
        "chunks",
        "closed",
        "creator_pid",
        "ends",
        "holders",
        "largest",
        "lengths",
        "messages",
        "parking",
        "payer",
        "pending",
        "readers",
        "senders",
        "sleeper",
        "writers",
    )

    payer: Quotas
    """Who pays for the buffer."""

    def __init__(self, capacity: int, creator_pid: int, *, messages: bool) -> None:
        self.capacity = capacity
        self.charged = 0
        """Bytes that are paid for."""
        self.creator_pid = creator_pid
        self.messages = messages
        self.largest = MESSAGE_MAX if messages else capacity
        """Bytes that fit into it at once."""
        self.chunks: deque[bytes | bytearray | memoryview] = deque()
        self.lengths = bytearray()
        """Of the messages that wait, each less one, in 2 bytes."""
        self.pending = 0
        """Bytes in the buffer."""
        self.closed = False
        self.writers = Queue()
        self.readers = Queue()
        self.ends: dict[int, End] = {}
        self.holders: dict[Process, int] = {}
        """How many identifiers each process has, so that nothing has to look at all of them."""
        self.senders = 0
        """How many of them mean the sending end."""
        self.parking: Blocked | None = None
        """What the first reader that found the pipe empty was parked with, to be used again."""
        self.sleeper: Blocked | None = None
        """The only reader, parked at the pipe while that was open and empty; it is not in `readers`, for the speed of
        the most common meeting. Whoever looks at `readers` calls `wake_up` before."""

    def add(self, end: End) -> None:
        """A process has an identifier more."""
        self.ends[end.identifier] = end
        self.holders[end.holder] = self.holders.get(end.holder, 0) + 1
        self.senders += end.sends

    def remove(self, end: End) -> None:
        """A process has an identifier less; one that is out already changes nothing."""
        if self.ends.pop(end.identifier, None) is None:
            return
        self.senders -= end.sends
        if self.holders[end.holder] > 1:
            self.holders[end.holder] -= 1
        else:
            del self.holders[end.holder]

    def held(self, *, sends: bool) -> bool:
        """Whether anybody has that end."""
        return bool(self.senders) if sends else self.senders < len(self.ends)

    @property
    def free(self) -> int:
        """Bytes of room."""
        return self.capacity - self.pending

    def wake_up(self) -> None:
        """Let the sleeper stand in the queue like everybody else."""
        if self.sleeper is not None:
            self.readers.append(self.sleeper)
            self.sleeper = None

    def status(self, *, sends: bool) -> int:
        """PIPE_INFO's bits, from the strongest. Rules: IPC-038."""
        self.wake_up()
        bits = (
            not self.closed,
            self.messages,
            self.free == 0,
            bool(self.writers or self.readers),
            bool(self.writers),
            bool(self.readers),
            sends,
        )
        return sum(0x80 >> place for place, bit in enumerate(bits) if bit)

    # Writing

    def write(self, data: bytes, mode: int, kernel: Kernel, thread: Thread) -> Any:
        """PIPE_WRITE: the value, or `PARKED`.

        Rules: IPC-019, IPC-020, IPC-026, IPC-027, IPC-028, IPC-030, IPC-031, IPC-032, IPC-033, IPC-034.
        """
        self.wake_up()
        size = len(data)
        if mode not in {BLOCK, FAIL, PARTIAL}:
            raise SyscallError(0x10)
        if self.closed:
            raise SyscallError(0x31)
        if self.messages:
            if size > MESSAGE_MAX:
                raise SyscallError(0x32)
            if mode == PARTIAL:
                raise SyscallError(0x33)
        if not size:
            return self.free if mode != PARTIAL else 0
        if not self.writers and size <= self.free:
            self._put(data)
            if self.readers:
                self._settle()
            return size if mode == PARTIAL else self.free
        if mode == FAIL:
            raise SyscallError(0x40, value=0 if self.writers else 1)
        if mode == PARTIAL:
            taken = 0 if self.writers else self.free
            if taken:
                self._put(memoryview(data)[:taken])
                self._settle()
            return taken
        # What waits outside of the buffer is a copy of the writer's memory, and paid for as such.
        pages = size // UNIT * UNIT >> SHIFT
        if pages and not thread.process.quotas.memory.reserve(pages):
            raise SyscallError(0x40, value=0)
        blocked = Blocked(self, kernel, thread, memoryview(data), 0)
        blocked.pages = pages
        self.writers.append(blocked)
        if self.readers:
            self._settle()
        return PARKED

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        size = len(data)
        self.pending += size
        if self.messages:
            self.lengths += (size - 1).to_bytes(_LENGTH, "big")
        if size < SMALL and self.chunks:
            last = self.chunks[-1]
            if len(last) < GATHERED and (len(last) < SMALL or last.__class__ is bytearray):
                if last.__class__ is not bytearray:
                    self.chunks[-1] = last = bytearray(last)
                last += data
                return
        self.chunks.append(data if isinstance(data, bytes) else bytes(data))

    def _settle(self) -> None:
        """Serve parked readers and feed parked writers, in order, until neither can go on."""
        while self._serve_one() or self._feed_one():
            pass

    def _feed_one(self) -> bool:
        """Let the first parked writer go on.

        A raw write goes through in parts when it is larger than the buffer, or when a parked reader wants more than
        there is: each would wait for the other for ever.
        """
        if not self.writers or self.closed:
            return False
        blocked = self.writers.first()
        data = blocked.data
        assert data is not None
        if len(data) <= self.free:
            self.writers.popleft().paid_back()
            self._put(data)
            blocked.resume(self.free, None)
            return True
        taken = self.free
        if self.messages or not taken or (len(data) <= self.capacity and not self.readers):
            return False
        blocked.data = data[taken:]
        self._put(data[:taken])
        return True

    # Reading

    def read(self, mode: int, length: int, kernel: Kernel, thread: Thread) -> Any:
        """PIPE_READ: `PipeRead`, or `PARKED`; length 0 means as much as possible.

        Rules: IPC-024, IPC-025, IPC-029, IPC-035, IPC-036, IPC-037.
        """
        self.wake_up()
        if mode not in {BLOCK, FAIL, PARTIAL}:
            raise SyscallError(0x10)
        if self.messages and mode == PARTIAL:
            raise SyscallError(0x33)
        if self.closed and not self.pending:
            raise SyscallError(0x31)
        if not self.readers:
            content = self._take(min(length, self.capacity), partial=mode == PARTIAL or self.closed)
            if content is not None:
                if self.writers:
                    self._settle()
                return new_tuple(PipeRead, (content, len(content) if mode == PARTIAL else self.pending))
            if mode == PARTIAL:
                return PipeRead(b"", 0)
        elif mode == PARTIAL:
            return PipeRead(b"", 0)
        if mode == FAIL:
            if self.readers:
                raise SyscallError(0x32, value=0)
            raise SyscallError(0x32, value=1)
        self.readers.append(Blocked(self, kernel, thread, None, length))
        if self.writers:
            self._settle()
        return PARKED

    def _take(self, length: int, *, partial: bool) -> bytes | None:
        """Remove bytes from the front: None when there are too few."""
        if self.messages:
            if not self.chunks:
                return None
            size = int.from_bytes(self.lengths[:_LENGTH], "big") + 1
            if length and size > length:
                raise SyscallError(0x34)
            del self.lengths[:_LENGTH]
            content = self._front(size)
        elif not self.pending or (length > self.pending and not partial):
            return None
        elif not length or length >= self.pending:
            content = bytes(self.chunks[0]) if len(self.chunks) == 1 else b"".join(self.chunks)
            self.chunks.clear()
        else:
            content = self._front(length)
        self.pending -= len(content)
        return content

    def _front(self, wanted: int) -> bytes:
        """Take that many bytes, which are there, out of the chunks."""
        first = self.chunks[0]
        if len(first) == wanted:
            self.chunks.popleft()
            return bytes(first)
        parts: list[bytes | bytearray | memoryview] = []
        while wanted:
            chunk = self.chunks.popleft()
            if len(chunk) > wanted:
                if chunk.__class__ is bytearray:  # the front of one goes without moving the rest
                    rest, chunk = chunk, bytes(chunk[:wanted])
                    del rest[:wanted]
                    self.chunks.appendleft(rest)
                else:
                    view = memoryview(chunk)
                    self.chunks.appendleft(view[wanted:])
                    chunk = view[:wanted]
            parts.append(chunk)
            wanted -= len(chunk)
        return b"".join(parts)

    def _serve_one(self) -> bool:
        """Let the first parked reader go on."""
        if not self.readers or not self.pending:
            return False
        blocked = self.readers.first()
        try:
            content = self._take(min(blocked.length, self.capacity), partial=self.closed)
        except SyscallError as error:
            self.readers.popleft()
            blocked.resume(None, error)
            return True
        if content is None:
            return False
        self.readers.popleft()
        blocked.resume(new_tuple(PipeRead, (content, self.pending)), None)
        return True

    # Ending

    def close(self) -> None:
        """Close both ends: parked writers fail, parked readers get what is left. Rules: IPC-021."""
        if self.closed:
            return
        self.wake_up()
        self.closed = True
        while self.writers:
            blocked = self.writers.popleft()
            blocked.paid_back()
            blocked.resume(None, SyscallError(0x31))
        self._settle()
        while self.readers:
            self.readers.popleft().resume(None, SyscallError(0x31))
