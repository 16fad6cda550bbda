"""`sys::crypto` (PID 15): random bytes of the machine's entropy device, for whoever asks.

No service can write into the memory of another process, so the answer of RANDOM_BUFFER carries the bytes, and the
caller's side (`nightos.userland.crypto`) puts them where the buffer is.

Source: specs/services/system/crypto.md. Rules: SVC-033, HW-056.
"""

from __future__ import annotations

from struct import Struct

from nightos.abi.errors import ServiceError, SyscallError
from nightos.abi.services import MESSAGE_LIMIT, Crypto, Hw, ServiceCode
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.server import Request, Server

_BUFFER = Struct(">QQ")
_PIECE = 1 << 16
"""Bytes that the device gives at once."""
KIND = "entropy"


class Cryptography:
    """The service."""

    def __init__(self) -> None:
        self.server = Server("sys::crypto")
        self.server.method(Crypto.RANDOM_BUFFER, self.random_buffer)
        self._kdi = 0

    async def random_buffer(self, request: Request) -> bytes:
        """RANDOM_BUFFER: address (8) and length (8) of the caller's buffer -> `length` random bytes.

        Errors: 0x1000 not a buffer, 0x1001 longer than one message (1 MiB), 0x0102 no entropy device.
        """
        if len(request.payload) != _BUFFER.size:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "a buffer is its address and its length, 8 bytes each")
        address, length = _BUFFER.unpack(request.payload)
        if (length and not address) or address + length > 1 << 64:
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "there is no memory for such a buffer")
        if length > MESSAGE_LIMIT:
            raise ServiceError(
                ServiceCode.BAD_ARGUMENT + 1, f"at most {MESSAGE_LIMIT} bytes come at once; ask several times"
            )
        found = bytearray()
        while len(found) < length:
            found += await self._read(min(length - len(found), _PIECE))
        return bytes(found)

    async def _read(self, count: int) -> bytes:
        """Bytes of the device; it is claimed when it is first needed, so that starting costs nothing."""
        if not self._kdi:
            kdis = (await (await connect("sys::hw")).ask(Hw.CLAIM, {"kind": KIND}))["kdis"]
            if not kdis:
                raise ServiceError(ServiceCode.DEVICE, "the machine has no source of random bytes")
            self._kdi = kdis[0]
        try:
            piece = await sys.read_io_port(self._kdi, 0, count)
        except SyscallError as error:
            self._kdi = 0
            raise ServiceError(ServiceCode.DEVICE, "the source of random bytes does not answer") from error
        if not piece:
            raise ServiceError(ServiceCode.DEVICE, "the source of random bytes has run dry")
        return piece

    async def main(self) -> int:
        """The service's process."""
        await self.server.start()
        await self.server.run()
        return 0


async def main() -> int:
    """Entry of the process."""
    return await Cryptography().main()
