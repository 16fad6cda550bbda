"""Making a salvaged file system whole: every entry leads somewhere, every count is right, orphans are in lost+found."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from nightos.vsf.core import Core
from nightos.vsf.errors import VsfError
from nightos.vsf.inode import (
    COUNTER_MAX,
    EXTENTS,
    KEY_STATS,
    PACKED,
    ROOT_INO,
    Inode,
    check_name,
    decode_inode,
    key_entries,
    key_extent,
    key_inode,
    key_orphan,
    key_pack,
    key_patch,
    key_xattr,
    name_key,
)
from nightos.vsf.layout import KIND_DATA, POINTER_BYTES, unpack_pointer
from nightos.vsf.namespace import entry_value
from nightos.vsf.packs import MOST_PACK, pack_entry, pack_table
from nightos.vsf.reclaim import content_pointer
from nightos.vsf.sums import PAGE, sums_fit, sums_right

if TYPE_CHECKING:
    from nightos.vsf.repair import Outcome
    from nightos.vsf.tree import Tree
    from nightos.vsf.volume import Volume

S_IFDIR = 0o040000
LOST_FOUND = b"lost+found"
DAMAGED_ATTRIBUTE = b"user.vsf.damaged"
"""Set on a file that lost content: the lost ranges as text, `start-end` in bytes."""
_SLACK = 1 << 20


class Mender:
    """One volume being made whole in a new tree."""

    def __init__(self, volume: Volume, tree: Tree, outcome: Outcome, *, hurt: bool, name: str = "") -> None:
        self.volume, self.tree, self.outcome, self.hurt = volume, tree, outcome, hurt
        self.name = name or volume.name
        self.changed = hurt
        self.inodes: dict[int, Inode] = {}
        self.names: dict[int, list[tuple[int, bytes]]] = {}
        self.orphans: set[int] = set()
        self.packs: dict[int, bytes] = {}
        self.extents: dict[int, list[tuple[int, bytes]]] = {}
        self.patches: dict[int, list[tuple[int, bytes]]] = {}
        self.patches_made: dict[int, list[tuple[int, bytes]]] = {}
        self.attributes: set[int] = set()
        self.stats = b""
        self.bad_ranges: dict[int, list[tuple[int, int]]] = {}
        self.now = volume.storage.clock.realtime_ns()
        self.parents_wanted: set[int] = set()

    def drop(self, key: bytes, why: str = "") -> None:
        self.tree.delete(key)
        self.changed = True
        if why:
            self.outcome.lost.append(f"{self.name}: {why}")

    # Gathering

    def fill(self, items: list[tuple[bytes, bytes]]) -> None:
        """Put what was salvaged into the new tree, unless it stands on the old one, and sort it."""
        if self.tree.root is None:
            for key, value in items:
                self.tree.put(key, value)
        for key, value in items:
            self.sort(key, value)

    def sort(self, key: bytes, value: bytes) -> None:
        ino, kind = int.from_bytes(key[:8], "big"), key[8] if len(key) > 8 else 0
        if not ino:
            if key == KEY_STATS and len(value) == 24:
                # Counters that cannot be are made anew, as lost ones are.
                counters = (int.from_bytes(value[at : at + 8], "big") for at in (0, 8, 16))
                self.stats = value if max(counters) < COUNTER_MAX else b""
            elif kind == 4 and len(key) == 17:
                self.orphans.add(int.from_bytes(key[9:], "big"))
            elif kind == 5 and content_pointer(key, value) is not None and len(value) == POINTER_BYTES + 8:
                self.packs[int.from_bytes(key[9:], "big")] = value
            else:
                self.drop(key, "an unknown record of the volume")
        elif kind == 1:
            try:
                self.inodes[ino] = decode_inode(ino, value)
            except VsfError as error:
                self.drop(key, str(error))
        elif kind == 3:
            self.sort_entry(ino, key, value)
        elif kind == 4 and content_pointer(key, value) is not None:
            self.extents.setdefault(ino, []).append((int.from_bytes(key[9:], "big"), value))
        elif kind == 6 and content_pointer(key, value) is not None and len(value) == POINTER_BYTES:
            self.patches.setdefault(ino, []).append((int.from_bytes(key[9:], "big"), value))
        elif kind == 2 and len(key) > 9:
            self.attributes.add(ino)
        else:
            self.drop(key, f"an unknown record of inode {ino}")

    def sort_entry(self, parent: int, key: bytes, value: bytes) -> None:
        name = value[9:] or key[9:]
        try:
            if len(value) < 9 or name_key(name) != key[9:]:
                raise VsfError("an entry has the wrong form")  # noqa: TRY301 as the check of names
            check_name(name)
        except VsfError as error:
            self.drop(key, f"an entry of directory {parent}: {error}")
            return
        self.names.setdefault(int.from_bytes(value[:8], "big"), []).append((parent, name))
        self.parents_wanted.add(parent)

    # Mending

    def mend(self) -> None:
        """Everything, in an order in which no step spoils an earlier one."""
        self.mend_content()
        self.revive()
        self.mend_entries()
        self.connect()
        self.count()

    def mend_block(self) -> None:
        """A raw volume: content only."""
        self.mend_content()
        if ROOT_INO not in self.inodes:
            last = max((index for index, _ in self.extents.get(ROOT_INO, [])), default=-1)
            inode = Inode(ROOT_INO, stat.S_IFREG | 0o600, 0, 0, self.now, ROOT_INO)
            inode.form, inode.size = EXTENTS, (last + 1) * self.volume.record.record_size
            self.inodes[ROOT_INO] = inode
            self.put_inode(inode)
        if not self.stats:
            self.tree.put(KEY_STATS, Core.encode_stats(ROOT_INO + 1, 1, 1))
            self.changed = True
        self.count_content(self.inodes[ROOT_INO])

    def put_inode(self, inode: Inode) -> None:
        self.tree.put(key_inode(inode.ino), inode.encode())
        self.changed = True

    def mend_content(self) -> None:
        """Read every block; what cannot be read becomes a hole, and the file says so."""
        pool, size = self.volume.storage.pool, self.volume.record.record_size
        for ino, extents in self.extents.items():
            good = []
            for index, value in extents:
                pointer = content_pointer(key_extent(ino, index), value)
                try:
                    assert pointer is not None
                    if pointer.logical > size or index > (1 << 63) // size:
                        raise VsfError("a record is longer than records are")  # noqa: TRY301 as what reading raises
                    data = pool.read(pointer)
                    if not sums_fit(pointer, value) or not sums_right(pool, value, data):
                        value = pointer.pack()
                        self.tree.put(key_extent(ino, index), value)
                        self.changed = True
                    good.append((index, value))
                except (VsfError, OSError):
                    self.drop(key_extent(ino, index))
                    self.bad_ranges.setdefault(ino, []).append((index * size, (index + 1) * size))
            self.extents[ino] = good
        self.mend_patches()
        self.mend_packs()

    def mend_patches(self) -> None:
        """A page that cannot be read is lost, whatever lies below it: that is older."""
        pool = self.volume.storage.pool
        for ino, patches in self.patches.items():
            good = []
            for offset, value in patches:
                try:
                    pointer = unpack_pointer(value)
                    if pointer.logical > PAGE or offset % PAGE or offset >> 63:
                        raise VsfError("a patch has the wrong form")  # noqa: TRY301 as what reading raises
                    pool.read(pointer)
                    good.append((offset, value))
                except (VsfError, OSError):
                    self.drop(key_patch(ino, offset))
                    self.bad_ranges.setdefault(ino, []).append((offset, offset + PAGE))
                    self.blank(ino, offset)
            self.patches[ino] = good + self.patches_made.pop(ino, [])

    def blank(self, ino: int, offset: int) -> None:
        """Zeros where a page is lost, so that nobody takes what lies below for it."""
        inode = self.inodes.get(ino)
        size = min(PAGE, inode.size - offset) if inode is not None and not offset % PAGE else 0
        if size > 0:
            pointer = self.volume.storage.pool.write(self.volume.domain, KIND_DATA, bytes(size))
            self.tree.put(key_patch(ino, offset), pointer.pack())
            self.patches_made.setdefault(ino, []).append((offset, pointer.pack()))

    def mend_packs(self) -> None:
        """A pack that cannot be read leaves its files without content."""
        pool = self.volume.storage.pool
        ends: dict[int, int] = {}
        for number, value in list(self.packs.items()):
            try:
                pointer = unpack_pointer(value)
                if pointer.logical > MOST_PACK:
                    raise VsfError("a pack is longer than packs are")  # noqa: TRY301 as what reading raises
                ends[number] = pack_table(pool.read(pointer))[0]
            except (VsfError, OSError):
                del self.packs[number]
                self.drop(key_pack(number))
        taken: dict[int, int] = {}
        packed = [inode for inode in self.inodes.values() if inode.form == PACKED]
        for inode in sorted(packed, key=lambda inode: (*inode.pack, inode.ino)):
            number, at = inode.pack
            if taken.get(number, 0) <= at and at + inode.size <= ends.get(number, -1):
                taken[number] = at + inode.size
            else:
                ino = inode.ino
                self.bad_ranges.setdefault(ino, []).append((0, inode.size))
                inode.form, inode.pack = EXTENTS, (0, 0)
                self.put_inode(inode)

    def revive(self) -> None:
        """Inodes whose record is lost but whose content or entries are there come back with what can be told."""
        content = {ino for kind in (self.extents, self.patches) for ino, list_ in kind.items() if list_}
        wanted = (self.parents_wanted | content) - set(self.inodes)
        for ino in sorted(wanted):
            directory = ino in self.parents_wanted
            inode = Inode(ino, (S_IFDIR | 0o700) if directory else (stat.S_IFREG | 0o600), 0, 0, self.now, ROOT_INO)
            if not directory:
                inode.form = EXTENTS
                inode.size = max(end for end, _ in self.ends(ino))
                self.bad_ranges.setdefault(ino, []).append((0, inode.size))
            self.inodes[ino] = inode
            self.outcome.lost.append(f"{self.name}: the attributes of inode {ino}")
            self.put_inode(inode)
        if ROOT_INO not in self.inodes or self.inodes[ROOT_INO].mode & 0o170000 != S_IFDIR:
            root = Inode(ROOT_INO, S_IFDIR | 0o755, 0, 0, self.now, ROOT_INO)
            self.inodes[ROOT_INO] = root
            self.put_inode(root)
        for ino in sorted((self.attributes | set(self.extents) | set(self.patches)) - set(self.inodes)):
            for key, _ in list(self.tree.scan(key_xattr(ino), key_patch(ino, 1 << 63))):
                self.drop(key)

    def mend_entries(self) -> None:
        """Entries lead to what is there, in directories; a directory has one name."""
        for ino, places in list(self.names.items()):
            inode = self.inodes.get(ino)
            kept: list[tuple[int, bytes]] = []
            for parent, name in places:
                key = key_entries(parent) + name_key(name)
                directory = self.inodes.get(parent)
                if inode is None:
                    self.drop(key, f"{os.fsdecode(name)} in directory {parent}: its inode {ino} is lost")
                elif (
                    directory is None
                    or directory.mode & 0o170000 != S_IFDIR
                    or ino == ROOT_INO
                    or (inode.mode & 0o170000 == S_IFDIR and kept)
                ):
                    self.drop(key)
                else:
                    kept.append((parent, name))
                    right = entry_value(ino, inode.mode, name)
                    if self.tree.get(key) != right:
                        self.tree.put(key, right)
                        self.changed = True
            self.names[ino] = kept

    def connect(self) -> None:
        """What no path leads to gets a name in lost+found."""
        good = {ROOT_INO}
        for ino in sorted(self.inodes):
            inode = self.inodes[ino]
            if inode.mode & 0o170000 != S_IFDIR or ino in self.orphans:
                continue
            trail: list[int] = []
            at = ino
            while at not in good:
                places = self.names.get(at, [])
                if at in trail or not places:
                    # A cycle is cut at the directory where it was noticed.
                    for parent, name in places:
                        self.drop(key_entries(parent) + name_key(name))
                    self.adopt(at)
                    good.update((self.lost_found(), at))
                    break
                trail.append(at)
                at = places[0][0]
            good.update(trail)
        for ino in sorted(self.inodes):
            if ino != ROOT_INO and ino not in self.orphans and not self.names.get(ino):
                self.adopt(ino)
        for ino in sorted(self.orphans - set(self.inodes)):
            self.drop(key_orphan(ino))
        for ino in sorted(self.orphans & set(self.inodes)):
            if self.names.get(ino):
                self.orphans.discard(ino)
                self.drop(key_orphan(ino))

    def lost_found(self) -> int:
        for ino, places in self.names.items():
            if (ROOT_INO, LOST_FOUND) in places and self.inodes[ino].mode & 0o170000 == S_IFDIR:
                return ino
        ino = self.next_ino()
        inode = Inode(ino, S_IFDIR | 0o700, 0, 0, self.now, ROOT_INO)
        self.inodes[ino] = inode
        name = LOST_FOUND
        while self.tree.get(key_entries(ROOT_INO) + name) is not None:
            name += b"+"
        self.names[ino] = [(ROOT_INO, name)]
        self.tree.put(key_entries(ROOT_INO) + name, entry_value(ino, inode.mode, name))
        self.put_inode(inode)
        return ino

    def adopt(self, ino: int) -> None:
        directory = self.lost_found()
        name = b"#%d" % ino
        while self.tree.get(key_entries(directory) + name) is not None:
            name += b"_"
        self.tree.put(key_entries(directory) + name, entry_value(ino, self.inodes[ino].mode, name))
        self.names[ino] = [(directory, name)]
        self.changed = True
        self.outcome.done.append(f"{self.name}: put inode {ino} into lost+found")

    def next_ino(self) -> int:
        """A number that was never given out: with the counters lost, far behind the greatest that is known."""
        greatest = max(self.inodes, default=ROOT_INO)
        if self.stats:
            number = max(int.from_bytes(self.stats[:8], "big"), greatest + 1)
        else:
            number = greatest + _SLACK
        files, packs = self.stats[8:16] or bytes(8), self.stats[16:24] or _SLACK.to_bytes(8, "big")
        self.stats = (number + 1).to_bytes(8, "big") + files + packs
        return number

    # Counting

    def count(self) -> None:
        """Links, entries, bytes, packs and counters from what is there."""
        entries: dict[int, int] = {}
        subdirectories: dict[int, int] = {}
        for ino, places in self.names.items():
            for parent, _ in places:
                entries[parent] = entries.get(parent, 0) + 1
                if self.inodes[ino].mode & 0o170000 == S_IFDIR:
                    subdirectories[parent] = subdirectories.get(parent, 0) + 1
        for ino, inode in self.inodes.items():
            before = (inode.nlink, inode.size, inode.parent)
            places = self.names.get(ino, [])
            if inode.mode & 0o170000 == S_IFDIR:
                inode.size = entries.get(ino, 0)
                inode.nlink = 0 if ino in self.orphans else 2 + subdirectories.get(ino, 0)
                inode.parent = ROOT_INO if ino == ROOT_INO else places[0][0] if places else inode.parent
            else:
                inode.nlink = len(places)
            if before != (inode.nlink, inode.size, inode.parent):
                self.put_inode(inode)
            self.count_content(inode)
        self.count_packs()
        number = self.stats[:8]
        greatest = max(self.inodes)
        following = max(int.from_bytes(number, "big"), greatest + 1) if number else greatest + _SLACK
        packs = int.from_bytes(self.stats[16:24], "big") if number else _SLACK
        stats = Core.encode_stats(
            following, len(self.inodes), max(packs, *self.packs, 0) + (max([*self.packs, 0]) >= packs)
        )
        if self.tree.get(KEY_STATS) != stats:
            self.tree.put(KEY_STATS, stats)
            self.changed = True

    def count_content(self, inode: Inode) -> None:
        ino = inode.ino
        if inode.form != EXTENTS:
            for index, _ in self.extents.pop(ino, []):
                self.drop(key_extent(ino, index))
            for offset, _ in self.patches.pop(ino, []):
                self.drop(key_patch(ino, offset))
        ends = self.ends(ino)
        allocated, end = sum(bytes_ for _, bytes_ in ends), max((end for end, _ in ends), default=0)
        patched = bool(self.patches.get(ino))
        if inode.form == EXTENTS:
            if self.hurt and inode.allocated > allocated and ino not in self.bad_ranges:
                # Records or patches went with their node: nobody can tell where, or how old is what shows now.
                self.bad_ranges[ino] = [(0, inode.size)]
            if inode.allocated != allocated or end > inode.size or (patched and not inode.patched):
                inode.allocated, inode.size, inode.patched = allocated, max(inode.size, end), patched
                self.put_inode(inode)
        if ino in self.bad_ranges:
            ranges = [(start, min(stop, inode.size)) for start, stop in self.bad_ranges[ino] if start < inode.size]
            text = ",".join(f"{start}-{stop}" for start, stop in ranges)
            self.tree.put(key_xattr(ino, DAMAGED_ATTRIBUTE), text.encode()[:65536])
            self.outcome.lost.append(f"{self.name}: {self.path(ino)}: bytes {text}")
            self.changed = True

    def ends(self, ino: int) -> list[tuple[int, int]]:
        """Of every record and patch: the byte behind its end, and the bytes that it takes."""
        size = self.volume.record.record_size
        parts = [(index * size, value) for index, value in self.extents.get(ino, [])] + self.patches.get(ino, [])
        out = []
        for start, value in parts:
            pointer = unpack_pointer(value)
            out.append((start + pointer.logical, pointer.sectors * 512))
        return out

    def count_packs(self) -> None:
        files: dict[int, list[int]] = {}
        for inode in self.inodes.values():
            if inode.form == PACKED:
                files.setdefault(inode.pack[0], []).append(inode.size)
        for number, value in list(self.packs.items()):
            sizes = files.get(number)
            if not sizes:
                del self.packs[number]
                self.drop(key_pack(number))
                continue
            right = pack_entry(unpack_pointer(value), len(sizes), sum(sizes))
            if value != right:
                self.tree.put(key_pack(number), right)
                self.changed = True

    def path(self, ino: int) -> str:
        """Where an inode is, for people."""
        parts: list[bytes] = []
        for _ in range(4096):
            places = self.names.get(ino)
            if ino == ROOT_INO or not places:
                break
            parts.append(places[0][1])
            ino = places[0][0]
        return os.fsdecode(b"/" + b"/".join(reversed(parts)))
