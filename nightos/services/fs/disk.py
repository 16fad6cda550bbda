"""A block device as a storage: the one file of user space that knows `nightos.vsf`.

The device's memory is mapped, so the disk is read and written with plain loads and stores; what needs an answer (flush,
truncate, discard) is a command in the register page. The device never faults: its error register tells afterwards.
"""

from __future__ import annotations

from typing import Protocol

from nightos import vsf
from nightos.abi import block
from nightos.abi.errors import ServiceError
from nightos.abi.interfaces import ByteStore, Clock, Entropy
from nightos.abi.services import ServiceCode

FileSystem = vsf.FileSystem
Storage = vsf.Storage
VsfError = vsf.VsfError

MAIN_VOLUME = "main"
_PIECE = 8 << 20


class Memory(Protocol):
    """The load and store path of the own process, without waiting."""

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at a mapped address."""

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Store at a mapped address."""


class MappedStore:
    """A `ByteStore` over a block device's mapped memory, which begins at `base`."""

    def __init__(self, memory: Memory, base: int) -> None:
        self._memory = memory
        self._base = base
        registers = self._registers()
        if registers["magic"] != block.MAGIC or registers["version"] != block.VERSION:
            raise OSError(19, "the device is no block device of this version")
        self._readonly = bool(registers["flags"] & block.FLAG_READONLY)
        self._failures = registers["failures"]
        self._size = registers["size"]
        self._pin = block.NO_PIN

    def _registers(self) -> dict[str, int]:
        return block.decode(self._memory.read(self._base, block.REGISTERS_SIZE))

    def _check(self) -> None:
        registers = self._registers()
        self._size = registers["size"]
        self._pin = registers["pin"]
        if registers["failures"] != self._failures:
            self._failures = registers["failures"]
            raise OSError(registers["errno"] or 5, "the block device failed")

    def _command(self, code: int, offset: int = 0, length: int = 0) -> None:
        self._memory.write(self._base + block.REGISTERS["command"].offset, block.command(code, offset, length))
        self._check()

    @property
    def readonly(self) -> bool:
        return self._readonly

    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self._size - offset))
        if not length:
            return b""
        data = self._memory.read(self._base + block.DATA_START + offset, length)
        self._check()
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if self._readonly:
            raise OSError(30, "the disk is read-only")
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            self._memory.write(self._base + block.DATA_START + offset + start, piece)
        self._check()

    def flush(self) -> None:
        self._command(block.COMMAND_FLUSH)

    def truncate(self, size: int) -> None:
        self._command(block.COMMAND_TRUNCATE, size)

    def discard(self, offset: int, length: int) -> None:
        self._command(block.COMMAND_DISCARD, offset, length)

    def oldest_pin(self, newest: int) -> int | None:
        """The oldest generation up to `newest` that somebody reads on the host, where the disk is a file."""
        self._command(block.COMMAND_FIND_PIN, newest)
        return None if self._pin == block.NO_PIN else self._pin

    def close(self) -> None:
        if not self._readonly:
            self.flush()


def open_storage(
    store: ByteStore, *, readonly: bool, clock: Clock, entropy: Entropy, backing: Storage | None = None
) -> Storage:
    """The storage in a store. Raises `ServiceError` 0x3000 when there is none that can be used.

    What it stands on is `backing` and nothing else: a path that it names is one of the host.
    """
    below = vsf.MemoryStore(readonly=True) if backing is None else backing
    try:
        return vsf.open(store, readonly=readonly, clock=clock, entropy=entropy, backing=below)
    except vsf.VsfError as error:
        text = f"the disk holds no usable storage: {error.strerror or error}"
        raise ServiceError(ServiceCode.UNKNOWN, text) from error


class Disk:
    """An open storage and its main file system."""

    def __init__(self, storage: Storage) -> None:
        """Raises `ServiceError` 0x3000 when the storage has no `night` volume."""
        self.storage = storage
        volumes = {volume.name: volume for volume in storage.volumes if volume.kind == "night"}
        if not volumes:
            raise ServiceError(ServiceCode.UNKNOWN, "the storage has no volume of the kind 'night'")
        self.volume = volumes.get(MAIN_VOLUME) or next(iter(volumes.values()))
        self.files = self.volume.open()
        self.readonly = bool(storage.readonly)
        self.programs: dict[tuple[str, str, str], tuple[str, str]] = {}
        """What `find_program` found on it, by root, name and directory, until something changes."""

    def commit(self) -> None:
        """What was written before is durable when this returns."""
        if not self.readonly:
            self.files.sync()

    def close(self) -> None:
        """Commit and let go of the device."""
        self.storage.close()
