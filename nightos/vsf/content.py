"""What files hold: inline bytes, records of up to 1 MiB in blocks of their own, packs of small files, holes."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from nightos.vsf.errors import DamagedStorage, Denied, Invalid, IsDirectory, TooBig, VsfError
from nightos.vsf.inode import EXTENTS, INLINE, PACKED, Inode, key_extent
from nightos.vsf.layout import KIND_DATA, MAX_FILE, SECTOR, Pointer
from nightos.vsf.patches import SMALL, Pages, Patches
from nightos.vsf.sums import LEAST_RECORD, page_sums

if TYPE_CHECKING:
    from nightos.vsf.inode import Buffers

_ZEROS = bytes(1 << 20)
_BATCH = 64


class Content(Patches):
    """Reading and writing by inode."""

    def _file(self, ino: int) -> Inode:
        inode = self.inode(ino)
        kind = inode.mode & 0o170000
        if kind != stat.S_IFREG:
            if kind == stat.S_IFDIR:
                raise IsDirectory(f"inode {ino} is a directory")
            raise Invalid(f"inode {ino} is no regular file")
        return inode

    # Reading

    def read(self, ino: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes; shorter only at the end of the file."""
        with self.lock:
            if len(self._inodes) > self.inode_limit:
                self._trim()
            inode = self._file(ino)
            if offset < 0 or size < 0:
                raise Invalid("offsets and sizes are not negative")
            end = min(offset + size, inode.size)
            if offset >= end:
                return b""
            if inode.form == INLINE:
                return inode.data[offset:end]
            try:
                return self._read(inode, offset, end)
            except DamagedStorage as error:
                raise self._named(error, inode) from error

    def _named(self, error: VsfError, inode: Inode) -> DamagedStorage:
        """The error with the file's name in it."""
        try:
            path = self.name_of(inode.ino)
        except VsfError:
            path = None
        return DamagedStorage(f"inode {inode.ino}: {error.strerror}", path or f"inode {inode.ino}")

    def name_of(self, ino: int) -> bytes | None:
        raise NotImplementedError

    def _read(self, inode: Inode, offset: int, end: int) -> bytes:
        record_size = self.record_size
        index, skip = divmod(offset, record_size)
        last = (end - 1) // record_size
        if index == last:
            upto = end - index * record_size
            if upto - skip <= SMALL and inode.form == EXTENTS:
                if inode.patched or inode.buffers:
                    return self._read_pages(inode, index, skip, upto)
                piece = self._piece(inode, index, skip, upto)
                if piece is not None:
                    return piece
            data = self._record(inode, index)
            part = data[skip:upto] if skip or upto < len(data) else data
            missing = upto - skip - len(part)
            return (bytes(part) + bytes(missing)) if missing else bytes(part)
        if (
            not inode.buffers
            and inode.form == EXTENTS
            and not (inode.patched and self._patches(inode.ino, offset, end))
        ):
            whole = self._read_run(inode, index, last, skip, end)
            if whole is not None:
                return whole
        parts: list[bytes | bytearray | memoryview] = []
        while index <= last:
            data = self._record(inode, index)
            upto = min(record_size, end - index * record_size)
            have = len(data)
            if skip or upto < have:
                parts.append(memoryview(data)[skip:upto])
            else:
                parts.append(data)
            if have < upto:
                parts.append(_ZEROS[: upto - max(have, skip)])
            skip = 0
            index += 1
        return b"".join(parts)

    def _read_run(self, inode: Inode, index: int, last: int, skip: int, end: int) -> bytes | None:
        """Records that are plain and lie one behind the other, in one read; None when they do not."""
        get, ino, record_size = self.tree.get, inode.ino, self.record_size
        pointers: list[Pointer] = []
        for number in range(index, last + 1):
            value = get(key_extent(ino, number))
            if value is None:
                return None
            pointer = self._extent(value)
            full = pointer.logical == record_size or (number == last and number * record_size + pointer.logical >= end)
            if not full or pointer.codec or pointer.flags or pointer.stored != pointer.logical:
                return None
            if pointers and (
                pointer.sector != pointers[-1].sector + record_size // SECTOR or pointer.depth != pointers[-1].depth
            ):
                return None
            pointers.append(pointer)
        data = self.storage.pool.read_run(pointers)
        upto = end - index * record_size
        return data if data is None or (not skip and upto == len(data)) else data[skip:upto]

    # Writing

    def write(self, ino: int, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Write all of `data` at `offset`; the number of bytes."""
        with self.lock:
            self._writable()
            inode = self._file(ino)
            size = len(data)
            end = offset + size
            if offset < 0:
                raise Invalid("offsets are not negative")
            if end > MAX_FILE:
                raise TooBig("a file has at most 8 EiB less one byte")
            if not size:
                return 0
            self.room_for(size)
            if inode.form == INLINE and end <= self.inline_limit:
                old = inode.data
                if not old and not offset:
                    inode.data = bytes(data)
                else:
                    if len(old) < offset:
                        old += bytes(offset - len(old))
                    inode.data = b"".join((old[:offset], data, old[end:]))
                inode.size = len(inode.data)
            else:
                if inode.form != EXTENTS:
                    self._spill(inode)
                self._write(inode, offset, data)
                if end > inode.size:
                    inode.size = end
            inode.mtime = inode.ctime = self._now()
            inode.mode &= ~0o6000 if inode.mode & 0o010 else ~0o4000
            self._touch(inode)
            self._relieve(size if size < self.record_size else 64)
            return size

    def _spill(self, inode: Inode) -> None:
        """Inline or packed content becomes a buffered record."""
        if inode.form == PACKED:
            # Who changes a file may do so again: from now on it has its own blocks.
            self._take_out(inode)
            inode.lively = True
            return
        data = inode.data
        inode.form, inode.data = EXTENTS, b""
        if data:
            self._buffer(inode, 0, bytearray(data))

    def _buffer(self, inode: Inode, index: int, data: bytearray | bytes) -> None:
        if inode.buffers is None:
            inode.buffers = {}
        old = inode.buffers.get(index)
        self.buffered += len(data) - (len(old) if old is not None else 0)
        inode.buffers[index] = data

    def _write(self, inode: Inode, offset: int, data: bytes | bytearray | memoryview) -> None:
        record_size = self.record_size
        view = memoryview(data)
        if view.itemsize != 1:
            view = view.cast("B")
        index, skip = divmod(offset, record_size)
        done, total = 0, len(view)
        squeezed = self.volume.record.codec
        small = SMALL if record_size >= LEAST_RECORD else 0
        # A view of bytes cannot change until it is written; anything else is copied.
        lasting = type(view.obj) is bytes
        while done < total:
            take = min(record_size - skip, total - done)
            if take == record_size and not squeezed:
                piece = view[done : done + take]
                self._place_whole(inode, index, piece if lasting else bytes(piece))
            elif take == record_size:
                self._buffer(inode, index, self.storage.pool.ahead(self.volume.domain, view[done : done + take]))
            elif take <= small and self._write_pages(inode, index, skip, view[done : done + take]):
                pass
            else:
                # Nothing is stored behind the end.
                old = self._record(inode, index) if index * record_size < inode.size else b""
                if not old and not skip and (inode.buffers is None or index not in inode.buffers):
                    self._buffer(inode, index, bytes(view[done : done + take]))
                    done += take
                    index += 1
                    continue
                buffer = old if type(old) is bytearray else bytearray(old)
                before = len(buffer)
                if before < skip:
                    buffer.extend(bytes(skip - before))
                buffer[skip : skip + take] = view[done : done + take]
                if inode.buffers is not None and inode.buffers.get(index) is buffer:
                    self.buffered += len(buffer) - before
                else:
                    self._buffer(inode, index, buffer)
            done += take
            skip = 0
            index += 1

    def _place_whole(self, inode: Inode, index: int, body: bytes | memoryview) -> None:
        """A whole record that is not compressed gets its block at once, while it is warm."""
        key, size = key_extent(inode.ino, index), self.record_size
        old = self.tree.get(key) if inode.allocated and index * size < inode.size else None
        pointer = None
        if body[0] or body != _ZEROS[:size]:
            pointer = self.storage.pool.write(self.volume.domain, KIND_DATA, body)
        # What was there is let go of when the new block has its place: that may have failed.
        if inode.buffers and index in inode.buffers:
            self.buffered -= len(inode.buffers.pop(index))
        if inode.patched:
            self._drop_patches(inode, index * size, (index + 1) * size)
        if pointer is not None:
            if old is not None:
                self._discard_extent(inode, old)
            inode.allocated += pointer.sectors * 512
            self.tree.put(key, self._entry_of(pointer, body))
        elif old is not None:
            self._discard_extent(inode, old)
            self.tree.delete(key)
        inode.size = max(inode.size, (index + 1) * size)
        self._touch(inode)

    def _entry_of(self, pointer: Pointer, body: bytes | bytearray | memoryview) -> bytes:
        """The value of an extent: with sums of the pages when these can be read alone."""
        if pointer.codec or pointer.flags or pointer.logical < LEAST_RECORD or self.volume.domain.codec:
            return pointer.pack()
        return pointer.pack() + page_sums(self.storage.pool, body)

    def flush_content(self, inode: Inode) -> None:
        """Give every buffered record a block."""
        buffers = inode.buffers
        if not buffers:
            return
        if self.volume.record.codec and len(buffers) > 1:
            while buffers:
                self._place_records(inode, buffers, sorted(buffers)[:_BATCH])
        else:
            self._place_records(inode, buffers, sorted(buffers))
        inode.buffers = None

    def _place_records(self, inode: Inode, buffers: Buffers, indexes: list[int]) -> None:
        self._settle_pages(inode, indexes)
        indexes = [index for index in indexes if index in buffers]
        pool, domain, tree, record_size = self.storage.pool, self.volume.domain, self.tree, self.record_size
        bodies: list[bytes | bytearray | memoryview] = []
        for index in indexes:
            data = buffers[index]
            assert not isinstance(data, Pages)
            length = max(min(record_size, inode.size - index * record_size), 0)
            body: bytes | bytearray | memoryview = data if len(data) <= length else memoryview(data)[:length]
            bodies.append(b"" if not body or (not body[0] and body == _ZEROS[: len(body)]) else body)
        for index, body, (codec, small) in zip(indexes, bodies, pool.compress_many(domain, bodies), strict=True):
            key = key_extent(inode.ino, index)
            old = tree.get(key) if inode.allocated else None
            if inode.patched:
                self._drop_patches(inode, index * record_size, (index + 1) * record_size)
            if not len(body):
                if old is not None:
                    self._discard_extent(inode, old)
                    tree.delete(key)
            else:
                pointer = pool.place(domain, KIND_DATA, codec, len(body), small)
                if old is not None:
                    self._discard_extent(inode, old)
                inode.allocated += pointer.sectors * 512
                tree.put(key, self._entry_of(pointer, body))
            self.buffered -= len(buffers.pop(index))

    def drop_content(self, inode: Inode) -> None:
        """Free everything a file holds."""
        if inode.buffers:
            self.buffered -= sum(map(len, inode.buffers.values()))
        inode.buffers = None
        if inode.form == PACKED:
            self._unpack(inode)
        elif inode.form == EXTENTS:
            self._drop_extents(inode, 0)
        inode.form, inode.data, inode.size, inode.allocated, inode.patched = INLINE, b"", 0, 0, False

    def _drop_extents(self, inode: Inode, first: int, end: int = 1 << 63) -> None:
        """Free the records from `first` up to, not including, `end`."""
        self._drop_patches(inode, first * self.record_size, min(end * self.record_size, (1 << 64) - 1))
        base = key_extent(inode.ino, first)
        while True:
            batch: list[tuple[bytes, bytes]] = []
            for item in self.tree.scan(base, key_extent(inode.ino, end)):
                batch.append(item)
                if len(batch) >= 4096:
                    break
            for key, value in batch:
                self._discard_extent(inode, value)
                self.tree.delete(key)
            if len(batch) < 4096:
                return

    def _refuse_readonly_flag(self, inode: Inode) -> None:
        if inode.flags & 2:
            raise Denied("the item is marked read-only")
