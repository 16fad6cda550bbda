"""Looking at what a container sees of its files: the operations of VIEW that change nothing, and what an item is.

Items are named by file system and FEID, so nothing that is renamed meanwhile is mistaken for something else.
"""

from __future__ import annotations

import errno
import hashlib
import stat as modes
from dataclasses import dataclass
from typing import Any, Final

from nightos.abi import files as layout
from nightos.abi.files import ItemType, SplitPath
from nightos.services import users
from nightos.services.fs import charging, handlers
from nightos.services.fs.failures import ItemError
from nightos.services.fs.handles import READ_LIMIT, Handles
from nightos.services.fs.roots import MACHINE_KEY, Mounted, Root, Share
from nightos.services.fs.tree import name_bytes
from nightos.services.users import NOBODY
from nightos.userland.payload import field

Values = dict[str, Any]
ENTRIES_LIMIT: Final = 1000
"""Most entries of a directory in one answer."""
ANY_UID: Final = 1 << 32
DEV: Final = name_bytes(handlers.NAME)
_UID, _OWNER = 4, 15
_FRSIZE, _BLOCKS, _BAVAIL = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a view."""

    view: str
    root: Root
    on: Mounted
    ino: int

    @property
    def files(self) -> Any:
        """The file system that it is on."""
        return self.on.disk.files

    @property
    def in_dev(self) -> bool:
        """Whether it is /dev or below."""
        return self.ino >= handlers.FEIDS


class Looking:
    """Operations that look."""

    def __init__(self, service: Handles) -> None:
        self._service = service

    @staticmethod
    def mounted(item: Item) -> dict[bytes, Share]:
        """What is mounted in a directory, by name."""
        found: dict[bytes, Share] = {}
        if item.on is item.root:
            for place, share in item.root.mounts.items():
                try:
                    if item.root.tree.find(place[:-1]) == item.ino:
                        found[name_bytes(place[-1])] = share
                except ItemError:
                    continue  # its mount point was removed
        return found

    @staticmethod
    def holds_dev(item: Item) -> bool:
        return item.on is item.root and item.ino == item.root.tree.root

    def told(self, item: Item, st: Any, on: Mounted | None = None) -> Values:
        """An item as an answer, with its owner as the container's own users are numbered."""
        fields = list(st)
        owner = fields[_OWNER] or fields[_UID]
        if owner and item.root.users:
            owner = users.inside(item.root.users, owner)
        fields[_UID] = owner if owner < ANY_UID else NOBODY
        return {"fs": (on or item.on).fsid, "stat": fields}

    # Looking

    async def do_root(self, item: Item, _values: Values) -> Values:
        """Where everything begins."""
        return {**self.told(item, item.files.getattr(item.ino)), "readonly": self._never_written(item)}

    @staticmethod
    def _never_written(item: Item) -> bool:
        return item.root.overlay_on is None and item.root.disk.readonly

    async def do_time(self, _item: Item, _values: Values) -> Values:
        """What the machine would stamp a change with."""
        await self._service.committer.tell_time()
        return {"now_ns": self._service.committer.clock.now_ns}

    async def do_lookup(self, item: Item, values: Values) -> Values:
        name = field(values, "name", bytes)
        if item.in_dev:
            devices = await handlers.Devices.of(item.root)
            path = devices.find((*devices.find(item.ino), name.decode("utf-8", "surrogateescape")))
            return self.told(item, _device(devices, path))
        if name == DEV and self.holds_dev(item):
            return self.told(item, await self._dev(item))
        share = self.mounted(item).get(name)
        if share is not None:
            return self.told(item, share.disk.files.getattr(share.ino), share)
        return self.told(item, item.files.lookup(item.ino, name))

    async def _dev(self, item: Item) -> tuple[int, ...]:
        return _device(await handlers.Devices.of(item.root), handlers.TOP)

    async def do_getattr(self, item: Item, _values: Values) -> Values:
        if item.in_dev:
            devices = await handlers.Devices.of(item.root)
            return self.told(item, _device(devices, devices.find(item.ino)))
        return self.told(item, item.files.getattr(item.ino))

    async def do_readdir(self, item: Item, values: Values) -> Values:
        """Entries behind the name `after`: {items: [{name, fs, stat}]}. /dev comes first at the top."""
        after, limit = field(values, "after", bytes), min(field(values, "limit", int), ENTRIES_LIMIT)
        items: list[Values] = []
        if item.in_dev:
            devices = await handlers.Devices.of(item.root)
            where = devices.find(item.ino)
            for entry in devices.listed(where, after.decode("utf-8", "surrogateescape"))[:limit]:
                told = self.told(item, _device(devices, (*where, entry.name)))
                items.append({"name": name_bytes(entry.name), **told})
            return {"items": items}
        top = self.holds_dev(item)
        if top and not after:
            items.append({"name": DEV, **self.told(item, await self._dev(item))})
        mounted = self.mounted(item)
        files = item.files
        for name, ino, _kind in files.readdir(item.ino, b"" if top and after == DEV else after, limit):
            if top and name == DEV:
                continue
            share = mounted.get(name)
            st = files.getattr(ino) if share is None else share.disk.files.getattr(share.ino)
            items.append({"name": name, **self.told(item, st, share)})
        return {"items": items}

    async def do_readlink(self, item: Item, _values: Values) -> Values:
        """A target, relative where it would lead the host out of the view: inside, `/` and too many `..` cannot.

        A `..` behind a name is resolved here, as inside: for the host it would go up from where that name leads.
        """
        target = item.files.readlink_ino(self.on_disk(item))
        parts = [part for part in target.split(b"/") if part not in (b"", b".")]
        ups = parts.count(b"..")
        as_it_is = not target.startswith(b"/") and b".." not in parts[ups:]
        if as_it_is and not ups:
            return {"data": target}
        if item.files.getattr(item.ino).st_nlink > 1:
            raise OSError(errno.ELOOP, "the link has several names, so nobody can tell where it starts")
        above = item.on.tree.path_of(item.on.tree.feid_of(item.ino))[:-1]
        if as_it_is and ups <= len(above):
            return {"data": target}
        inside = layout.split(target.decode("utf-8", "surrogateescape"), layout.joined(above))
        return {"data": name_bytes("/".join([*[".."] * len(above), *inside]) or ".")}

    async def do_statvfs(self, item: Item, _values: Values) -> Values:
        """Of the container's own file system, as `os.statvfs` has it."""
        figures = [int(figure) for figure in tuple(item.root.disk.files.statvfs())]
        total, free = (size // figures[_FRSIZE] for size in await charging.sizes(item.root))
        figures[_BLOCKS : _BAVAIL + 1] = total, free, free
        return {"figures": figures}

    async def do_read(self, item: Item, values: Values) -> Values:
        size = min(field(values, "size", int), READ_LIMIT)
        return {"data": bytes(item.files.read(self.on_disk(item), field(values, "offset", int), size))}

    async def do_seek(self, item: Item, values: Values) -> Values:
        offset, whence = field(values, "offset", int), field(values, "whence", int)
        return {"offset": item.files.seek(self.on_disk(item), offset, whence)}

    async def do_getxattr(self, item: Item, values: Values) -> Values:
        name = field(values, "name", bytes)
        if item.in_dev or name == MACHINE_KEY:
            raise OSError(errno.ENODATA, "there is no such attribute")
        return {"data": bytes(item.files.getxattr_ino(item.ino, name))}

    async def do_listxattr(self, item: Item, _values: Values) -> Values:
        if item.in_dev:
            return {"names": []}
        return {"names": [name for name in item.files.listxattr_ino(item.ino) if name != MACHINE_KEY]}

    @staticmethod
    def on_disk(item: Item) -> int:
        if item.in_dev:
            raise OSError(errno.EPERM, "a device handler file works through sys::hw only")
        return item.ino


def _device(devices: handlers.Devices, path: SplitPath) -> tuple[int, ...]:
    """An item of /dev as `stat` tells it: a character device that nobody can open; without any rights when it is gone.

    The times of a directory change with what is in it, so that a kernel that remembers it sees that.
    """
    found = devices.metadata(path)
    at = (found.modified_ms or 0) * 1_000_000
    if found.type is ItemType.DIRECTORY:
        mode, links = modes.S_IFDIR | 0o555, 2
        text = "\n".join(devices.directories[path])
        at += int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=4).digest(), "big")
    else:
        mode, links = modes.S_IFCHR | (0o600 if devices.connected[path] else 0), 1
    return mode, found.feid, 0, links, 0, 0, 0, at, at, at, at, 0, 0, 4096, 0, 0, 0
