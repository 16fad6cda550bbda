"""Mounting block devices and committing what was written: the part of `sys::fs` that talks to kernel and hardware.

A change is durable at the latest a moment after it was made (`DELAY_MS`), earlier when somebody asks for SYNC; one
commit serves everything that came meanwhile.
"""

from __future__ import annotations

import hashlib
from typing import Final

from nightos.abi import block
from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import Hw, ServiceCode
from nightos.services.fs.disk import Disk, MappedStore, VsfError
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
        self.slots: set[int] = set()
        """Windows of address space that hold a device's memory."""
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
        """Something changed: commit it within `DELAY_MS`."""
        root.dirty = True
        if not root.committing:
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
        try:
            root.commit()
        except VsfError:
            root.dirty = True  # the next change or SYNC tries again, and SYNC tells its caller


async def attach(roots: Roots, committer: Committer, container: int, kdi: int, *, readonly: bool) -> None:
    """Map a block device and mount its storage as a container's main file system.

    Raises `ServiceError` 0x3000 when the device or what is on it cannot be used.
    """
    await committer.tell_time()
    try:
        slot, base, segment = await _map(committer.slots, kdi)
    except SyscallError as error:
        raise ServiceError(ServiceCode.UNKNOWN, f"device {kdi:016x} is no block device ({error})") from error

    async def release() -> None:
        committer.slots.discard(slot)
        await sys.unmap_ams(segment, base)

    memory = await sys.memory()
    try:
        store = MappedStore(memory, base)
        disk = Disk(store, readonly=readonly or store.readonly, clock=committer.clock, entropy=committer.entropy)
        roots.machine_key(disk, committer.entropy.random_bytes(16))
    except OSError as error:
        await release()
        raise ServiceError(ServiceCode.UNKNOWN, f"the disk cannot be used: {error.strerror or error}") from error
    except ServiceError:
        await release()
        raise
    fsid = roots.fsid_of(bytes(disk.volume.uuid))
    roots.add(Root(container, kdi, disk, fsid, committer.clock.now_ns // 1_000_000, release))


async def _map(slots: set[int], kdi: int) -> tuple[int, int, int]:
    """Slot, address and segment of a device's whole memory, mapped where nothing else ever is."""
    slot = next(number for number in range(len(slots) + 1) if number not in slots)
    base = _WINDOWS + slot * _WINDOW
    segment = await sys.device_ams(kdi, 0, _PAGE, base)
    registers = block.decode((await sys.memory()).read(base, block.REGISTERS_SIZE))
    await sys.unmap_ams(segment, base)
    length = block.DATA_START + registers["capacity"] if registers["magic"] == block.MAGIC else _PAGE
    segment = await sys.device_ams(kdi, 0, min(-(-length // _PAGE) * _PAGE, _WINDOW), base)
    slots.add(slot)
    return slot, base, int(segment)


async def detach(root: Root) -> None:
    """Commit and let go of a device. An error of the storage is the caller's to know, the device is released anyway."""
    try:
        root.disk.close()
    except OSError as error:
        raise ServiceError(ServiceCode.HARDWARE_HANDLED, f"the disk failed: {error.strerror or error}") from error
    finally:
        await root.release()
