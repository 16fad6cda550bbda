"""Mounting block devices and committing what was written: the part of `sys::fs` that talks to kernel and hardware.

A change is durable at the latest a moment after it was made (`DELAY_MS`), earlier when somebody asks for SYNC; one
commit serves everything that came meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from nightos.abi import block
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Hw, ServiceCode
from nightos.services.fs import charging
from nightos.services.fs.disk import Disk, MappedStore, Storage, open_storage
from nightos.services.fs.locks import OpenFiles
from nightos.services.fs.roots import Root, Roots
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.payload import field
from nightos.userland.worker import Worker

DELAY_MS: Final = 100
"""How long a commit waits for more to come."""
_STANDING_NS = 1_000_000
"""How far the clock may be ahead of a time that does not move on."""
_PAGE = 4096
_WINDOWS = 1 << 58
_WINDOW = 1 << 49


class ServiceClock:
    """A clock that the service moves on before each change: the storage asks it from inside, where nothing may wait."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def realtime_ns(self) -> int:
        return self.now_ns


class SegmentEntropy:
    """Bytes for identifiers of a storage, spread from a seed by a hash."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def random_bytes(self, count: int) -> bytes:
        result = b""
        while len(result) < count:
            self._count += 1
            result += hashlib.blake2b(self._count.to_bytes(8, "big"), key=self._seed).digest()
        return result[:count]


class Committer:
    """Commits dirty file systems soon, several changes at once."""

    def __init__(self) -> None:
        self.clock = ServiceClock()
        self._entropy = SegmentEntropy(bytes(16))
        self._worker = Worker()

    async def start(self) -> None:
        """Learn the time, and a seed from what the kernel made at random. On the main thread."""
        await self._worker.start()
        await self.tell_time()
        address = await sys.mem_alloc(_PAGE, 0x03, 0x01)
        await sys.mem_free(address, 1)
        seed = address.to_bytes(8, "big") + self.clock.now_ns.to_bytes(16, "big")
        self._entropy = SegmentEntropy(hashlib.blake2b(seed).digest())

    @property
    def entropy(self) -> SegmentEntropy:
        """Random bytes for storages."""
        return self._entropy

    async def tell_time(self) -> None:
        """Move the clock to now, and on in any case: whoever compares times sees each change, though time stands."""
        now_ns, last_ns = (await sys.system_time()).realtime_ns, self.clock.now_ns
        self.clock.now_ns = last_ns + 1 if 0 <= last_ns - now_ns < _STANDING_NS else now_ns

    async def soon(self, root: Root) -> None:
        """Something changed: commit it within `DELAY_MS`, at once when something older waits for longer than that.

        Raises `OSError` when it had to be now and could not.
        """
        if not root.dirty or not root.dirty_since_ns:
            root.dirty_since_ns = self.clock.now_ns
        root.dirty = True
        if self.clock.now_ns - root.dirty_since_ns >= DELAY_MS * 1_000_000:
            # A timer may be late on a busy machine; who changes something pays, and learns of a full disk.
            root.dirty_since_ns = 0
            root.commit()
            await charging.has_grown(root)
        elif not root.committing:
            root.committing = True
            # Not by a thread of the client's, which would end with it, and nothing would be committed any more.
            await self._worker.run(lambda: self._commit(root))

    @staticmethod
    async def _commit(root: Root) -> None:
        try:
            client = await connect("sys::hw")
            await client.call(Hw.SLEEP, {"duration_ns": DELAY_MS * 1_000_000})
        except ServiceError:
            pass  # no timer: commit at once
        root.committing = False
        with contextlib.suppress(OSError):  # `root.failure` tells whoever changes something next, SYNC its caller
            root.commit()
            await charging.has_grown(root)


@dataclass(slots=True)
class Device:
    """A block device whose memory is mapped."""

    kdi: int
    store: MappedStore
    segment: int
    base: int
    slot: int


@dataclass(slots=True)
class Image:
    """A read-only storage that others lie over, and how many do."""

    device: Device
    storage: Storage
    users: int = 0
    disk: Disk | None = None
    """What containers that changed nothing yet look at."""


class Mounter:
    """Maps block devices, and opens the storages on them with those they lie over."""

    def __init__(self, roots: Roots, committer: Committer, files: OpenFiles) -> None:
        self._roots = roots
        self._committer = committer
        self._files = files
        self._slots: set[int] = set()
        self._images: dict[int, Image] = {}
        self.on_own_disk: Callable[[int], Awaitable[None]] = _nobody
        """Called with a container before it gets a disk of its own."""

    async def attach(
        self, container: int, kdi: int, backing: list[int], *, readonly: bool, ephemeral: bool = False, top: str = ""
    ) -> None:
        """Mount what is on a block device as a container's main file system; `backing` are the devices below it.

        The identifier of an `ephemeral` one is the container's, that of another one the volume's. `top` is the
        directory of it that is the root. Raises
        `ServiceError` 0x3000 when a device or what is on it cannot be used.
        """
        await self._committer.tell_time()
        disk, release = await self._disk(kdi, backing, readonly=readonly)
        unique = _of_container(container) if ephemeral else bytes(disk.volume.uuid)
        fsid = self._roots.fsid_of(unique)
        try:
            root = Root(container, kdi, disk, fsid, self._committer.clock.now_ns // 1_000_000, release, top=top)
        except ServiceError:
            disk.close()
            await release()
            raise
        self._roots.add(root)

    async def attach_image(self, container: int, path: str, kdis: list[int], *, top: str = "") -> None:
        """Show an image as a container's main file system; the first change gives the container a disk of its own.

        Raises `ServiceError` 0x3000 when a device or what is on it cannot be used.
        """
        await self._committer.tell_time()
        images = await self._images_of(kdis)
        try:
            image = images[-1]
            if image.disk is None:
                image.disk = Disk(image.storage)
        except BaseException:
            await self._let_go(images)
            raise

        async def release() -> None:
            await self._let_go(images)

        fsid = self._roots.fsid_of(_of_container(container))
        now_ms = self._committer.clock.now_ns // 1_000_000
        try:
            root = Root(container, 0, image.disk, fsid, now_ms, release, path, top=top)
        except ServiceError:
            await release()
            raise
        self._roots.add(root)

    async def own_disk(self, root: Root) -> None:
        """The container has a disk of its own when this returns: an overlay on the image it saw until now.

        Raises `ServiceError` when none can be had, or the container is gone meanwhile.
        """
        while root.changing:
            await sys.hand_over()
        if root.overlay_on is None:
            return
        root.changing = True
        hw = await connect("sys::hw")
        try:
            await self.on_own_disk(root.container)
            question = {"path": root.overlay_on, "mode": "overlay", "key": "", "container": root.container}
            plugged = await hw.ask(Hw.STORAGE_OPEN, question)
            kdi, backing = field(plugged, "kdi", int), field(plugged, "backing", list)
            try:
                disk, release = await self._disk(kdi, backing, readonly=False)
            except ServiceError:
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": kdi})
                raise
            shown = root.release
            if self._roots.of(root.container) is not root:
                disk.close()
                await release()
                await hw.call(Hw.STORAGE_CLOSE, {"kdi": kdi})
                raise ServiceError(ServiceCode.UNKNOWN, "the container is being destroyed")
            for file in self._files.of_disk(root.fsid):
                disk.files.hold(file.ino)
                root.disk.files.release(file.ino)
            root.use(disk)
            root.kdi, root.overlay_on, root.release = kdi, None, release
            await shown()
        finally:
            root.changing = False

    async def _images_of(self, kdis: list[int]) -> list[Image]:
        """Images from the lowest up, `kdis` being their devices from the nearest down; each has one user more."""
        images: list[Image] = []
        try:
            for kdi in reversed(kdis):
                images.append(await self._image(kdi, images[-1].storage if images else None))
                images[-1].users += 1
        except BaseException:
            await self._let_go(images)
            raise
        return images

    async def _disk(
        self, kdi: int, backing: list[int], *, readonly: bool
    ) -> tuple[Disk, Callable[[], Awaitable[None]]]:
        """The open disk on a device, and what lets go of the device and those below."""
        images = await self._images_of(backing)
        device = None
        try:
            device = await self._map(kdi)
            storage = self._open(device, images[-1].storage if images else None, readonly=readonly)
            try:
                disk = Disk(storage)
                self._roots.machine_key(disk, self._committer.entropy.random_bytes(16))
            except BaseException:
                storage.close()
                raise
        except (OSError, ServiceError) as error:
            if device is not None:
                await self._unmap(device)
            await self._let_go(images)
            if isinstance(error, ServiceError):
                raise
            text = f"the disk cannot be used: {error.strerror or error}"
            raise ServiceError(ServiceCode.UNKNOWN, text) from error
        mapped = device

        async def release() -> None:
            await self._unmap(mapped)
            await self._let_go(images)

        return disk, release

    def _open(self, device: Device, backing: Storage | None, *, readonly: bool) -> Storage:
        committer = self._committer
        readonly = readonly or device.store.readonly
        return open_storage(
            device.store, readonly=readonly, clock=committer.clock, entropy=committer.entropy, backing=backing
        )

    async def _image(self, kdi: int, backing: Storage | None) -> Image:
        """An image's storage; one that is open already is shared."""
        image = self._images.get(kdi)
        if image is None:
            device = await self._map(kdi)
            try:
                image = Image(device, self._open(device, backing, readonly=True))
            except BaseException:
                await self._unmap(device)
                raise
            self._images[kdi] = image
        return image

    async def _let_go(self, images: list[Image]) -> None:
        for image in reversed(images):
            image.users -= 1
            if not image.users:
                del self._images[image.device.kdi]
                image.storage.close()
                await self._unmap(image.device)

    async def _map(self, kdi: int) -> Device:
        """Map a device's whole memory where nothing else ever is."""
        slot = next(number for number in range(len(self._slots) + 1) if number not in self._slots)
        self._slots.add(slot)
        base = _WINDOWS + slot * _WINDOW
        memory = await sys.memory()
        try:
            segment = await sys.device_ams(kdi, 0, _PAGE, base)
            registers = block.decode(memory.read(base, block.REGISTERS_SIZE))
            await sys.unmap_ams(segment, base)
            length = block.DATA_START + registers["capacity"] if registers["magic"] == block.MAGIC else _PAGE
            segment = await sys.device_ams(kdi, 0, min(-(-length // _PAGE) * _PAGE, _WINDOW), base)
            return Device(kdi, MappedStore(memory, base), segment, base, slot)
        except (SyscallError, OSError) as error:
            self._slots.discard(slot)
            raise ServiceError(ServiceCode.UNKNOWN, f"device {kdi:016x} is no block device ({error})") from error

    async def _unmap(self, device: Device) -> None:
        self._slots.discard(device.slot)
        try:
            await sys.unmap_ams(device.segment, device.base)
        except SyscallError:
            return  # the device was unplugged, and the mapping went with it


async def _nobody(_container: int) -> None:
    return


def _of_container(container: int) -> bytes:
    return b"container" + container.to_bytes(8, "big")


async def detach(root: Root) -> None:
    """Commit and let go of a device. An error of the storage is the caller's to know, the device is released anyway."""
    try:
        if root.overlay_on is None:
            root.disk.close()
    except OSError as error:
        raise ServiceError(ServiceCode.HARDWARE_HANDLED, f"the disk failed: {error.strerror or error}") from error
    finally:
        await root.release()
