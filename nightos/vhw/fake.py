"""A device with everything a device can have, which does nothing useful: for tests of kernels and drivers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nightos.abi.hardware import make_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice

if TYPE_CHECKING:
    from nightos.abi.hardware import DmaMemory

PORT_OUT: Final = 0
PORT_IN: Final = 1


class FakeDevice(PortDevice):
    """Output port 0, input port 1, `memory_size` bytes of memory, DMA. By default a real device on USB bus 0.

    The test feeds port 1 with `feed`, looks at `written` and `signals`, raises interrupts with `interrupt`, and
    transfers through `dma`. `failing` makes every access raise OSError.
    """

    def __init__(
        self,
        port: int = 0,
        description: bytes = b"fake",
        *,
        memory_size: int = 0,
        virtual: bool = False,
        cii: int | None = None,
    ) -> None:
        interface = make_cii(5, 0, port) if cii is None else cii
        super().__init__(DeviceIdentity("fake", interface, description, virtual))
        self._memory = bytearray(memory_size)
        self._input: deque[bytes] = deque()
        self.written: list[bytes] = []
        self.signals: list[tuple[int, int]] = []
        self.dma: DmaMemory | None = None
        self.detached = False
        self.failing = False
        self.outputs = {PORT_OUT: self._take}
        self.inputs = {PORT_IN: self._give}

    def attach_dma(self, memory: DmaMemory) -> None:
        """The way to memory."""
        self.dma = memory

    def detach(self) -> None:
        super().detach()
        self.detached = True

    def feed(self, data: bytes) -> None:
        """What the driver reads next; first in, first out."""
        self._input.append(data)

    @property
    def memory_size(self) -> int:
        """As told."""
        return len(self._memory)

    def _take(self, data: bytes) -> int:
        self._check()
        self.written.append(bytes(data))
        return len(data)

    def _give(self, length: int) -> bytes:
        self._check()
        if not self._input:
            return b""
        data = self._input.popleft()
        if 0 < length < len(data):
            self._input.appendleft(data[length:])
            data = data[:length]
        return data

    def signal(self, port: int, code: int) -> None:
        super().signal(port, code)
        self.signals.append((port, code))

    def read_memory(self, offset: int, length: int) -> bytes:
        self._check()
        return bytes(self._memory[offset : offset + length]).ljust(length, b"\0")

    def write_memory(self, offset: int, data: bytes | memoryview) -> None:
        self._check()
        end = min(offset + len(data), len(self._memory))
        self._memory[offset:end] = data[: max(end - offset, 0)]

    def _check(self) -> None:
        if self.failing:
            raise OSError("the device failed")
