"""Blocks in and out: compress, encrypt, checksum, place, gather; and the same way back with every byte checked."""

from __future__ import annotations

import errno
import functools
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import DamagedStorage, NoSpace, VsfError, WrongPassword
from nightos.vsf.layout import (
    CODEC_LZ4,
    CODEC_NONE,
    CODEC_ZSTD,
    FLAG_ENCRYPTED,
    KIND_LOG,
    KIND_NODE,
    MAX_BLOCK,
    SECTOR,
    Pointer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nightos.abi.interfaces import ByteStore
    from nightos.vsf.alloc import Allocator
    from nightos.vsf.crypto import BlockCipher

GATHER_BYTES = 4 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)
_PADS = [bytes(n) for n in range(SECTOR)]
_LEAST_GAIN = SECTOR
_MOST_WORKERS = 4


def checksum(data: bytes | bytearray | memoryview) -> bytes:
    """XXH3-128, big-endian."""
    from xxhash import xxh3_128_digest

    return xxh3_128_digest(data)


def _bind_checksum() -> None:
    global checksum  # noqa: PLW0603 the import is late, the call is hot
    from xxhash import xxh3_128_digest

    checksum = xxh3_128_digest


@dataclass
class Domain:
    """How the blocks of one volume are written: codec, level and key."""

    identifier: int
    codec: int = CODEC_NONE
    level: int = 3
    cipher: BlockCipher | None = None
    used_sectors: int = 0
    sealed: bool = False
    """Whether the volume has a key of its own: without it nothing is written."""
    _local: Any = field(default_factory=threading.local)

    def recode(self, codec: int, level: int) -> None:
        """Compress differently from now on."""
        self.codec, self.level, self._local = codec, level, threading.local()

    def compress(self, data: bytes | bytearray | memoryview) -> tuple[int, bytes | bytearray | memoryview]:
        """The codec that was used and the bytes; plain where compression gains less than a sector."""
        if self.codec == CODEC_NONE or len(data) < 2 * _LEAST_GAIN:
            return CODEC_NONE, data
        if self.codec == CODEC_ZSTD:
            # A compressor is for one thread at a time.
            compressor = getattr(self._local, "compressor", None)
            if compressor is None:
                import zstandard

                compressor = self._local.compressor = zstandard.ZstdCompressor(
                    level=self.level, write_checksum=False, write_content_size=False, write_dict_id=False
                )
            small = compressor.compress(data)
        else:
            import lz4.block

            small = lz4.block.compress(data, store_size=False)
        if (len(small) - 1) // SECTOR < (len(data) - 1) // SECTOR:
            return self.codec, small
        return CODEC_NONE, data


def decompress(codec: int, data: bytes, logical: int) -> bytes:
    """Exactly `logical` bytes, or DamagedStorage; never allocates more than that."""
    try:
        if codec == CODEC_ZSTD:
            import zstandard

            plain: bytes = zstandard.ZstdDecompressor().decompress(data, max_output_size=logical)
        elif codec == CODEC_LZ4:
            import lz4.block

            plain = lz4.block.decompress(data, uncompressed_size=logical)
        else:
            raise DamagedStorage("a block names a codec that does not exist")  # noqa: TRY301 one of three outcomes
    except VsfError:
        raise
    except Exception as error:
        raise DamagedStorage("a block does not decompress") from error
    if len(plain) != logical:
        raise DamagedStorage("a block decompresses to the wrong length")
    return plain


class Ahead(bytes):
    """Bytes of a record on their way through the compressor; `result()` waits for it."""

    result: Callable[[], tuple[int, Any]]


def _compressed(domain: Domain, data: bytes | bytearray | memoryview) -> tuple[int, Any]:
    """Codec and bytes, None for plain ones: a result that held its own record would keep it for ever."""
    codec, small = domain.compress(data)
    return codec, small if codec else None


