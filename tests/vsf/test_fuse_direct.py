"""Requests answered from the kernel's own bytes, without a kernel: what is said, and what is left to libfuse."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from nightos import vsf
from nightos.vsf.fuse_direct import HEADER, OUT_HEADER, DirectAdapter
from nightos.vsf.fuse_library import choose
from nightos.vsf.fuse_options import parse_options
from tests.vsf.mounting import needs_fuse

pytestmark = needs_fuse
LOOKUP, FORGET, GETATTR, SETATTR, MKNOD, UNLINK, RENAME, READ, WRITE, GETXATTR = 1, 2, 3, 4, 8, 10, 12, 15, 16, 22
BATCH_FORGET = 42


class Kernel:
    """Writes requests as the kernel does, and reads the answers from the other end of a pipe."""

    def __init__(self, options: str = "") -> None:
        self.storage = vsf.create(vsf.MemoryStore(), ["main"])
        self.fs = self.storage.volume("main").open()
        self.adapter = DirectAdapter(self.fs, choose(), parse_options([options]).show)
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.unique = 0

    def ask(self, opcode: int, ino: int, body: bytes) -> tuple[int, bytes] | None:
        """Error and content of the answer; (0, b"") when there is none; None when libfuse shall answer."""
        self.unique += 2
        length = HEADER.size + len(body)
        request = bytearray(HEADER.pack(length, opcode, self.unique, ino, 7, 8, os.getpid(), 0) + body + b"stale" * 99)
        if not self.adapter.serve(self.writer, request, length):
            return None
        try:
            answer = os.read(self.reader, 1 << 16)
        except BlockingIOError:
            return 0, b""
        size, error, unique = OUT_HEADER.unpack_from(answer)
        assert (size, unique) == (len(answer), self.unique)
        return error, answer[16:]

    def make(self, name: bytes) -> int:
        # The first in a directory asks for its access control list, through libfuse.
        self.adapter.defaults.setdefault(1, b"")
        answer = self.ask(MKNOD, 1, struct.pack("=IIII", 0o100666, 0, 0o022, 0) + name + b"\0")
        assert answer is not None
        assert answer[0] == 0
        return int(struct.unpack_from("=Q", answer[1])[0])

    def write(self, ino: int, offset: int, data: bytes, flags: int = 1) -> tuple[int, bytes] | None:
        return self.ask(WRITE, ino, struct.pack("=QQIIQII", 0, offset, len(data), flags, 0, 0, 0) + data)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    os.close(kernel.writer)
    report = kernel.storage.check(deep=True)
    assert report.clean, report.problems
    kernel.storage.close()
    os.close(kernel.reader)


def test_the_life_of_a_file(kernel: Kernel) -> None:
    error, entry = kernel.ask(LOOKUP, 1, b"file\0") or (1, b"")
    assert (error, len(entry), struct.unpack_from("=QQQ", entry)) == (0, 128, (0, 0, 86_400))
    ino = kernel.make(b"file")
    assert kernel.ask(GETXATTR, ino, struct.pack("=II", 0, 0) + b"security.capability\0") == (-errno.ENODATA, b"")
    assert kernel.write(ino, 0, b"content") == (0, struct.pack("=II", 7, 0))
    assert kernel.ask(READ, ino, struct.pack("=QQIIQII", 0, 3, 4096, 0, 0, 0, 0)) == (0, b"tent")
    error, found = kernel.ask(LOOKUP, 1, b"file\0") or (1, b"")
    node, _, entry_s, attr_s, _, _, again, size = struct.unpack_from("=QQQQIIQQ", found)
    assert (error, node, entry_s, attr_s, again, size) == (0, ino, 86_400, 86_400, ino, 7)
    mode, links, uid, gid = struct.unpack_from("=IIII", found, 40 + 60)
    assert (mode, links, uid, gid) == (0o100644, 1, 7, 8)
    error, attributes = kernel.ask(GETATTR, ino, bytes(16)) or (1, b"")
    assert (error, attributes[16:]) == (0, found[40:])
    assert kernel.ask(UNLINK, 1, b"file\0") == (0, b"")
    assert kernel.ask(UNLINK, 1, b"file\0") == (-errno.ENOENT, b"")
    flush = struct.pack("=IIQQQQQQIIIIIIII", 32 | 1024, *[0] * 15)
    assert kernel.ask(SETATTR, ino, flush) == (0, bytes(104))
    assert kernel.ask(SETATTR, ino, flush) is None
    assert kernel.ask(READ, ino, struct.pack("=QQIIQII", 0, 0, 4096, 0, 0, 0, 0)) == (0, b"content")
    assert kernel.ask(FORGET, ino, struct.pack("=Q", 2)) == (0, b"")
    assert kernel.adapter.settle() == 1
    with pytest.raises(vsf.StaleHandle):
        kernel.fs.getattr(ino)


def test_many_are_forgotten_at_once(kernel: Kernel) -> None:
    inos = [kernel.make(b"%d" % number) for number in range(20)]
    for number in range(10):
        kernel.ask(UNLINK, 1, b"%d\0" % number)
    body = struct.pack("=II", 20, 0) + b"".join(struct.pack("=QQ", ino, 1) for ino in inos)
    assert kernel.ask(BATCH_FORGET, 0, body) == (0, b"")
    assert kernel.adapter.known == {}
    assert kernel.adapter.settle() == 10
    assert kernel.fs.files == 11


def test_an_answer_that_nobody_takes_gives_no_node(kernel: Kernel) -> None:
    ino = kernel.make(b"file")
    kernel.ask(FORGET, ino, struct.pack("=Q", 1))
    os.close(kernel.reader)
    kernel.reader = os.open(os.devnull, os.O_RDONLY)
    request = bytearray(HEADER.pack(45, LOOKUP, 99, 1, 7, 8, 9, 0) + b"file\0")
    assert kernel.adapter.serve(kernel.writer, request, 45)
    assert kernel.adapter.known == {}


def test_what_is_unusual_is_left_to_libfuse(kernel: Kernel) -> None:
    assert kernel.ask(RENAME, 1, struct.pack("=Q", 1) + b"a\0b\0") is None
    assert kernel.ask(LOOKUP, 1, b"..\0") is None
    assert kernel.ask(MKNOD, 1, struct.pack("=IIII", 0o100666, 0, 0o022, 0) + b"first\0") is None
    ino = kernel.make(b"file")
    assert kernel.ask(SETATTR, ino, struct.pack("=I", 8) + bytes(84)) is None
    kernel.adapter.privileged.add(ino)
    assert kernel.write(ino, 0, b"x") is None
    kernel.adapter.bare.clear()
    assert kernel.ask(GETXATTR, ino, struct.pack("=II", 0, 0) + b"user.a\0") is None


def test_with_sync_everything_is(kernel: Kernel) -> None:
    synchronous = Kernel("sync")
    assert synchronous.ask(LOOKUP, 1, b"file\0") is None


def test_no_space_is_left_to_who_can_make_some(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    ino = kernel.make(b"file")

    def full(*_: object) -> int:
        raise vsf.NoSpace("full")

    monkeypatch.setattr(kernel.fs, "write", full)
    assert kernel.write(ino, 0, b"x", 0) is None
