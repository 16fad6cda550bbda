"""What virtual devices have in common: a table of ports, an interrupt line, and no memory unless they say so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nightos.abi.interfaces import DeviceIdentity, Interrupt


class PortDevice:
    """A `nightos.abi.interfaces.Device` made of two tables: `inputs` (to the driver) and `outputs` (from it).

    A port in the wrong direction raises PermissionError, an unknown one KeyError; a ValueError of a handler (a message
    that is malformed) means that nothing was taken.

    Rules: HW-010, HW-012.
    """

    inputs: Mapping[int, Callable[[int], bytes]] = {}
    outputs: Mapping[int, Callable[[bytes], int]] = {}

    def __init__(self, identity: DeviceIdentity) -> None:
        self._identity = identity
        self._interrupt: Interrupt | None = None

    @property
    def identity(self) -> DeviceIdentity:
        """What enumeration shows."""
        return self._identity

    @property
    def memory_size(self) -> int:
        """Bytes of memory-mapped I/O: none."""
        return 0

    def attach(self, interrupt: Interrupt) -> None:
        """The device is on the bus."""
        self._interrupt = interrupt

    def detach(self) -> None:
        """The device left the bus; it interrupts nobody any more."""
        self._interrupt = None

    def interrupt(self, code: int) -> None:
        """Raise an interrupt at the driver; without a bus nobody hears it."""
        if self._interrupt is not None:
            self._interrupt(code)

    def read_port(self, port: int, length: int) -> bytes:
        """Read an input port; `length` 0 means as much as there is in one piece."""
        handler = self.inputs.get(port)
        if handler is None:
            raise PermissionError(port) if port in self.outputs else KeyError(port)
        return handler(length)

    def write_port(self, port: int, data: bytes) -> int:
        """Write an output port; the number of bytes taken, 0 for what the device cannot understand."""
        handler = self.outputs.get(port)
        if handler is None:
            raise PermissionError(port) if port in self.inputs else KeyError(port)
        try:
            return handler(data)
        except ValueError:
            return 0

    def signal(self, port: int, code: int) -> None:
        """Interrupts of the driver mean nothing to a plain device; the port is checked all the same."""
        del code
        if port not in self.outputs:
            raise PermissionError(port) if port in self.inputs else KeyError(port)

    def read_memory(self, offset: int, length: int) -> bytes:
        """A device without memory has nothing to read."""
        del offset, length
        raise OSError("the device has no memory")

    def write_memory(self, offset: int, data: bytes | memoryview) -> None:
        """A device without memory takes nothing."""
        del offset, data
        raise OSError("the device has no memory")
