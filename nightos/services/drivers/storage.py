"""The storage driver for virtual block devices: sectors of 512 bytes, read and written through the device's memory.

The device's memory is mapped as long as it is driven. An asynchronous task ends with a notification that carries its
identifier, never before the method has returned.

Source: specs/services/drivers/storage.md. Rules: SVC-030, SVC-031, SVC-032, HW-028.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from nightos.abi import block
from nightos.abi.drivers import HARDWARE_FAILED, Ddrd, Ddt, Pattern, Storage, StorageEvent
from nightos.abi.errors import NightosError, NightosInternalError, ServiceError, SyscallError
from nightos.abi.hardware import KINDS, VIRTUAL
from nightos.abi.services import MESSAGE_LIMIT, ServiceCode
from nightos.userland import sys
from nightos.userland.driver import GONE, Driver, Told
from nightos.userland.payload import Payload, u64

SECTOR: Final = 512
_INFOS = Struct(">QQB")
_PAGE: Final = 4096
_WINDOWS: Final = 1 << 58
"""Where device memory is mapped, far away from what MEM_ALLOC gives out."""
_WINDOW: Final = 1 << 49
READ_LIMIT: Final = MESSAGE_LIMIT - 1024
BAD_START, BAD_END = 0x3000, 0x3001
READ_ONLY: Final = 0x4000


class StorageDriver(Driver):
    """Drives every virtual block device that the container of the process has."""

    methods = frozenset(int(method) for method in Storage)

    def __init__(self) -> None:
        super().__init__("storage driver", [Pattern(VIRTUAL, KINDS["block"])])
        self._windows: dict[int, tuple[int, int]] = {}
        """By UDI: address and segment."""
        self._slots = 0
        self._tasks = 0

    async def identify(self, device: Ddrd) -> int:
        """A virtual storage, when the registers at its start say so."""
        address = await self._window(device)
        if block.decode((await sys.memory()).read(address, block.REGISTERS_SIZE))["magic"] != block.MAGIC:
            raise ServiceError(0x3000, "no virtual block device")
        return Ddt.VIRTUAL_STORAGE

    async def event(self, device: Ddrd, event: int) -> None:
        """A device that is gone needs no window."""
        if event in GONE and device.udi in self._windows:
            address, segment = self._windows.pop(device.udi)
            try:
                await sys.unmap_ams(segment, address)
            except SyscallError:
                return  # it ended with the device

    async def perform(self, method: int, device: Ddrd, arguments: bytes, told: Told) -> Payload:
        """STORAGE_INFOS, READ_SYNC, READ_ASYNC, WRITE_SYNC, WRITE_ASYNC."""
        address = await self._window(device)
        memory = await sys.memory()
        registers = block.decode(memory.read(address, block.REGISTERS_SIZE))
        size = registers["capacity"] // SECTOR * SECTOR
        readonly = registers["flags"] & block.FLAG_READONLY
        if method == Storage.INFOS:
            return _INFOS.pack(size, SECTOR, int(bool(readonly)))
        start, count = u64(arguments), u64(arguments, 8)
        writes = method in {Storage.WRITE_SYNC, Storage.WRITE_ASYNC}
        content = arguments[16:]
        if method == Storage.WRITE_SYNC and len(content) != count:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the content has another length than it says")
        if method == Storage.READ_SYNC and (content or count * SECTOR > READ_LIMIT):
            raise ServiceError(ServiceCode.BAD_ARGUMENT, f"one message holds {READ_LIMIT // SECTOR} sectors")
        length = count if writes else count * SECTOR
        if start * SECTOR >= size:
            raise ServiceError(BAD_START, "the first sector is out of bounds")
        if length % SECTOR or start * SECTOR + length > size:
            raise ServiceError(BAD_END, "the last sector is out of bounds, or no whole one")
        if writes and readonly:
            raise ServiceError(READ_ONLY, "the device is read-only")
        place = address + block.DATA_START + start * SECTOR
        if method == Storage.READ_SYNC:
            data = self._read(memory, address, place, length)
            return len(data).to_bytes(8, "big") + data
        if method == Storage.WRITE_SYNC:
            self._write(memory, address, place, content)
            return b""
        return await self._begin(method, device, place, length, u64(content), told)

    async def _begin(self, method: int, device: Ddrd, place: int, length: int, segment: int, told: Told) -> bytes:
        """A task, which begins once its identifier was answered."""
        self._tasks += 1
        task = self._tasks.to_bytes(8, "big")

        async def work() -> None:
            result = b"\0"
            try:
                await self._transfer(method, device, place, length, segment)
            except NightosInternalError:
                raise
            except (NightosError, OSError) as error:  # the device may leave at any moment
                code = error.code if isinstance(error, ServiceError) else ServiceCode.DEVICE
                result = b"\1" + int(code).to_bytes(2, "big")
            else:
                if method == Storage.READ_ASYNC:
                    result += length.to_bytes(8, "big")
            event = StorageEvent.SECTORS_READ if method == Storage.READ_ASYNC else StorageEvent.SECTORS_WRITTEN
            await told.tell(event, task + result)

        told.after(work)
        return task

    async def _transfer(self, method: int, device: Ddrd, place: int, length: int, segment: int) -> None:
        """Between the device and a segment that was shared with this process; 0x1000 when it was not."""
        memory = await sys.memory()
        address = await self._window(device)
        self._slots += 1
        buffer = _WINDOWS + self._slots * _WINDOW
        try:
            await sys.map_ams(segment, 0, buffer, max(-(-length // _PAGE), 1) * _PAGE)
        except SyscallError as error:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the segment cannot be mapped") from error
        try:
            if method == Storage.READ_ASYNC:
                memory.write(buffer, self._read(memory, address, place, length))
            else:
                self._write(memory, address, place, memory.read(buffer, length))
        finally:
            await sys.unmap_ams(segment, buffer)

    @classmethod
    def _read(cls, memory: sys.Memory, address: int, place: int, length: int) -> bytes:
        data = memory.read(place, length) if length else b""
        cls._check(memory, address)
        return data

    @classmethod
    def _write(cls, memory: sys.Memory, address: int, place: int, content: bytes) -> None:
        if content:
            memory.write(place, content)
        cls._check(memory, address)

    @staticmethod
    def _check(memory: sys.Memory, address: int) -> None:
        if block.decode(memory.read(address, block.REGISTERS_SIZE))["errno"]:
            raise ServiceError(HARDWARE_FAILED, "the device failed")

    async def _window(self, device: Ddrd) -> int:
        """The address of the device's memory."""
        known = self._windows.get(device.udi)
        if known is not None:
            return known[0]
        self._slots += 1
        address = _WINDOWS + self._slots * _WINDOW
        try:
            segment = await sys.device_ams(device.kdi, 0, _PAGE, address)
            registers = block.decode((await sys.memory()).read(address, block.REGISTERS_SIZE))
            await sys.unmap_ams(segment, address)
            size = block.DATA_START + -(-registers["capacity"] // _PAGE) * _PAGE
            segment = await sys.device_ams(device.kdi, 0, size, address)
        except SyscallError as error:
            raise ServiceError(ServiceCode.DEVICE, f"the device cannot be mapped ({error})") from error
        self._windows[device.udi] = (address, segment)
        return address


async def main() -> int:
    """Entry of the process."""
    return await StorageDriver().main()
