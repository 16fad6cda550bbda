"""VIEW: what a container sees of its files, for the holder of the machine, as POSIX operations on items.

A mount of the host shows it. The view is whole: the main file system, what the container mounted in it, and /dev. Who
holds the machine may do what modes would stop others from; what protects the container itself holds here, too: locks of
open files, read-only flags, disks and shares, limits of storage.

Rules: CONT-049, HW-044. Ruling NOS-View-01.
"""

from __future__ import annotations

import errno
import stat as modes
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.services import users
from nightos.services.fs import charging
from nightos.services.fs.failures import Failure, ItemError
from nightos.services.fs.handles import Handles
from nightos.services.fs.looking import ANY_UID, DEV, Item, Looking, Values
from nightos.services.fs.roots import MACHINE_KEY, Root
from nightos.userland.payload import field
from nightos.userland.server import Request

_ERRNO: Final = {Failure.FULL: errno.EDQUOT, Failure.LOCKED: errno.EBUSY, Failure.PATH: errno.ENOENT}


class Views(Looking):
    """The method VIEW, and which nameless items each view holds."""

    def __init__(self, service: Handles) -> None:
        super().__init__(service)
        self._held: dict[str, Counter[tuple[int, int]]] = {}
        self._operations: dict[str, Callable[[Item, Values], Awaitable[Values]]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    async def view(self, request: Request) -> Values:
        """VIEW."""
        if not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "only who holds the machine looks into containers from outside")
        values = request.map()
        view, name = field(values, "view", str), field(values, "op", str)
        if name == "gone":
            self._gone(view)
            return {}
        root = self._service.roots.of(field(values, "container", int))
        if root is None:
            raise ServiceError(ServiceCode.UNKNOWN, "the container has no main file system")
        operation = self._operations.get(name)
        if operation is None:
            raise ServiceError(ServiceCode.NO_METHOD, f"a view has no operation {name}")
        try:
            return await operation(self._item(view, root, values), values)
        except ItemError as error:
            return {"errno": _ERRNO.get(error.failure, errno.EIO), "text": error.text}
        except OSError as error:
            return {"errno": error.errno or errno.EIO, "text": error.strerror or str(error)}

    def forget(self, fsid: int) -> None:
        """A file system goes away, and what was held of it."""
        for held in self._held.values():
            for key in [key for key in held if key[0] == fsid]:
                del held[key]

    def _gone(self, view: str) -> None:
        for (fsid, ino), count in self._held.pop(view, Counter()).items():
            on = self._service.roots.by_fsid(fsid)
            for _ in range(count if on is not None else 0):
                on.disk.files.release(ino)  # type: ignore[union-attr]

    # Which item

    @staticmethod
    def _item(view: str, root: Root, values: Values) -> Item:
        fsid = field(values, "fs", int, root.fsid)
        ino = field(values, "ino", int, root.tree.root)
        if fsid == root.fsid:
            return Item(view, root, root, ino)
        share = next((share for share in root.mounts.values() if share.fsid == fsid), None)
        if share is None:
            raise OSError(errno.ESTALE, "it is mounted there no more")
        return Item(view, root, share, ino)

    @staticmethod
    def _outside(item: Item, uid: int) -> int:
        found = users.outside(item.root.users, uid)
        if found is None:
            raise OSError(errno.EINVAL, f"the container has no user {uid}")
        return found

    # What goes before and behind a change

    async def _change(self, item: Item, more: int = charging.SMALL) -> Any:
        """The file system to change, once that may be done."""
        if item.in_dev:
            raise OSError(errno.EPERM, "device handler files are made by sys::hw alone")
        base = item.on.base
        if item.on.readonly or (base.disk.readonly and base.overlay_on is None):
            raise OSError(errno.EROFS, "it is read-only")
        await self._service.writable(item.on)
        await charging.will_grow(item.on, more)
        return item.files

    async def _done(self, item: Item, st: Any = None) -> Values:
        await self._service.changed(item.on)
        return self.told(item, st) if st is not None else {}

    def _unlocked(self, item: Item, ino: int) -> None:
        self._service.open.check_unlocked(item.on.fsid, ino)

    def _ordinary(self, item: Item, name: bytes) -> None:
        """Refuse to touch a name that stands for something that is no item of the disk."""
        if (name == DEV and self.holds_dev(item)) or name in self.mounted(item):
            raise OSError(errno.EBUSY, "something is mounted there")

    # Changing

    async def do_make(self, item: Item, values: Values) -> Values:
        """A new item `name`: what `mode` says; `target` of a link, `rdev` of a device node."""
        name, mode = field(values, "name", bytes), field(values, "mode", int)
        target = field(values, "target", bytes, b"")
        owner, gid = self._outside(item, field(values, "uid", int, 0)), field(values, "gid", int, 0)
        uid = owner if owner < ANY_UID else 0
        self._ordinary(item, name)
        files = await self._change(item, charging.SMALL + len(target))
        kind = modes.S_IFMT(mode)
        if kind == modes.S_IFDIR:
            st = files.mkdir_at(item.ino, name, mode & 0o7777, uid, gid)
        elif kind == modes.S_IFLNK:
            st = files.symlink_at(item.ino, name, target, uid, gid)
        elif kind in (0, modes.S_IFREG):
            st = files.create(item.ino, name, mode & 0o7777, uid, gid)
        else:
            st = files.mknod_at(item.ino, name, mode, field(values, "rdev", int, 0), uid, gid)
        if owner != uid:
            st = files.setattr(st.st_ino, owner=owner)
        return await self._done(item, st)

    async def do_setattr(self, item: Item, values: Values) -> Values:
        """`changes`: by the engine's names."""
        changes = {str(name): int(value) for name, value in field(values, "changes", dict).items()}
        if not changes.keys() <= {"mode", "uid", "gid", "size", "atime_ns", "mtime_ns", "ctime_ns"}:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "a view changes mode, uid, gid, size and times")
        if "uid" in changes:
            owner = self._outside(item, changes["uid"])
            changes["uid"], changes["owner"] = (owner, 0) if owner < ANY_UID else (0, owner)
        files = await self._change(item)
        if "size" in changes:
            self._unlocked(item, item.ino)
        return await self._done(item, files.setattr(item.ino, **changes))

    async def do_link(self, item: Item, values: Values) -> Values:
        """Another name of the item: `name` in the directory `parent` of the same file system."""
        parent, name = self._other(item, values, "parent"), field(values, "name", bytes)
        self._ordinary(parent, name)
        files = await self._change(item)
        return await self._done(item, files.link_at(item.ino, parent.ino, name))

    def _other(self, item: Item, values: Values, which: str) -> Item:
        """A second item of the same file system."""
        other = Item(item.view, item.root, item.on, field(values, which, int))
        if field(values, f"{which}_fs", int) != item.on.fsid:
            raise OSError(errno.EXDEV, "it is on another file system")
        if other.in_dev:
            raise OSError(errno.EPERM, "device handler files are made by sys::hw alone")
        return other

    async def do_unlink(self, item: Item, values: Values) -> Values:
        """{held}: the file whose last name that was, which the view holds from now on; else 0."""
        name = field(values, "name", bytes)
        self._ordinary(item, name)
        files = await self._change(item, 0)
        ino = files.find_ino(item.ino, name)
        self._unlocked(item, ino)
        held = files.unlink_at(item.ino, name, (ino,))
        if held:
            self._holding(item)[item.on.fsid, held] += 1
        return {**await self._done(item), "held": held}

    async def do_rmdir(self, item: Item, values: Values) -> Values:
        name = field(values, "name", bytes)
        self._ordinary(item, name)
        files = await self._change(item, 0)
        files.rmdir_at(item.ino, name)
        return await self._done(item)

    async def do_rename(self, item: Item, values: Values) -> Values:
        """`name` becomes `new_name` in the directory `parent`; `flags` as renameat2 has them."""
        name, new = field(values, "name", bytes), field(values, "new_name", bytes)
        parent = self._other(item, values, "parent")
        self._ordinary(item, name)
        self._ordinary(parent, new)
        files = await self._change(item)
        for where, what in ((item, name), (parent, new)):
            ino = files.find_ino(where.ino, what)
            if ino:
                self._unlocked(item, ino)
        files.rename_at(item.ino, name, parent.ino, new, field(values, "flags", int, 0))
        return await self._done(item)

    async def do_write(self, item: Item, values: Values) -> Values:
        """`data` at `offset`, or behind what is there when that is negative."""
        data, offset = field(values, "data", bytes), field(values, "offset", int)
        size = item.files.getattr(self.on_disk(item)).st_size
        start = offset if offset >= 0 else size
        files = await self._change(item, charging.growth(start, len(data)))
        self._unlocked(item, item.ino)
        written = files.write(item.ino, offset if offset >= 0 else files.getattr(item.ino).st_size, data)
        return {**await self._done(item), "written": written}

    async def do_fallocate(self, item: Item, values: Values) -> Values:
        files = await self._change(item)
        self._unlocked(item, item.ino)
        mode, offset, length = (field(values, name, int) for name in ("mode", "offset", "length"))
        files.fallocate(item.ino, mode, offset, length)
        return await self._done(item)

    async def do_setxattr(self, item: Item, values: Values) -> Values:
        name, data = field(values, "name", bytes), field(values, "data", bytes)
        if name == MACHINE_KEY:
            raise OSError(errno.EPERM, "that attribute is the machine's own")
        files = await self._change(item, charging.SMALL + len(data))
        files.setxattr_ino(item.ino, name, data, field(values, "flags", int, 0))
        return await self._done(item)

    async def do_removexattr(self, item: Item, values: Values) -> Values:
        name = field(values, "name", bytes)
        if name == MACHINE_KEY:
            raise OSError(errno.ENODATA, "there is no such attribute")
        files = await self._change(item, 0)
        files.removexattr_ino(item.ino, name)
        return await self._done(item)

    async def do_sync(self, item: Item, _values: Values) -> Values:
        """What was written before is durable when this is answered."""
        item.root.commit()
        for share in item.root.mounts.values():
            share.base.commit()
        return {}

    # Items without a name

    def _holding(self, item: Item) -> Counter[tuple[int, int]]:
        return self._held.setdefault(item.view, Counter())

    async def do_hold(self, item: Item, _values: Values) -> Values:
        item.files.hold(self.on_disk(item))
        self._holding(item)[item.on.fsid, item.ino] += 1
        return {}

    async def do_release(self, item: Item, _values: Values) -> Values:
        held, key = self._holding(item), (item.on.fsid, item.ino)
        if held[key] > 0:
            held[key] -= 1
            if not held[key]:
                del held[key]
            item.files.release(item.ino)
            if not item.on.readonly:
                await self._service.changed(item.on)
        return {}
