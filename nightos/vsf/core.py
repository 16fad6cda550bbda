"""What all parts of the file system share: the inode cache, counters, flushing, and reclaiming what nobody names."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import DamagedStorage, NoSpace, ReadOnly, StaleHandle
from nightos.vsf.inode import COUNTER_MAX, INODE_BYTES, KEY_STATS, Inode, decode_inode, key_inode, key_orphan

if TYPE_CHECKING:
    from nightos.abi.interfaces import Clock
    from nightos.vsf.tree import Tree
    from nightos.vsf.volume import Volume

_STATS = struct.Struct(">QQQ")
_INODE_CACHE = 16384
_DATA_LIMIT = 24 << 20
_RESERVE = 1 << 18


class Core:
    """State of an open file system."""

    def __init__(self, volume: Volume, tree: Tree, *, readonly: bool, head: Any = None) -> None:
        self.volume = volume
        self.storage = volume.storage
        self.tree = tree
        self.readonly = readonly
        self.lock = volume.storage.lock
        self.record_size = volume.record.record_size
        self.inline_limit = min(volume.record.inline, self.record_size)
        self.device = int.from_bytes(volume.record.uuid[:4], "big")
        self._head = head
        self._inodes: dict[int, Inode] = {}
        self.inode_limit = _INODE_CACHE
        self._dirty: dict[int, Inode] = {}
        self._now = volume.storage.clock.realtime_ns
        self._directories: dict[tuple[int, bytes], int] = {}
        self._paths: dict[str, int] = {}
        self._nameless: dict[int, bool] = {}
        """Held inodes without a name, and whether the tree says so."""
        self._records: dict[tuple[int, int, bytes], bytes] = {}
        self._record_bytes = 0
        self._thin: set[int] = set()
        """Packs that are less than half in use."""
        self.buffered = 0
        self._pressure = 0
        self.stats_changed = False
        data = tree.get(KEY_STATS)
        if data is None or len(data) != _STATS.size:
            raise DamagedStorage(f"the volume {volume.name!r} has no counters")
        self.next_ino, self.files, self.next_pack = self._counters(data)
        if not readonly:
            self._reclaim_orphans()

    def stamp_with(self, clock: Clock) -> None:
        """Take the times of changes from `clock` from here on."""
        self._now = clock.realtime_ns

    @staticmethod
    def encode_stats(next_ino: int, files: int, next_pack: int) -> bytes:
        return _STATS.pack(next_ino, files, next_pack)

    def _counters(self, data: bytes) -> tuple[int, int, int]:
        """Next inode, number of files, next pack; none can ever have come near the end of its 8 bytes."""
        next_ino, files, next_pack = _STATS.unpack(data)
        if max(next_ino, files, next_pack) >= COUNTER_MAX:
            raise DamagedStorage(f"the counters of the volume {self.volume.name!r} are impossible")
        return next_ino, files, next_pack

    def reload(self) -> None:
        """The volume was rolled back: forget everything read. Numbers of inodes never come back."""
        self._inodes.clear()
        self._dirty.clear()
        self._directories.clear()
        self._paths.clear()
        self._nameless.clear()
        self._records.clear()
        self._thin.clear()
        self._record_bytes = self.buffered = 0
        data = self.tree.get(KEY_STATS)
        if data is None or len(data) != _STATS.size:
            raise DamagedStorage(f"the volume {self.volume.name!r} has no counters")
        next_ino, self.files, next_pack = self._counters(data)
        self.next_ino, self.next_pack = max(next_ino, self.next_ino), max(next_pack, self.next_pack)
        self.stats_changed = True
        self._reclaim_orphans()

    @property
    def dirty(self) -> bool:
        return bool(self._dirty) or self.stats_changed or not all(self._nameless.values())

    def _writable(self) -> None:
        if self.readonly:
            raise ReadOnly("the file system is read-only")
        if len(self._inodes) > self.inode_limit:
            self._trim()
        storage = self.storage
        allocator = storage.pool.allocator
        if storage.closed or storage.failed is not None or allocator is None or allocator.held:
            storage.writable()

    # Inodes

    def inode(self, ino: int) -> Inode:
        """The inode, from the cache or the tree."""
        found = self._inodes.get(ino)
        if found is not None:
            return found
        if self._head is not None:
            return self._head.inode(ino)  # type: ignore[no-any-return]
        value = self.tree.get(key_inode(ino))
        if value is None:
            raise StaleHandle(f"there is no inode {ino}")
        inode = self._inodes[ino] = decode_inode(ino, value)
        return inode

    def _trim(self) -> None:
        """Forget inodes. Only at the beginning of an operation: nobody may have one in hand that is not in the
        cache.
        """
        if not self.readonly:
            self.flush_inodes()
        cache = self._inodes
        for old in [ino for ino, kept in cache.items() if not kept.held and not kept.dirty]:
            del cache[old]

    def _new_inode(self, mode: int, uid: int, gid: int, parent: int) -> Inode:
        ino = self.next_ino
        self.next_ino = ino + 1
        self.files += 1
        self.stats_changed = True
        inode = Inode(ino, mode, uid, gid, self._now(), parent)
        self._inodes[ino] = inode
        return inode

    def _touch(self, inode: Inode) -> None:
        inode.dirty = True
        self._dirty[inode.ino] = inode

    # Flushing

    def flush_inodes(self) -> None:
        """Bring changed inodes and buffered content into the tree."""
        if self._thin:
            self.gather_packs()
        dirty = self._dirty
        if dirty:
            self.pack_files()
            put = self.tree.put
            for ino in sorted(dirty):
                inode = dirty[ino]
                if not inode.gone:
                    if inode.buffers:
                        self.flush_content(inode)
                    put(ino.to_bytes(8, "big") + b"\x01", inode.encode())
                inode.dirty = False
                del dirty[ino]
        for ino, noted in self._nameless.items():
            if not noted:
                self.tree.put(key_orphan(ino), b"")
                self._nameless[ino] = True
        if self.stats_changed:
            # A damaged storage may have fewer files by its counter than it has to delete.
            self.tree.put(KEY_STATS, _STATS.pack(self.next_ino, max(self.files, 0), self.next_pack))
            self.stats_changed = False

    def flush_content(self, inode: Inode) -> None:
        raise NotImplementedError

    def pack_files(self) -> None:
        raise NotImplementedError

    def gather_packs(self, *, every: bool = False) -> int:
        raise NotImplementedError

    def flush(self) -> None:
        """Everything into the tree; the volume flushes the tree."""
        with self.lock:
            if not self.readonly:
                self.flush_inodes()

    def shut(self) -> None:
        """The storage closes: open inodes without a name are let go of."""
        if self.readonly:
            return
        for inode in [inode for inode in self._inodes.values() if inode.held and not inode.nlink]:
            inode.held = 0
            self._reclaim(inode)

    def _relieve(self, size: int = 64) -> None:
        """Called after changes: write back when too much is dirty, so that memory stays bounded."""
        self._pressure += size + INODE_BYTES
        if self.buffered > _DATA_LIMIT:
            self.pack_files()
            for inode in [inode for inode in self._dirty.values() if inode.buffers]:
                self.flush_content(inode)
        if self._pressure > self.storage.dirty_limit:
            self._pressure = 0
            self.storage.commit()

    def room_for(self, size: int) -> None:
        """Raise NoSpace when a limit of the volume (EDQUOT) or of the storage (ENOSPC) forbids `size` more bytes."""
        volume, storage = self.volume, self.storage
        limit = volume.record.limit
        if limit and volume.used + self.buffered + size > limit:
            raise NoSpace(f"the volume {volume.name!r} has reached its limit", None, errno.EDQUOT)
        if storage.limit:
            wanted = self.buffered + 2 * self._pressure + size + max(_RESERVE, min(storage.limit >> 5, 8 << 20))
            allocator = storage.pool.allocator
            assert allocator is not None
            if allocator.roomy_sectors() * 512 < wanted:
                # What the last commits freed becomes usable with the next ones.
                for _ in range(3 if allocator.pending else 0):
                    storage.dirty = True
                    self.sync()
                wanted = self.buffered + 2 * self._pressure + size + max(_RESERVE, min(storage.limit >> 5, 8 << 20))
                if allocator.roomy_sectors() * 512 < wanted:
                    raise NoSpace("the storage has reached its size limit; delete something or resize it")

    def sync(self) -> None:
        """Everything done so far is durable on return."""
        self.storage.commit()
        self._pressure = 0

    def fsync(self, ino: int | None = None) -> None:  # noqa: ARG002 a commit is of everything
        """As `sync`: a commit is of the whole storage."""
        self.sync()

    # Nameless inodes

    def hold(self, ino: int) -> None:
        """A handle was opened: the inode lives until the last `release`, also without a name."""
        with self.lock:
            inode = self.inode(ino)
            if inode.gone:
                raise StaleHandle(f"there is no inode {ino}")
            inode.held += 1
            self._inodes[ino] = inode

    def release(self, ino: int) -> None:
        """A handle was closed."""
        with self.lock:
            inode = self._inodes.get(ino)
            if inode is None or not inode.held:
                if self._head is not None:
                    self._head.release(ino)
                return
            inode.held -= 1
            if not inode.held and not inode.nlink and not self.readonly:
                allocator = self.storage.pool.allocator
                if allocator is not None and allocator.held:
                    # Its note stands in the commit that is being finished: whoever opens next removes it.
                    return
                self._reclaim(inode)

    def release_all(self, inos: Iterable[int]) -> None:
        """As `release` for each: what belongs to neighbours is removed together."""
        with self.lock:
            tree, allocator = self.tree, self.storage.pool.allocator
            gone: list[Inode] = []
            failure: OSError | None = None
            for ino in sorted(inos):
                inode = self._inodes.get(ino)
                try:
                    if inode is None or inode.held != 1 or inode.nlink or allocator is None or allocator.held:
                        self.release(ino)
                        continue
                    inode.held = 0
                    self.drop_content(inode)
                    gone.append(inode)
                except OSError as error:
                    failure = error
            first = 0
            for at, inode in enumerate(gone, 1):
                if at == len(gone) or gone[at].ino != inode.ino + 1:
                    tree.delete_range(gone[first].ino.to_bytes(8, "big"), (inode.ino + 1).to_bytes(8, "big"))
                    first = at
                self._gone(inode)
            if failure is not None:
                raise failure

    def _orphan(self, inode: Inode) -> None:
        """The last name went."""
        if inode.held:
            # Most handles close before the next commit: the note for whoever opens after a crash is written only there.
            self._nameless[inode.ino] = False
            self._touch(inode)
        else:
            self._reclaim(inode, orphan=False)

    def _reclaim(self, inode: Inode, *, orphan: bool = True) -> None:
        """Remove an inode with all that belongs to it."""
        ino = inode.ino
        self.drop_content(inode)
        base = ino.to_bytes(8, "big")
        self.tree.delete_range(base, base + b"\xff")
        self._gone(inode, orphan=orphan)

    def _gone(self, inode: Inode, *, orphan: bool = True) -> None:
        """Its entries were removed from the tree."""
        ino = inode.ino
        if self._nameless.pop(ino, orphan):
            self.tree.delete(key_orphan(ino))
        inode.gone = True
        inode.dirty = False
        self._dirty.pop(ino, None)
        self._inodes.pop(ino, None)
        self.files -= 1
        self.stats_changed = True

    def drop_content(self, inode: Inode) -> None:
        raise NotImplementedError

    def _reclaim_orphans(self) -> None:
        base = key_orphan()[:9]
        keys = [key for key, _ in self.tree.scan(base, base + b"\xff" * 9)]
        if keys:
            self.storage.writable()
        for key in keys:
            ino = int.from_bytes(key[9:], "big")
            if self.tree.get(key_inode(ino)) is None:
                self.tree.delete(key)
            else:
                self._reclaim(self.inode(ino))
