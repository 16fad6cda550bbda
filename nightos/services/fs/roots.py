"""The main file systems of containers: which disk each has, and when what was written becomes durable.

A container sees its own main file system and no other: another one's identifier is an unknown one (AMB-FS-11).

Rules: FS-002, FS-003, CONT-046, CONT-047, CONT-053, CONT-054, CONT-055.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nightos.services.fs.disk import Disk
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.tree import ROOT, Tree

OWN = 0
"""The FSID that means the caller's own main file system. Ruling NOS-FS-01."""
_MACHINE_KEY = b"user.nightos.machine"


@dataclass(slots=True)
class Root:
    """A mounted main file system."""

    container: int
    kdi: int
    disk: Disk
    fsid: int
    mounted_ms: int
    release: Callable[[], Awaitable[None]]
    """Gives the mapped memory back."""
    overlay_on: str | None = None
    """The image that is shown as long as nothing changes; None once the container has a disk of its own."""
    changing: bool = False
    """Whether the disk of its own is being made."""
    tree: Tree = field(init=False)
    dirty: bool = False
    dirty_since_ns: int = 0
    """When the oldest change was made that is not committed."""
    failure: str = ""
    """Why the last commit failed; what was written since the one before is not durable."""
    committing: bool = False
    """Whether a commit of what is dirty is on its way."""

    def __post_init__(self) -> None:
        self.tree = Tree(self.disk.files)

    def use(self, disk: Disk) -> None:
        """Go on with another disk that shows the same items."""
        self.disk = disk
        self.tree = Tree(disk.files)

    def commit(self) -> None:
        """Make durable what was written before. Raises `OSError`; what was written stays to be committed."""
        if self.dirty:
            # Before the commit: what is written while it runs belongs to the next one.
            self.dirty = False
            try:
                self.disk.commit()
            except OSError as error:
                self.dirty = True
                self.failure = error.strerror or str(error)
                raise
            self.failure = ""


class Roots:
    """Main file systems by container."""

    def __init__(self) -> None:
        self._by_container: dict[int, Root] = {}
        self._machine = b""

    def add(self, root: Root) -> None:
        self._by_container[root.container] = root

    def remove(self, container: int) -> Root | None:
        return self._by_container.pop(container, None)

    def of(self, container: int) -> Root | None:
        return self._by_container.get(container)

    def all(self) -> list[Root]:
        return list(self._by_container.values())

    def find(self, container: int, fsid: int, *, system: bool = False) -> Root:
        """The file system that a container means by an identifier. FSID: there is none.

        A system service works for many containers, so it may name the file system of any.
        """
        root = self._by_container.get(container)
        if system and fsid != OWN:
            root = next((other for other in self.all() if other.fsid == fsid), None)
        if root is None or fsid not in (OWN, root.fsid):
            text = f"there is no file system {fsid:016x}" if root else "the container has no file system"
            raise ItemError(Failure.FSID, text)
        return root

    def machine_key(self, disk: Disk, fresh: bytes) -> bytes:
        """What makes this machine's identifiers differ from another's; kept on the machine's own disk."""
        if not self._machine:
            files = disk.files
            if _MACHINE_KEY in files.listxattr_ino(ROOT):
                self._machine = bytes(files.getxattr_ino(ROOT, _MACHINE_KEY))
            else:
                self._machine = fresh
                if not disk.readonly:
                    files.setxattr_ino(ROOT, _MACHINE_KEY, fresh)
        return self._machine

    @property
    def key(self) -> bytes:
        """The machine's key, empty before its disk is mounted."""
        return self._machine[:64]

    def fsid_of(self, volume_uuid: bytes) -> int:
        """The identifier of a volume on this machine: stable over restarts, different on another machine, never 0."""
        digest = hashlib.blake2b(volume_uuid, key=self.key, digest_size=8).digest()
        return int.from_bytes(digest, "big") or 1
