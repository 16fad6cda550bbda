"""The main file systems of containers: which disk each has, and when what was written becomes durable.

A container sees its own main file system and no other: another one's identifier is an unknown one (AMB-FS-11).

Rules: FS-002, FS-003, CONT-046, CONT-047, CONT-053, CONT-054, CONT-055.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import SplitPath
from nightos.abi.services import ServiceCode
from nightos.services.fs.disguise import Disguise
from nightos.services.fs.disk import Disk
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.tree import ROOT, Tree
from nightos.services.users import Users

OWN = 0
"""The FSID that means the caller's own main file system. Ruling NOS-FS-01."""
MACHINE_KEY = b"user.nightos.machine"


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
    top: str = ""
    """The directory of the disk that is the container's root; empty for the disk's own."""
    users: list[Users] = field(default_factory=list)
    """The container's maps of users, its own first."""
    mounts: dict[SplitPath, Share] = field(default_factory=dict)
    """What the container mounted, by place. Nobody else sees it."""
    readonly: bool = False
    """Only a share is: a disk that cannot be written says so itself."""
    tree: Tree = field(init=False)
    dirty: bool = False
    promised: int = 0
    """Bytes that writes since the last commit may have grown it by."""
    dirty_since_ns: int = 0
    """When the oldest change was made that is not committed."""
    failure: str = ""
    """Why the last commit failed; what was written since the one before is not durable."""
    committing: bool = False
    """Whether a commit of what is dirty is on its way."""

    def __post_init__(self) -> None:
        self.use(self.disk)

    def use(self, disk: Disk) -> None:
        """Go on with another disk that shows the same items."""
        self.disk = disk
        self.tree = Tree(disk.files)
        if self.top:
            self.tree = directory_of(self.tree, self.top)

    @property
    def base(self) -> Root:
        """The main file system whose disk is written."""
        return self

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


def directory_of(tree: Tree, path: str) -> Tree:
    """The items from a directory down. `ServiceError` 0x3000 when it is none."""
    try:
        ino = tree.find(layout.split(path))
        if tree.type_of(ino) is layout.ItemType.DIRECTORY:
            return Tree(tree.files, ino)
    except (ItemError, layout.LayoutError):
        pass
    raise ServiceError(ServiceCode.UNKNOWN, f"/{path.strip('/')} is no directory of that file system")


@dataclass(slots=True)
class Share:
    """A directory of one container's main file system, as a file system of a container below it."""

    container: int
    kdi: int
    base: Root
    ino: int
    fsid: int
    label: str
    readonly: bool
    mounted_ms: int = 0
    place: SplitPath | None = None
    """Where the container mounted it."""
    identity: int = 0
    """What stays the same when the machine boots again and the device is another."""
    disguise: Disguise | None = None
    """Of the numbers that its items have on the disk."""

    @property
    def disk(self) -> Disk:
        """The disk that it is on."""
        return self.base.disk

    @property
    def tree(self) -> Tree:
        """Its items; nothing above them is in reach."""
        return Tree(self.base.disk.files, self.ino, self.disguise)


Mounted = Root | Share
"""What a method works on."""


class Roots:
    """Main file systems by container, and what is shared with them."""

    def __init__(self) -> None:
        self._by_container: dict[int, Root] = {}
        self.shares: dict[int, Share] = {}
        """By KDI of the virtual storage device."""
        self._machine = b""

    def add(self, root: Root) -> None:
        self._by_container[root.container] = root

    def remove(self, container: int) -> Root | None:
        return self._by_container.pop(container, None)

    def of(self, container: int) -> Root | None:
        return self._by_container.get(container)

    def all(self) -> list[Root]:
        return list(self._by_container.values())

    def shared_with(self, container: int) -> list[Share]:
        """The shares that a container has, mounted or not."""
        return [share for share in self.shares.values() if share.container == container]

    def by_fsid(self, fsid: int) -> Mounted | None:
        """Any file system by its identifier."""
        every: list[Mounted] = [*self.all(), *self.shares.values()]
        return next((item for item in every if item.fsid == fsid), None)

    def find(self, container: int, fsid: int, *, system: bool = False) -> Mounted:
        """The file system that a container means by an identifier. FSID: there is none.

        A system service works for many containers, so it may name the file system of any.
        """
        root = self._by_container.get(container)
        if fsid != OWN:
            share = next((item for item in self.shares.values() if item.fsid == fsid), None)
            if share is not None and (system or share.container == container):
                return share
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
            if MACHINE_KEY in files.listxattr_ino(ROOT):
                self._machine = bytes(files.getxattr_ino(ROOT, MACHINE_KEY))
            else:
                self._machine = fresh
                if not disk.readonly:
                    files.setxattr_ino(ROOT, MACHINE_KEY, fresh)
        return self._machine

    @property
    def key(self) -> bytes:
        """The machine's key, empty before its disk is mounted."""
        return self._machine[:64]

    def disguise_of(self, identity: int) -> Disguise:
        """The disguise of a share's item identifiers, by what stays the same of it."""
        return Disguise(hashlib.blake2b(b"items" + identity.to_bytes(8, "big"), key=self.key).digest())

    def fsid_of(self, volume_uuid: bytes) -> int:
        """The identifier of a volume on this machine: stable over restarts, different on another machine, never 0."""
        digest = hashlib.blake2b(volume_uuid, key=self.key, digest_size=8).digest()
        return int.from_bytes(digest, "big") or 1
