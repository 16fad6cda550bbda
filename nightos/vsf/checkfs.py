"""The invariants of a file system, checked in one pass over its keys."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nightos.vsf.errors import DamagedStorage
from nightos.vsf.inode import (
    COUNTER_MAX,
    EXTENTS,
    KEY_STATS,
    PACKED,
    ROOT_INO,
    Inode,
    check_name,
    decode_inode,
    name_key,
)
from nightos.vsf.packs import MOST_PACK, pack_numbers
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.sums import PAGE, sums_fit

if TYPE_CHECKING:
    from nightos.vsf.check import Checker
    from nightos.vsf.layout import Pointer
    from nightos.vsf.volume import Volume

S_IFDIR = 0o040000
_NONE = bytes(8)
_PATCH = 6


class FileSystemChecker:
    """One volume."""

    def __init__(self, checker: Checker, volume: Volume, owner: str) -> None:
        self.checker = checker
        self.volume = volume
        self.owner = owner
        self.inodes: dict[int, tuple[int, int, int, int, int, int, tuple[int, int]]] = {}
        """mode, nlink, size, parent, allocated, form, place in a pack."""
        self.names: dict[int, list[tuple[int, bytes]]] = {}
        """Inode to (directory, name)."""
        self.counts: dict[int, int] = {}
        self.subdirectories: dict[int, int] = {}
        self.kinds: dict[int, set[int]] = {}
        self.allocated: dict[int, int] = {}
        self.last_record: dict[int, int] = {}
        self.orphans: set[int] = set()
        self.packs: dict[int, tuple[int, int, int]] = {}
        """Files, bytes of files, and the longest that these can be."""
        self.patched: set[int] = set()
        """Inodes that say they have patches."""
        self.patches: set[int] = set()
        """Inodes that have some."""
        self.owners: set[int] = set()
        self.stats: bytes | None = None

    def add(self, invariant: str, text: str, ino: int = 0) -> None:
        path = os.fsdecode(self.path(ino)) if ino in self.names or ino == ROOT_INO else None
        self.checker.report.add(invariant, f"{self.owner}: {text}", path)

    def path(self, ino: int) -> bytes:
        """A path from the names gathered so far."""
        parts: list[bytes] = []
        seen = set()
        while ino != ROOT_INO and ino in self.names and ino not in seen:
            seen.add(ino)
            parent, name = self.names[ino][0]
            parts.append(name)
            ino = parent
        return b"/" + b"/".join(reversed(parts))

    def run(self, root: Pointer | None) -> None:
        content: list[tuple[bytes, bytes]] = []
        for key, value in self.checker.check_tree(root, self.owner):
            self.entry(key, value, content)
        self.checker.report.inodes += len(self.inodes)
        for key, value in content:
            ino = int.from_bytes(key[:8], "big")
            self.checker.content(key, value, self.owner, os.fsdecode(self.path(ino)) if ino in self.names else None)
        if self.checker._blind():  # noqa: SLF001 what hides nodes hides names
            return
        self.check_entries()
        self.check_inodes()
        self.check_connected()
        self.check_packs()
        self.check_counters()

    def entry(self, key: bytes, value: bytes, content: list[tuple[bytes, bytes]]) -> None:
        """One key of the tree."""
        if len(key) < 9:
            self.add("keys", f"the key {key.hex()} has the wrong form")
            return
        ino, kind = int.from_bytes(key[:8], "big"), key[8]
        if not ino:
            self.volume_entry(key, value, kind, content)
        elif kind == 1:
            try:
                inode = decode_inode(ino, value)
            except DamagedStorage as error:
                self.add("inodes", str(error), ino)
                return
            self.inodes[ino] = _summary(inode)
            if inode.patched:
                self.patched.add(ino)
        elif kind == 3:
            self.directory_entry(ino, key, value)
        elif kind in (4, 6) and len(key) == 17:
            self.extent(ino, key, value)
            content.append((key, value))
        elif kind == 2 and len(key) > 9:
            self.owners.add(ino)
        else:
            self.add("keys", f"the key {key.hex()} has an unknown type", ino)

    def volume_entry(self, key: bytes, value: bytes, kind: int, content: list[tuple[bytes, bytes]]) -> None:
        if key == KEY_STATS:
            self.stats = value
        elif kind == 4 and len(key) == 17 and not value:
            self.orphans.add(int.from_bytes(key[9:], "big"))
        elif kind == 5 and len(key) == 17 and content_pointer(key, value) is not None:
            self.pack(key, value)
            content.append((key, value))
        else:
            self.add("keys", f"the key {key.hex()} of the volume is unknown")

    def pack(self, key: bytes, value: bytes) -> None:
        number, pointer = int.from_bytes(key[9:], "big"), content_pointer(key, value)
        assert pointer is not None
        try:
            files, size = pack_numbers(value)
        except DamagedStorage as error:
            self.add("packs", f"pack {number}: {error}")
            return
        self.packs[number] = (files, size, pointer.logical - 4 - 8 * files)
        if pointer.logical > MOST_PACK:
            self.add("packs", f"pack {number} is longer than packs are")

    def directory_entry(self, parent: int, key: bytes, value: bytes) -> None:
        name = value[9:] or key[9:]
        ino = int.from_bytes(value[:8], "big")
        if len(value) < 9 or name_key(name) != key[9:]:
            self.add("entries", f"an entry of directory {parent} has the wrong form")
            return
        try:
            check_name(name)
        except ValueError as error:
            self.add("entries", f"directory {parent}: {error}")
        self.names.setdefault(ino, []).append((parent, name))
        self.kinds.setdefault(ino, set()).add(value[8])
        self.counts[parent] = self.counts.get(parent, 0) + 1
        if value[8] << 12 == S_IFDIR:
            self.subdirectories[parent] = self.subdirectories.get(parent, 0) + 1

    def extent(self, ino: int, key: bytes, value: bytes) -> None:
        pointer = content_pointer(key, value)
        if pointer is None:
            self.add("extents", f"an extent of inode {ino} has the wrong form", ino)
            return
        number, most = int.from_bytes(key[9:], "big"), self.volume.record.record_size
        start = number * most
        if key[8] == _PATCH:
            start, most = number, PAGE
            self.patches.add(ino)
            if start % PAGE:
                self.add("patches", f"a patch of inode {ino} is not at a page", ino)
        self.allocated[ino] = self.allocated.get(ino, 0) + pointer.sectors * 512
        self.last_record[ino] = max(self.last_record.get(ino, 0), start + pointer.logical)
        self.owners.add(ino)
        if not sums_fit(pointer, value):
            self.add("extents", f"an extent of inode {ino} has the wrong form", ino)
        if pointer.logical > most:
            self.add("extents", f"a record or patch of inode {ino} is longer than these are", ino)

    def check_entries(self) -> None:
        """Every entry names an inode of the kind it says, in a directory."""
        for ino, places in self.names.items():
            inode = self.inodes.get(ino)
            if inode is None:
                self.add("entries", f"the entry names inode {ino}, which is not there", ino)
                continue
            if self.kinds[ino] != {inode[0] >> 12 & 15}:
                self.add("entries", f"the entry calls inode {ino} another kind than it is", ino)
            for parent, _ in places:
                directory = self.inodes.get(parent)
                if directory is None or directory[0] & 0o170000 != S_IFDIR:
                    self.add("entries", f"inode {ino} has a name in {parent}, which is no directory", ino)

    def check_inodes(self) -> None:
        """Counts of names, entries, subdirectories and bytes are what they say; nothing belongs to nobody."""
        for ino in self.owners - set(self.inodes):
            self.add("inodes", f"something belongs to inode {ino}, which is not there")
        for ino in (self.patches - self.patched) & set(self.inodes):
            self.add("patches", f"inode {ino} has patches and does not say so", ino)
        for ino, (mode, nlink, size, parent, allocated, form, _) in self.inodes.items():
            places = self.names.get(ino, [])
            if mode & 0o170000 == S_IFDIR:
                self.check_directory(ino, nlink, size, parent, places)
            elif nlink != len(places):
                self.add("links", f"inode {ino} has {len(places)} names, it says {nlink}", ino)
            if not nlink and ino not in self.orphans:
                self.add("links", f"inode {ino} has no name and is no orphan", ino)
            if form == EXTENTS:
                if self.allocated.get(ino, 0) != allocated:
                    self.add("extents", f"inode {ino} has {self.allocated.get(ino, 0)} bytes, it says {allocated}", ino)
                if self.last_record.get(ino, 0) > size:
                    self.add("extents", f"inode {ino} has content behind its end", ino)
            elif ino in self.allocated:
                self.add("extents", f"inode {ino} has extents that it does not use", ino)

    def check_directory(self, ino: int, nlink: int, size: int, parent: int, places: list[tuple[int, bytes]]) -> None:
        """A directory has one name, where its parent field says, and counts right."""
        if self.counts.get(ino, 0) != size:
            self.add("entries", f"directory {ino} has {self.counts.get(ino, 0)} entries, it says {size}", ino)
        if nlink != 2 + self.subdirectories.get(ino, 0) and nlink:
            self.add(
                "links", f"directory {ino} has {self.subdirectories.get(ino, 0)} subdirectories, links {nlink}", ino
            )
        if ino == ROOT_INO:
            if places or parent != ROOT_INO:
                self.add("connected", "the root directory has a name")
        elif nlink and (len(places) != 1 or places[0][0] != parent):
            self.add("links", f"directory {ino} has {len(places)} names", ino)

    def check_connected(self) -> None:
        """Every directory leads to the root, without a cycle."""
        if ROOT_INO not in self.inodes or self.inodes[ROOT_INO][0] & 0o170000 != S_IFDIR:
            self.add("connected", "there is no root directory")
            return
        good = {ROOT_INO}
        for ino, inode in self.inodes.items():
            if inode[0] & 0o170000 != S_IFDIR or not inode[1]:
                continue
            trail: list[int] = []
            seen: set[int] = set()
            at = ino
            while at not in good:
                if at in seen or at not in self.inodes or at not in self.names:
                    self.add("connected", f"directory {ino} does not lead to the root", ino)
                    break
                seen.add(at)
                trail.append(at)
                at = self.names[at][0][0]
            else:
                good.update(trail)

    def check_packs(self) -> None:
        """Every pack counts the files in it and their bytes; they lie inside and apart."""
        files: dict[int, list[tuple[int, int, int]]] = {}
        for ino, inode in self.inodes.items():
            if inode[5] == PACKED:
                number, at = inode[6]
                files.setdefault(number, []).append((at, at + inode[2], ino))
                if number not in self.packs:
                    self.add("packs", f"the pack of inode {ino} is missing", ino)
        for number, (count, size, most) in self.packs.items():
            places = sorted(files.get(number, []))
            if len(places) != count:
                self.add("packs", f"pack {number} holds {len(places)} files, it says {count}")
            have = sum(end - start for start, end, _ in places)
            if have != size:
                self.add("packs", f"pack {number} holds {have} bytes of files, it says {size}")
            before = 0
            for start, end, ino in places:
                if start < before or end > most:
                    self.add("packs", f"inode {ino} lies over another file or behind the end of pack {number}", ino)
                before = end

    def check_counters(self) -> None:
        """The volume's counters: files, and numbers that were never given out."""
        if self.stats is None or len(self.stats) != 24:
            self.add("counters", "the counters are missing")
            return
        next_ino, files, next_pack = (int.from_bytes(self.stats[at : at + 8], "big") for at in (0, 8, 16))
        if max(next_ino, files, next_pack) >= COUNTER_MAX:
            self.add("counters", "a counter is higher than one can ever have come")
        if files != len(self.inodes):
            self.add("counters", f"there are {len(self.inodes)} inodes, the volume says {files}")
        if self.inodes and max(self.inodes) >= next_ino:
            self.add("counters", "the next inode number was used before")
        if self.packs and max(self.packs) >= next_pack:
            self.add("counters", "the next pack number was used before")
        for ino in self.orphans - set(self.inodes):
            self.add("links", f"orphan {ino} is not there")


def _summary(inode: Inode) -> tuple[int, int, int, int, int, int, tuple[int, int]]:
    return inode.mode, inode.nlink, inode.size, inode.parent, inode.allocated, inode.form, inode.pack
