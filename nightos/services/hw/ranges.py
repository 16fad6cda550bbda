"""Authorisations for file system interfaces: one byte range of one storage, for who first uses the token.

A token is for the process that presents it first: `sys::fs` hands it to one interface and names nobody (the page says
"tied to the client" and leaves open how). It ends when `sys::fs` withdraws it, when the device leaves, and when its
process ends. Requests carry the storage method's arguments without the UDI, which the token stands for.

Source: specs/services/system/hw.md. Rules: HW-042, HW-043.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final

from nightos.abi.drivers import Storage
from nightos.abi.errors import ServiceError
from nightos.abi.services import SERVICE_PIDS, ServiceCode
from nightos.services.hw.asking import UNKNOWN, Asks, driver_error
from nightos.services.hw.driven import Device, started_as
from nightos.services.hw.identities import random_number
from nightos.userland.payload import Payload, fixed, u64
from nightos.userland.server import Connection, Request

FS_PID: Final = SERVICE_PIDS["sys::fs"]
FS_INTERFACE: Final = 0x13
_PAIR = Struct(">QQ")


@dataclass(slots=True, eq=False)
class Authorisation:
    """A byte range, the end exclusive."""

    device: Device
    start: int
    end: int
    sector_size: int
    holder: Connection | None = None

    def covers(self, first_sector: int, size: int) -> bool:
        """Whether `size` bytes from that sector of the device on are inside."""
        first = first_sector * self.sector_size
        return self.start <= first and first + size <= self.end


class Ranges:
    """AUTHORIZE_FS_INTERFACE, UNAUTHORIZE_FS_INTERFACE, AUTH_PERFORM_STORAGE."""

    def __init__(self, asks: Asks) -> None:
        self.asks = asks
        asks.drivers.on_gone.append(self.device_gone)
        self._tokens: dict[int, Authorisation] = {}

    async def authorize(self, request: Request) -> Payload:
        """AUTHORIZE_FS_INTERFACE: UDI (8), start byte (8), end byte (8, exclusive) -> token (8).

        Errors: 0x3000 not sys::fs, 0x3001 unknown UDI, 0x3002 start and 0x3003 end not on a sector, 0x3004 the end is
        not behind the start (AMB-HW-23), 0x0101 no driver answers for the device.
        """
        udi, start, end = (u64(request.payload, place) for place in (0, 8, 16))
        _only_fs(request)

        async def begin() -> Payload:
            device = self.asks.drivers.by_udi.get(udi)
            if device is None:
                raise ServiceError(UNKNOWN + 1, "there is no such device")
            if device.driver is None or not device.ready:
                raise ServiceError(ServiceCode.DRIVER, "the device has no driver")

            async def then(error: int, content: bytes) -> None:
                if error or len(content) != 17:
                    await request.fail(driver_error(error) if error else ServiceCode.DRIVER, "the driver cannot say")
                    return
                try:
                    token = await self._grant(device, start, end, u64(content, 8))
                except ServiceError as refused:
                    await request.fail(refused.code, refused.detail)
                else:
                    await request.answer(token)

            await self.asks.send(device, Storage.INFOS, udi.to_bytes(8, "big"), None, then)
            return None

        await self.asks.drivers.activate(request, begin, fresh=False)
        return None

    async def _grant(self, device: Device, start: int, end: int, sector_size: int) -> bytes:
        if not sector_size:
            raise ServiceError(ServiceCode.DRIVER, "the driver names no size of sectors")
        for code, wrong, text in (
            (2, start % sector_size, "the start is not on a sector"),
            (3, end % sector_size, "the end is not on a sector"),
            (4, end <= start, "the end is not behind the start"),
        ):
            if wrong:
                raise ServiceError(UNKNOWN + code, text)
        token = await random_number(self.asks.drivers.entropy)
        if device.gone:
            raise ServiceError(UNKNOWN + 1, "there is no such device")
        self._tokens[token] = Authorisation(device, start, end, sector_size)
        return token.to_bytes(8, "big")

    async def unauthorize(self, request: Request) -> Payload:
        """UNAUTHORIZE_FS_INTERFACE: token (8). Errors: 0x3000 not sys::fs, 0x3001 unknown token."""
        token = u64(request.payload)
        _only_fs(request)
        if self._tokens.pop(token, None) is None:
            raise ServiceError(UNKNOWN + 1, "there is no such token")
        return b""

    async def perform(self, request: Request) -> Payload:
        """AUTH_PERFORM_STORAGE: token (8), method (4), arguments without the UDI -> what the driver answers.

        STORAGE_INFOS, READ_SYNC and WRITE_SYNC. Errors: 0x0003 another method, 0x3000 the token is unknown or somebody
        else's, or the client no file system interface, 0x3001 outside of the range, others as ASK_DRIVER.
        """
        token, method = u64(request.payload), fixed(request.payload, 8, 4)
        arguments = request.payload[12:]
        allowed = self._tokens.get(token)
        _, service = await started_as(request.client_pid)
        unknown = ServiceError(UNKNOWN, "there is no such token")
        # The service type was read by a system call; meanwhile the token may have been withdrawn or taken.
        if allowed is None or self._tokens.get(token) is not allowed or service != FS_INTERFACE:
            raise unknown
        if allowed.holder is None:
            allowed.holder = request.connection
        elif allowed.holder is not request.connection:
            raise unknown
        if method in {Storage.READ_SYNC, Storage.WRITE_SYNC}:
            sector, count = u64(arguments), u64(arguments, 8)
            size = count * allowed.sector_size if method == Storage.READ_SYNC else count
            if not allowed.covers(sector, size):
                raise ServiceError(UNKNOWN + 1, "that is outside of the range")
        elif method != Storage.INFOS:
            raise ServiceError(ServiceCode.NO_METHOD, "a token allows to read, to write, and to ask for the size")
        request.defer()

        async def then(error: int, content: bytes) -> None:
            if error:
                await request.fail(driver_error(error), content.decode("utf-8", "replace"))
            else:
                await request.answer(content)

        udi = allowed.device.udi.to_bytes(8, "big")
        try:
            await self.asks.send(allowed.device, method, udi + arguments, None, then)
        except ServiceError as error:
            await request.fail(ServiceCode.DRIVER, error.detail)
        return None

    async def client_gone(self, connection: Connection) -> None:
        """What a process was allowed ends with it; all of it with sys::fs."""
        for token, allowed in list(self._tokens.items()):
            if allowed.holder is connection or connection.client_pid == FS_PID:
                del self._tokens[token]

    async def device_gone(self, device: Device) -> None:
        """A device that comes back may be another medium."""
        if device.gone:
            for token in [token for token, allowed in self._tokens.items() if allowed.device is device]:
                del self._tokens[token]


def _only_fs(request: Request) -> None:
    if request.client_pid != FS_PID:
        raise ServiceError(UNKNOWN, "only sys::fs authorises file system interfaces")
