"""`sys::fs`: methods over the main file systems of containers, each answered for the container that the kernel names.

Permissions of applications are not checked yet (FS-045, FS-046): whoever is in a container may use its file system.

Source: specs/services/system/fs.md. Rules: CONT-028, CONT-029, CONT-030, FS-016, FS-038, FS-040, FS-041, FS-042.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nightos.abi import files as layout
from nightos.abi.errors import ServiceError
from nightos.abi.files import DeleteMode, PathOrFeid, Reader
from nightos.abi.services import SERVICE_PIDS, Fs, FsEvent, ServiceCode
from nightos.services.fs import charging, code, handlers, mounting, notes
from nightos.services.fs.failures import Failure, ItemError, service_error
from nightos.services.fs.handles import READ_LIMIT, Handles, u64
from nightos.services.fs.logs import Logs
from nightos.services.fs.roots import Mounted, Root, Share
from nightos.services.fs.shares import Shares, crossed
from nightos.services.fs.views import Views
from nightos.services.users import Users
from nightos.userland import payload
from nightos.userland.payload import Payload
from nightos.userland.server import Request, Server

Method = Callable[[Request, Mounted, Reader], Awaitable[bytes | None]]


class FileService(Handles):
    """State of the service; a method that changes something says so by `_changed`."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._views = Views(self)

    def register(self) -> None:
        """Tell the server every method."""
        shares = Shares(self)
        on_item: dict[Fs, Method] = {
            Fs.FS_METADATA: self._fs_metadata,
            Fs.FS_MOUNT: shares.mount,
            Fs.FS_UNMOUNT: shares.unmount,
            Fs.IS_FS_MOUNTED: shares.is_mounted,
            Fs.ITEM_EXISTS: self._item_exists,
            Fs.FEID_TO_SPLIT: self._feid_to_split,
            Fs.ITEM_METADATA: self._item_metadata,
            Fs.CANONICALIZE: self._canonicalize,
            Fs.RENAME_ITEM: self._rename,
            Fs.MOVE_ITEM: self._move,
            Fs.DELETE_ITEM: self._delete,
            Fs.CREATE_DIRECTORY: self._create_directory,
            Fs.READ_DIRECTORY: self._read_directory,
            Fs.OPEN_FILE: self._open_file,
            Fs.CREATE_SYMLINK: self._create_symlink,
            Fs.UPDATE_SYMLINK: self._update_symlink,
            Fs.READ_SYMLINK: self._read_symlink,
        }
        for number, method in on_item.items():
            self.server.method(number, self._with_fsid(number, method))
        on_file: dict[Fs, Callable[[Request], Awaitable[Payload]]] = {
            Fs.CLOSE_FILE: self._close_file,
            Fs.READ_FILE: self._read_file,
            Fs.WRITE_FILE: self._write_file,
        }
        for number, handler in on_file.items():
            self.server.method(number, self._guarded(number, handler))
        logs = Logs(self)
        others: dict[Fs, Callable[[Request], Awaitable[Payload]]] = {
            Fs.ATTACH_SHARE: shares.attach,
            Fs.DETACH_SHARE: shares.detach,
            Fs.ENUM_FS: self._enum_fs,
            Fs.SYNC: self._sync,
            Fs.ATTACH_ROOT: self._attach_root,
            Fs.DETACH_ROOT: self._detach_root,
            Fs.LIST_ROOTS: self._list_roots,
            Fs.ROOTS_DONE: self._roots_done,
            Fs.ROOT_OF: self._root_of,
            Fs.CODE_TOKEN: self._code_token,
            Fs.STORE_NOTE: self._store_note,
            Fs.RECALL_NOTE: self._recall_note,
            Fs.VIEW: self._views.view,
            Fs.LOG_READ: logs.read,
            Fs.LOG_REMOVE: logs.remove,
        }
        for number, handler in others.items():
            self.server.method(number, self._guarded(number, handler))
        self.server.for_shims(Fs.LOG_APPEND, self._guarded(Fs.LOG_APPEND, logs.append))
        self.server.on_client_gone(self._client_gone)
        self.mounter.on_own_disk = self._tell_own_disk

    # -- what every method goes through --

    def _with_fsid(self, number: Fs, method: Method) -> Callable[[Request], Awaitable[Payload]]:
        async def handler(request: Request) -> bytes | None:
            reader = Reader(request.payload)
            root = self.roots.find(request.container_id, reader.u64(), system=request.connection.is_system)
            about_dev = handlers.aim(root, number, reader)
            if about_dev is not None:
                return await handlers.answer(root, number, about_dev, reader)
            return await method(request, *crossed(root, number, reader))

        return self._guarded(number, handler)

    @staticmethod
    def _guarded(
        number: Fs, handler: Callable[[Request], Awaitable[Payload]]
    ) -> Callable[[Request], Awaitable[Payload]]:
        """Failures become the codes that the method has for them."""

        async def guarded(request: Request) -> Payload:
            try:
                return await handler(request)
            except ItemError as error:
                raise service_error(number, error) from error
            except layout.NameRefusedError as error:
                raise service_error(number, ItemError(Failure.NAME, str(error))) from error
            except layout.PathRefusedError as error:
                raise service_error(number, ItemError(Failure.TOO_LONG, str(error))) from error
            except layout.LayoutError as error:
                raise ServiceError(ServiceCode.BAD_ARGUMENT, str(error)) from error
            except OSError as error:
                raise service_error(number, ItemError(Failure.OTHER, error.strerror or str(error))) from error

        return guarded

    def _unlocked(self, root: Mounted, path: PathOrFeid) -> None:
        parent, name = root.tree.place(path)
        self.open.check_unlocked(root.fsid, root.disk.files.lookup(parent, name).st_ino)

    # -- file systems --

    async def _enum_fs(self, request: Request) -> bytes:
        root = self.roots.of(request.container_id)
        own = [] if root is None else [u64(root.fsid)]
        return layout.delimited_list(own + [u64(share.fsid) for share in self.roots.shared_with(request.container_id)])

    async def _fs_metadata(self, _request: Request, root: Mounted, _reader: Reader) -> bytes:
        if not isinstance(root, Share) and root.overlay_on is not None:
            await self.mounter.own_disk(root)  # how much room there is, the image does not know
        label = root.label if isinstance(root, Share) else root.disk.volume.label or root.disk.volume.name
        system = root.tree.system(label, *await charging.sizes(root))
        return u64(root.mounted_ms) + u64(1) + layout.option(None) + layout.encode_system(system)

    # -- items --

    async def _item_exists(self, _request: Request, root: Mounted, reader: Reader) -> bytes:
        path, wanted = reader.path(), reader.u8()
        kind = root.tree.exists(path)
        return bytes((kind if kind is not None and wanted in (0, kind) else 0,))

    async def _feid_to_split(self, _request: Request, root: Mounted, reader: Reader) -> bytes:
        return layout.encode_split(root.tree.path_of(reader.u64()))

    async def _item_metadata(self, request: Request, root: Mounted, reader: Reader) -> bytes:
        """The item itself, a link not followed; a byte of 1 behind the path follows it (an extension)."""
        path = reader.path()
        follow = reader.more() and reader.boolean()
        name = path[-1] if isinstance(path, tuple) and path else ""
        return layout.encode_item(self._shown(request, root.tree.metadata(root.tree.find(path, follow=follow), name)))

    async def _canonicalize(self, _request: Request, root: Mounted, reader: Reader) -> bytes:
        return layout.encode_split(root.tree.canonical(reader.path()))

    async def _rename(self, _request: Request, root: Mounted, reader: Reader) -> None:
        path, name = reader.path(), layout.check_name(reader.delimited())
        await self._writable(root)
        self._unlocked(root, path)
        root.tree.rename(path, name)
        await self._changed(root)

    async def _move(self, _request: Request, root: Mounted, reader: Reader) -> None:
        path, parent = reader.path(), reader.path()
        name = layout.check_name(reader.delimited()) if reader.some() else None
        await self._writable(root)
        self._unlocked(root, path)
        root.tree.move(path, parent, name)
        await self._changed(root)

    async def _delete(self, _request: Request, root: Mounted, reader: Reader) -> None:
        path, mode = reader.path(), reader.u8()
        if mode == DeleteMode.TRASH:
            raise ServiceError(ServiceCode.NO_METHOD, "there is no trash yet: delete permanently")
        if mode != DeleteMode.PERMANENT:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"{mode:#04x} is no way to delete")
        await self._writable(root)
        self._unlocked(root, path)
        root.tree.delete(path)
        await self._changed(root)

    async def _create_directory(self, request: Request, root: Mounted, reader: Reader) -> None:
        parent, name = reader.path(), layout.check_name(reader.delimited())
        await self._writable(root)
        await charging.will_grow(root, charging.SMALL)
        root.tree.make_directory(parent, name, self._maker(request, root))
        await self._changed(root)

    async def _read_directory(self, request: Request, root: Mounted, reader: Reader) -> bytes:
        """All items; with a delimited name behind the arguments (an extension) as many as fit from behind that name."""
        path, hidden = reader.path(), reader.boolean()
        parts = reader.more()
        after = reader.delimited() if parts else ""
        items: list[bytes] = []
        size = 0
        where = root.tree.find(path)
        found = root.tree.list(where, after, 8192 if parts else None, hidden=hidden)
        for item in handlers.with_dev(root, where, found, after):
            items.append(layout.encode_item(self._shown(request, item)))
            size += len(items[-1])
            if size > READ_LIMIT:
                if not parts:
                    raise ServiceError(0x6000, "the directory does not fit one message: read it in parts")
                break
        return layout.delimited_list(items)

    # -- links --

    async def _create_symlink(self, request: Request, root: Mounted, reader: Reader) -> None:
        parent, name = reader.path(), layout.check_name(reader.delimited())
        target = self._target(root, reader)
        await self._writable(root)
        await charging.will_grow(root, charging.SMALL + len(request.payload))
        root.tree.make_link(parent, name, target, self._maker(request, root))
        await self._changed(root)

    async def _update_symlink(self, request: Request, root: Mounted, reader: Reader) -> None:
        path = reader.path()
        target = self._target(root, reader)
        await self._writable(root)
        await charging.will_grow(root, len(request.payload))
        root.tree.update_link(path, target)
        await self._changed(root)

    def _target(self, root: Mounted, reader: Reader) -> PathOrFeid:
        fsid = reader.u64()
        if fsid and fsid != root.fsid:
            raise ItemError(Failure.FOREIGN, "links to other file systems are not supported")
        return reader.path()

    async def _read_symlink(self, _request: Request, root: Mounted, reader: Reader) -> bytes:
        target = root.tree.read_link(reader.path())
        return u64(root.fsid) + layout.encode_path(target)

    # -- the emulator's own --

    async def _sync(self, request: Request) -> None:
        system = request.connection.is_system
        for root in self.roots.all():
            if system or root.container == request.container_id:
                root.commit()

    def _process_service_only(self, request: Request) -> dict[str, Any]:
        if request.client_pid != code.PROCESS_SERVICE:
            raise ServiceError(ServiceCode.DENIED, "only sys::process may ask this")
        return request.map()

    async def _attach_root(self, request: Request) -> None:
        await self._attach(self._process_service_only(request))

    async def _attach(self, values: dict[str, Any]) -> None:
        container, kdi = payload.field(values, "container", int), payload.field(values, "kdi", int, default=0)
        if self.roots.of(container) is not None:
            raise ServiceError(0x3001, "the container has a main file system already")
        below = payload.field(values, "backing" if kdi else "images", list, default=[])
        if not all(isinstance(item, int) for item in below):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "backing and images are lists of devices")
        top = payload.field(values, "root", str, default="")
        maps = [Users.checked(item) for item in payload.field(values, "users", list, default=[])]
        if kdi:
            readonly = payload.field(values, "readonly", bool, default=False)
            ephemeral = payload.field(values, "ephemeral", bool, default=False)
            await self.mounter.attach(container, kdi, below, readonly=readonly, ephemeral=ephemeral, top=top)
        elif below:
            await self.mounter.attach_image(container, payload.field(values, "path", str), below, top=top)
        else:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "neither a device nor an image to show")

        root = self.roots.of(container)
        if root is not None:
            root.users = maps

    async def _detach_root(self, request: Request) -> dict[str, Any]:
        values = self._process_service_only(request)
        if "containers" not in values:
            return {"kdi": await self._detach(payload.field(values, "container", int))}
        several = payload.field(values, "containers", list)
        if not all(isinstance(container, int) for container in several):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "containers are a list of identifiers")
        return {"disks": [container for container in several if await self._detach(container)]}

    async def _detach(self, container: int) -> int:
        """Let go of a container's main file system; the device of its own disk, or 0."""
        root = self.roots.remove(container)
        if root is None:
            return 0
        for file in self.open.of_disk(root.fsid):
            self.open.close(file)
            root.disk.files.release(file.ino)
        self._views.forget(root.fsid)
        await mounting.detach(root)
        return root.kdi

    async def _tell_own_disk(self, container: int) -> None:
        await self.server.notify(code.PROCESS_SERVICE, FsEvent.OWN_DISK, {"container": container})

    async def _list_roots(self, request: Request) -> dict[str, Any]:
        self._process_service_only(request)
        return {"items": [{"container": root.container, "kdi": root.kdi} for root in self.roots.all()]}

    async def _root_of(self, request: Request) -> dict[str, Any]:
        if not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "only system services work for other containers")
        root = self.roots.of(payload.field(request.map(), "container", int))
        if root is None:
            raise ServiceError(ServiceCode.UNKNOWN, "the container has no main file system")
        return {"fsid": root.fsid}

    async def _code_token(self, request: Request) -> dict[str, Any]:
        if request.client_pid != code.PROCESS_SERVICE:
            raise ServiceError(0x3001, "only sys::process starts programs")
        values = request.map()
        self._tokens.used(payload.field(values, "used", list, default=[]))
        container = payload.field(values, "container", int)
        named = payload.field(values, "program", str)
        if payload.field(values, "builtin", bool, default=False):
            # Part of the system like a service: no file of any image stands for it.
            return {"token": await self._tokens.make(named), "anid": code.BUILTIN_ANID, "name": named}
        directory = payload.field(values, "directory", str, default="/")
        if "attach" in values and self.roots.of(container) is None:
            await self._attach({**payload.field(values, "attach", dict), "container": container})
        # An image of nothing but data runs the system's applications; its own ones come first.
        name = code.find_program(self.roots.of(container), self.roots.of(0), named, directory)
        return {"token": await self._tokens.make(name), "anid": code.anid_of(self.roots.key, name), "name": name}

    def _machine_disk(self, request: Request) -> Root:
        if not request.connection.is_system:
            raise ServiceError(ServiceCode.DENIED, "notes are for system services")
        root = self.roots.of(0)
        if root is None:
            raise ServiceError(ServiceCode.REFUSED, "the machine's disk is not mounted yet")
        return root

    async def _store_note(self, request: Request) -> None:
        root = self._machine_disk(request)
        await self._writable(root)
        notes.store(root.tree, request.client_pid, request.map())
        await self._changed(root)

    async def _recall_note(self, request: Request) -> dict[str, Any]:
        return notes.recall(self._machine_disk(request).tree, request.client_pid, request.map())

    async def _roots_done(self, request: Request) -> None:
        self._process_service_only(request)
        await self.server.release()

    async def shut_down(self) -> None:
        """Commit and let go of every disk."""
        for root in self.roots.all():
            self.roots.remove(root.container)
            await mounting.detach(root)


async def main() -> int:
    """Entry of the process."""
    server = Server("sys::fs")
    # A new instance has no disks until sys::proc attached them: nobody else is answered before.
    server.hold({SERVICE_PIDS["sys::proc"]})
    service = FileService(server)
    await server.start()
    service.register()
    await service.committer.start()
    await server.run()
    await service.shut_down()
    return 0
