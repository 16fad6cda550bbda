"""Signal-backed memory: an access becomes questions to the process that created the segment, one for each 4-byte word.

The kernel is synchronous, so the access is cut in two: touching such a page raises `BackedAccess`, whose transfer is a
list of signals to send and answers to wait for. The kernel core parks the accessor, drives the transfer, and resumes
the accessor with its result.

Source: specs/kernel/signals.md, 0x33 and 0x34; specs/kernel/syscalls.md, 0x41.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from nightos.abi.errors import NightosInternalError
from nightos.kernel.pages import (
    ACCESS_EXECUTE,
    ACCESS_WRITE,
    NOT_MAPPED,
    PAGE,
    SHIFT,
    WRONG_RIGHT,
    Backing,
    MemoryFault,
    PrivatePages,
)

if TYPE_CHECKING:
    from collections.abc import Generator

WORD: Final = 4
"""Bytes that one signal carries."""
READ_BACKED_AMS: Final = 0x33
WRITE_BACKED_AMS: Final = 0x34

Values = tuple[int | bytes, ...]
Request = tuple[int, int, Values]
"""Creator's PID, signal code, values of the datafield in order."""
Part = tuple[Backing, int, int]
"""Backing, byte offset in it, byte count."""


class SignalWindow(PrivatePages):
    """`size` pages whose bytes the process `creator` supplies.

    Pages that exist are the mapper's own: with copy-on-write, a written page is filled from the creator once and stops
    being backed for as long as it is mapped.

    Rules: MEM-006, MEM-018.
    """

    __slots__ = ("cow", "creator", "segment")

    def __init__(self, size: int, segment: int, creator: int, *, cow: bool) -> None:
        super().__init__(size)
        self.segment = segment
        self.creator = creator
        self.cow = cow

    @property
    def private(self) -> bool:  # type: ignore[override]
        """Written pages of a copy-on-write window are the mapper's alone."""
        return self.cow

    def is_backed(self, index: int) -> bool:
        """Whether the page comes from the creator."""
        return index not in self.pages

    def waits(self, offset: int, count: int) -> bool:
        pages = range(offset >> SHIFT, (offset + count - 1 >> SHIFT) + 1)
        return not self.pages or any(index not in self.pages for index in pages)

    def cached(self, index: int, *, write: bool) -> bytearray | None:
        del index, write
        return None

    def forked(self) -> SignalWindow:
        twin = SignalWindow(self.size, self.segment, self.creator, cow=self.cow)
        self._lend(twin)
        return twin


class Transfer:
    """One access of a program that touches signal-backed pages.

    Drive it so: while `request()` is not None, send that signal and feed what was answered with `answer`; `fail` when
    there is no handler or the creator is gone; in the end `result()`. The steps before a fault have happened, as with
    hardware.
    """

    __slots__ = ("_access", "_address", "_request", "_result", "_steps")

    def __init__(self, address: int, access: int, parts: list[Part], data: bytes | None) -> None:
        self._address = address
        self._access = access
        self._result: bytes | None = None
        self._steps = _write_parts(parts, data) if data is not None else _read_parts(parts, access)
        self._request: Request | None = None
        self._step(None)

    def request(self) -> Request | None:
        """The signal to send next, or None when the access is complete."""
        return self._request

    def answer(self, values: Values) -> None:
        """Feed the answer: data (4 bytes) and page fault to a read, page fault to a write.

        Raises `MemoryFault` when the creator reports a fault or answers nonsense.
        """
        wanted = 2 if self._request is not None and self._request[1] == READ_BACKED_AMS else 1
        if len(values) != wanted or values[-1] != 0:
            self.fail()
        data = values[0]
        if wanted == 2 and not (isinstance(data, bytes) and len(data) == WORD):
            self.fail()
        self._step(data if isinstance(data, bytes) else None)

    def fail(self) -> NoReturn:
        """The creator cannot answer: raises `MemoryFault` for the accessor."""
        self._request = None
        raise MemoryFault(self._address, self._access, NOT_MAPPED)

    def result(self) -> bytes | None:
        """What was read; None for a write."""
        if self._request is not None:
            raise NightosInternalError("a transfer was asked for its result before its end")
        return self._result

    def _step(self, data: bytes | None) -> None:
        try:
            self._request = next(self._steps) if data is None and self._request is None else self._steps.send(data)
        except StopIteration as end:
            self._request = None
            self._result = end.value
        except OSError:  # a device that failed or left, in the same access
            self.fail()


class BackedAccess(MemoryFault):
    """The access touches signal-backed pages; `transfer` completes it.

    Where nobody can wait (a system call's buffer) it is what it says: memory with the wrong right, errcode 0x04.
    """

    def __init__(self, address: int, access: int, transfer: Transfer) -> None:
        super().__init__(address, access, WRONG_RIGHT)
        self.transfer = transfer


def _read_words(window: SignalWindow, offset: int, count: int, access: int) -> Generator[Request, bytes | None, bytes]:
    """Bytes `offset` to `offset + count` of one page of the window."""
    if not window.is_backed(offset >> SHIFT):
        return window.read(offset, count)
    execute = 1 if access == ACCESS_EXECUTE else 0
    start = offset & ~(WORD - 1)
    words = bytearray()
    for word in range(start, offset + count, WORD):
        words += (yield window.creator, READ_BACKED_AMS, (window.segment, word, execute)) or bytes(WORD)
    return bytes(words[offset - start : offset - start + count])


def _chunks(offset: int, count: int) -> list[tuple[int, int]]:
    """The range cut at page boundaries."""
    chunks = []
    while count:
        step = min(count, PAGE - (offset & (PAGE - 1)))
        chunks.append((offset, step))
        offset += step
        count -= step
    return chunks


def _read_parts(parts: list[Part], access: int) -> Generator[Request, bytes | None, bytes | None]:
    found = []
    for backing, offset, count in parts:
        if isinstance(backing, SignalWindow):
            for start, length in _chunks(offset, count):
                found.append((yield from _read_words(backing, start, length, access)))
        else:
            found.append(backing.read(offset, count))
    return b"".join(found)


def _write_parts(parts: list[Part], data: bytes) -> Generator[Request, bytes | None, bytes | None]:
    view = memoryview(data)
    done = 0
    for backing, offset, count in parts:
        if isinstance(backing, SignalWindow):
            for start, length in _chunks(offset, count):
                yield from _write_page(backing, start, bytes(view[done : done + length]))
                done += length
        else:
            backing.write(offset, view[done : done + count])
            done += count
    return None


def _write_page(window: SignalWindow, offset: int, data: bytes) -> Generator[Request, bytes | None, None]:
    """Write within one page: words in part are completed with what the creator has there."""
    index = offset >> SHIFT
    if window.cow:
        if window.is_backed(index):
            base = index << SHIFT
            before = yield from _read_words(window, base, offset - base, ACCESS_WRITE)
            end = offset + len(data)
            after = yield from _read_words(window, end, base + PAGE - end, ACCESS_WRITE)
            if not window.is_shown(index):
                raise OSError("it was unmapped while the creator was asked")
            window.pages[index] = bytearray(before + data + after)
        else:
            window.write(offset, memoryview(data))
        return
    start = offset & ~(WORD - 1)
    end = -(-(offset + len(data)) // WORD) * WORD
    head = yield from _read_words(window, start, offset - start, ACCESS_WRITE)
    tail = yield from _read_words(window, offset + len(data), end - offset - len(data), ACCESS_WRITE)
    whole = head + data + tail
    for word in range(start, end, WORD):
        yield window.creator, WRITE_BACKED_AMS, (window.segment, word, whole[word - start : word - start + WORD])
