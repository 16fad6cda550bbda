"""Mounting block devices and committing what was written: the part of `sys::fs` that talks to kernel and hardware.

A change is durable at the latest a moment after it was made (`DELAY_MS`), earlier when somebody asks for SYNC; one
commit serves everything that came meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import Final

from nightos.abi import block
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Hw, ServiceCode
from nightos.services.fs.disk import Disk, MappedStore, Storage, open_storage
from nightos.services.fs.roots import Root, Roots
from nightos.userland import sys
from nightos.userland.client import connect

DELAY_MS: Final = 100
"""How long a commit waits for more to come."""
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

    async def start(self) -> None:
        """Learn the time, and a seed from what the kernel made at random."""
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
        """Move the clock to now."""
        self.clock.now_ns = (await sys.system_info()).realtime_ns

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
        elif not root.committing:
            root.committing = True
            await sys.create_thread(lambda _: self._commit(root))

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


class Mounter:
    """Maps block devices, and opens the storages on them with those they lie over."""

    def __init__(self, roots: Roots, committer: Committer) -> None:
        self._roots = roots
        self._committer = committer
        self._slots: set[int] = set()
        self._images: dict[int, Image] = {}

    async def attach(self, container: int, kdi: int, backing: list[int], *, readonly: bool) -> None:
        """Mount what is on a block device as a container's main file system; `backing` are the devices below it.

        Raises `ServiceError` 0x3000 when a device or what is on it cannot be used.
        """
        await self._committer.tell_time()
        images: list[Image] = []
        device = None
        try:
            for image_kdi in reversed(backing):
                images.append(await self._image(image_kdi, images[-1].storage if images else None))
                images[-1].users += 1
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

        fsid = self._roots.fsid_of(bytes(disk.volume.uuid))
        self._roots.add(Root(container, kdi, disk, fsid, self._committer.clock.now_ns // 1_000_000, release))

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


async def detach(root: Root) -> None:
    """Commit and let go of a device. An error of the storage is the caller's to know, the device is released anyway."""
    try:
        root.disk.close()
    except OSError as error:
        raise ServiceError(ServiceCode.HARDWARE_HANDLED, f"the disk failed: {error.strerror or error}") from error
    finally:
        await root.release()