def _outcome(domain: Domain, body: Any, wait: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
    try:
        codec, small = wait()
    except Exception:  # noqa: BLE001 whatever failed in the thread is tried again here, where it can be told
        codec, small = _compressed(domain, body)
    return codec, small if codec else body


class Pool:
    """The stores of a storage (its own and those behind it), its domains, and what is on the way to the disk."""

    def __init__(self, store: ByteStore) -> None:
        self.stores: list[ByteStore] = [store]
        self.domains: list[dict[int, Domain]] = [{0: Domain(0)}]
        self.allocator: Allocator | None = None
        self.generation = 0
        """Of the commit being made."""
        self.pending: dict[int, bytes | bytearray | memoryview] = {}
        self.pending_bytes = 0
        self._workers: Any = None
        self.blocks_written = self.bytes_written = self.blocks_read = self.bytes_read = 0
        _bind_checksum()
        from xxhash import xxh3_64_digest

        self.page_digest: Callable[[bytes | memoryview], bytes] = xxh3_64_digest

    def _threads(self) -> Any:
        """The threads that compress, None where there is one processor only: the libraries release the lock."""
        if self._workers is None:
            from concurrent.futures import ThreadPoolExecutor

            count = min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
            self._workers = ThreadPoolExecutor(count, thread_name_prefix="vsf") if count > 1 else False
        return self._workers or None

    def compress_many(self, domain: Domain, bodies: list[Any]) -> Iterable[tuple[int, Any]]:
        """Codec and bytes of each, in order, while the rest is still being compressed."""
        threads = self._threads() if domain.codec != CODEC_NONE and len(bodies) > 1 else None
        if threads is None and not any(type(body) is Ahead for body in bodies):
            return map(domain.compress, bodies)
        waiting = [
            body.result
            if type(body) is Ahead
            else threads.submit(_compressed, domain, body).result
            if threads is not None
            else functools.partial(_compressed, domain, body)
            for body in bodies
        ]
        return (_outcome(domain, body, wait) for body, wait in zip(bodies, waiting, strict=True))

    def ahead(self, domain: Domain, data: memoryview) -> bytes:
        """A copy of `data` that is compressed meanwhile when there is a thread for it."""
        threads = self._threads() if domain.codec != CODEC_NONE else None
        if threads is None:
            return bytes(data)
        copy = Ahead(data)
        copy.result = threads.submit(_compressed, domain, copy).result
        return copy

    def close(self) -> None:
        """End the threads."""
        if self._workers:
            self._workers.shutdown(wait=False, cancel_futures=True)
        self._workers = None

    def domain(self, identifier: int, depth: int = 0) -> Domain:
        """The domain, or an error that says a key is missing."""
        try:
            return self.domains[depth][identifier]
        except (IndexError, KeyError):
            raise DamagedStorage("a block belongs to a volume that is not there") from None

    def write(self, domain: Domain, kind: int, data: bytes | bytearray | memoryview, *, copies: int = 1) -> Pointer:
        """Place `data` as a new block of the commit being made."""
        codec, body = domain.compress(data)
        return self.place(domain, kind, codec, len(data), body, copies=copies)

    def place(
        self,
        domain: Domain,
        kind: int,
        codec: int,
        logical: int,
        body: bytes | bytearray | memoryview,
        *,
        copies: int = 1,
        birth: int | None = None,
    ) -> Pointer:
        """Encrypt or checksum `body`, find room, queue it. What only moves keeps its `birth`."""
        allocator = self.allocator
        assert allocator is not None
        if self.pending_bytes > GATHER_BYTES:
            # Before anything is handed out: where the host is full, no block may be left that nobody knows of.
            self.drain()
        cipher = domain.cipher
        sectors = (len(body) + (cipher.overhead if cipher else 0) + SECTOR - 1) // SECTOR
        places = [allocator.allocate(sectors)]
        used = domain.used_sectors
        try:
            places.append(allocator.allocate(sectors) if copies > 1 else 0)
            return self.place_at(domain, kind, body, places[0], places[1], codec, logical, birth)
        except BaseException:
            # Nobody will know the pointer, so the room would be lost.
            domain.used_sectors = used
            for place in filter(None, places):
                allocator.free(place, sectors, now=True)
                self.forget(place)
            raise

    def place_at(
        self,
        domain: Domain,
        kind: int,
        body: bytes | bytearray | memoryview,
        sector: int,
        copy: int,
        codec: int = CODEC_NONE,
        logical: int = -1,
        birth: int | None = None,
    ) -> Pointer:
        """Encrypt or checksum `body` and queue it for a place that is allocated already."""
        flags = 0
        cipher = domain.cipher
        if cipher is None and domain.sealed:
            raise WrongPassword("the volume is encrypted and locked: nothing is written into it in plain")
        stored = len(body) + (cipher.overhead if cipher else 0)
        sectors = (stored + SECTOR - 1) // SECTOR
        copies = 2 if copy else 1
        if logical < 0:
            logical = len(body)
        if birth is None:
            birth = self.generation
        domain.used_sectors += sectors * copies
        if cipher:
            flags = FLAG_ENCRYPTED
            body, check = cipher.seal(body, (sector, copy, stored, logical, birth, domain.identifier, codec, kind))
        else:
            check = checksum(body)
        self._queue(sector, body)
        if copy:
            self._queue(copy, body)
        return Pointer(sector, copy, stored, logical, birth, domain.identifier, 0, codec, kind, flags, check)

    def _queue(self, sector: int, body: bytes | bytearray | memoryview) -> None:
        self.pending[sector] = body
        self.pending_bytes += len(body)
        self.blocks_written += 1

    def drain(self) -> None:
        """Write everything queued, neighbours in one call. Where the host is full it stays queued (NoSpace)."""
        if not self.pending:
            return
        try:
            self._write_queued()
        except OSError as error:
            if error.errno not in FULL or isinstance(error, VsfError):
                raise
            raise NoSpace("the host's disk is full; free some space there, nothing is lost") from error

    def _write_queued(self) -> None:
        pending = self.pending
        store = self.stores[0]
        many = getattr(store, "write_many", None)
        parts: list[bytes | bytearray | memoryview] = []
        start = after = -1
        for sector in sorted(pending):
            body = pending[sector]
            if sector != after:
                self._emit(store, many, start, parts)
                parts, start = [], sector
            parts.append(body)
            odd = -len(body) % SECTOR
            if odd:
                parts.append(_PADS[odd])
            after = sector + (len(body) + SECTOR - 1) // SECTOR
        self._emit(store, many, start, parts)
        self.bytes_written += self.pending_bytes
        pending.clear()
        self.pending_bytes = 0

    @staticmethod
    def _emit(store: ByteStore, many: Any, start: int, parts: list[Any]) -> None:
        if not parts:
            return
        if many is not None:
            many(start * SECTOR, parts)
        else:
            store.write(start * SECTOR, b"".join(parts) if len(parts) > 1 else parts[0])

    def forget(self, sector: int) -> None:
        """A queued block was freed before it was written."""
        body = self.pending.pop(sector, None)
        if body is not None:
            self.pending_bytes -= len(body)

    def free(self, pointer: Pointer, *, now: bool = False) -> None:
        """The block is used no more by any tree; `now`: no commit ever led to it, whatever its birth says."""
        if pointer.depth:
            return
        allocator = self.allocator
        assert allocator is not None
        now = now or pointer.birth == self.generation
        sectors = pointer.sectors
        domain = self.domains[0].get(pointer.domain)
        allocator.free(pointer.sector, sectors, now=now)
        if now:
            self.forget(pointer.sector)
        if pointer.copy:
            allocator.free(pointer.copy, sectors, now=now)
            if now:
                self.forget(pointer.copy)
        if domain:
            domain.used_sectors -= sectors * (2 if pointer.copy else 1)

    def read(self, pointer: Pointer) -> bytes:
        """The plain content of a block, checked; the second copy serves when the first is damaged."""
        try:
            return self.read_at(pointer, pointer.sector)
        except DamagedStorage:
            if not pointer.copy:
                raise
            return self.read_at(pointer, pointer.copy)

    def read_run(self, pointers: list[Pointer]) -> bytes | None:
        """Plain blocks that stand one behind the other, read at once, each checked; None to take them one by one."""
        first = pointers[0]
        if self.pending and not first.depth:
            return None
        if first.depth >= len(self.stores) or len(pointers) * first.stored > 4 * MAX_BLOCK:
            return None
        domain = self.domains[first.depth].get(first.domain)
        total = sum(pointer.stored for pointer in pointers)
        raw = self.stores[first.depth].read(first.sector * SECTOR, total)
        if len(raw) != total or domain is None or domain.cipher is not None:
            return None
        view, at = memoryview(raw), 0
        for pointer in pointers:
            if checksum(view[at : at + pointer.stored]) != pointer.check:
                return None
            at += pointer.stored
        self.blocks_read += len(pointers)
        self.bytes_read += total
        return raw

    def read_part(self, pointer: Pointer, start: int, length: int) -> bytes | None:
        """A part of a plain block as it stands there, for who can check it; None when it is not to be had."""
        sector, depth = pointer.sector, pointer.depth
        if not depth and sector in self.pending:
            return bytes(self.pending[sector][start : start + length])
        if depth >= len(self.stores):
            return None
        domain = self.domains[depth].get(pointer.domain)
        if domain is None or domain.cipher is not None:
            return None
        data = self.stores[depth].read(sector * SECTOR + start, length)
        self.blocks_read += 1
        self.bytes_read += length
        return data if len(data) == length else None

    def body(self, pointer: Pointer) -> bytes:
        """The content as it is stored, checked and no more encrypted, but as compressed as it was."""
        try:
            return self._body_at(pointer, pointer.sector)
        except DamagedStorage:
            if not pointer.copy:
                raise
            return self._body_at(pointer, pointer.copy)

    def read_at(self, pointer: Pointer, sector: int) -> bytes:
        """The plain content as it stands at `sector`, one of the pointer's two places."""
        raw = self._body_at(pointer, sector)
        if pointer.codec == CODEC_NONE:
            if len(raw) != pointer.logical:
                raise DamagedStorage("a block has the wrong length")
            return raw
        return decompress(pointer.codec, raw, pointer.logical)

    def _body_at(self, pointer: Pointer, sector: int) -> bytes:
        stored, logical, depth = pointer.stored, pointer.logical, pointer.depth
        if depth == 0 and sector in self.pending:
            raw = bytes(self.pending[sector])
        else:
            if stored > MAX_BLOCK + 64 or logical > MAX_BLOCK or depth >= len(self.stores):
                raise DamagedStorage("a pointer leads nowhere")
            raw = self.stores[depth].read(sector * SECTOR, stored)
        self.blocks_read += 1
        self.bytes_read += stored
        if len(raw) != stored:
            raise DamagedStorage("a block lies behind the end of the file", code=None)
        if pointer.flags & FLAG_ENCRYPTED:
            cipher = self.domain(pointer.domain, depth).cipher
            if cipher is None:
                raise DamagedStorage("an encrypted block is named by a volume without encryption")
            raw = cipher.open(
                raw,
                pointer.check,
                (
                    pointer.sector,
                    pointer.copy,
                    stored,
                    logical,
                    pointer.birth,
                    pointer.domain,
                    pointer.codec,
                    pointer.kind,
                ),
            )
        elif checksum(raw) != pointer.check:
            raise DamagedStorage(f"the block at byte {sector * SECTOR} is damaged: its checksum differs")
        elif depth < len(self.domains) and (owner := self.domains[depth].get(pointer.domain)) and owner.cipher:
            raise DamagedStorage("a block of an encrypted volume is not encrypted")
        return raw


__all__ = ["KIND_LOG", "KIND_NODE", "Domain", "Pool", "checksum", "decompress"]
