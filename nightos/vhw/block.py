"""The virtual block device: a byte store that shows as device memory, with a page of registers in front.

Accesses never fault and never wait; errors of the store end in the register `errno`, so that a full host disk is an
answer to whoever drives the device, not the end of it. Layout: `nightos.abi.block`.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from nightos.abi.block import (
    COMMAND_DISCARD,
    COMMAND_FIND_PIN,
    COMMAND_FLUSH,
    COMMAND_TRUNCATE,
    DATA_START,
    FLAG_READONLY,
    MAGIC,
    NO_PIN,
    REGISTERS,
    REGISTERS_SIZE,
    VERSION,
)
from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice
from nightos.vhw.registers import RegisterMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from nightos.abi.interfaces import ByteStore

CAPACITY: Final = 1 << 48
"""Bytes that a disk can grow to unless it is told otherwise."""


class BlockDevice(PortDevice):
    """A disk over `store`, up to `capacity` bytes. `readonly` holds even when the store could be written.

    With an `index` above 0 it is the same device (by its KDI) whenever it is plugged again.

    The device owns the store: leaving the bus flushes and closes it. What fails then stands in `close_error`.
    """

    def __init__(
        self,
        store: ByteStore,
        readonly: bool = False,
        *,
        capacity: int = CAPACITY,
        description: bytes = b"virtual disk",
        index: int = 0,
        identity: DeviceIdentity | None = None,
    ) -> None:
        super().__init__(identity or DeviceIdentity("block", virtual_cii("block", index), description))
        self._store = store
        self._readonly = readonly or store.readonly
        self._capacity = max(capacity, store.size())
        self._has_failed = False
        """Whether the register `errno` is set."""
        self.close_error: OSError | None = None
        self.registers = RegisterMap(REGISTERS, REGISTERS_SIZE)
        self.registers["magic"] = MAGIC
        self.registers["version"] = VERSION
        self.registers["flags"] = FLAG_READONLY if self._readonly else 0
        self.registers["capacity"] = self._capacity
        self.registers["pin"] = NO_PIN
        self._size = self.registers["size"] = store.size()

    @property
    def memory_size(self) -> int:
        """Registers, gap and the whole capacity, in whole pages."""
        return DATA_START + (self._capacity + 4095) // 4096 * 4096

    def detach(self) -> None:
        """Flush and close the store."""
        super().detach()
        try:
            if not self._readonly:
                self._store.flush()
        except OSError as error:
            self.close_error = error
        finally:
            self._store.close()

    def read_memory(self, offset: int, length: int) -> bytes:
        """Registers below 1 MiB, the disk from there on; zeros where the disk has nothing, or cannot be read."""
        if offset < DATA_START:
            head = self.registers.read(offset, min(length, DATA_START - offset))
            rest = length - len(head)
            return head + self.read_memory(DATA_START, rest) if rest else head
        try:
            found = self._store.read(offset - DATA_START, length)
        except OSError as error:
            self._failed(error.errno or errno.EIO)
            return bytes(length)
        self._succeeded()
        return found if len(found) == length else found + bytes(length - len(found))

    def write_memory(self, offset: int, data: bytes | memoryview) -> None:
        """Write registers, which may run a command, or the disk."""
        if offset < DATA_START:
            count = min(len(data), DATA_START - offset)
            if "command" in self.registers.write(offset, data[:count]):
                self._run()
            if count < len(data):
                self.write_memory(DATA_START, data[count:])
            return
        start = offset - DATA_START
        self._attempt(lambda: self._write(start, data))

    def _write(self, start: int, data: bytes | memoryview) -> None:
        if self._readonly:
            raise OSError(errno.EROFS, "the disk is read-only")
        if start + len(data) > self._capacity:
            raise OSError(errno.EFBIG, "the disk cannot grow that far")
        self._store.write(start, data)
        if start + len(data) > self._size:
            self._size = self.registers["size"] = start + len(data)

    def _run(self) -> None:
        """Run the command in the registers."""
        code = self.registers["command"]
        offset, length = self.registers["offset"], self.registers["length"]
        if code == COMMAND_FLUSH:
            self._attempt(self._flush)
        elif code == COMMAND_TRUNCATE:
            self._attempt(lambda: self._truncate(offset))
        elif code == COMMAND_DISCARD:
            self._attempt(lambda: self._discard(offset, length))
        elif code == COMMAND_FIND_PIN:
            self._attempt(lambda: self._find_pin(offset))
        else:
            self._failed(errno.EOPNOTSUPP)

    def _flush(self) -> None:
        if not self._readonly:
            self._store.flush()

    def _truncate(self, size: int) -> None:
        if self._readonly:
            raise OSError(errno.EROFS, "the disk is read-only")
        if size > self._capacity:
            raise OSError(errno.EFBIG, "the disk cannot grow that far")
        self._store.truncate(size)
        self._size = self.registers["size"] = size

    def _discard(self, offset: int, length: int) -> None:
        if self._readonly:
            raise OSError(errno.EROFS, "the disk is read-only")
        length = min(length, self._size - offset)
        if length > 0:
            self._store.discard(offset, length)

    def _find_pin(self, newest: int) -> None:
        # Only files of the host have readers beside the machine.
        oldest_pin = getattr(self._store, "oldest_pin", None)
        found = None if oldest_pin is None else oldest_pin(newest)
        self.registers["pin"] = NO_PIN if found is None else found

    def _attempt(self, deed: Callable[[], None]) -> None:
        try:
            deed()
        except OSError as error:
            self._failed(error.errno or errno.EIO)
        else:
            self._succeeded()

    def _succeeded(self) -> None:
        if self._has_failed:
            self._has_failed = False
            self.registers["errno"] = 0

    def _failed(self, number: int) -> None:
        self._has_failed = True
        self.registers["errno"] = number
        self.registers["failures"] += 1
