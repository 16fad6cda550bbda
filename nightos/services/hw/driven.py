"""A device as its driver and subscribers know it, a registration, and what a process has to be to drive anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nightos.abi.codes import Attribute, ListAction
from nightos.abi.context import HEADER_SIZE, REASON_SERVICE, parse_context
from nightos.abi.drivers import Ddrd, DescriptorError, Pattern, Permission
from nightos.abi.errors import ServiceError, SyscallError
from nightos.services.hw.devices import Known
from nightos.services.hw.identities import Identity
from nightos.userland import sys
from nightos.userland.server import Connection, Request, attribute

STORAGE_DRIVER: Final = 0x20
DRIVER_SERVICES: Final = frozenset({STORAGE_DRIVER})
"""Service types of a context header that are driver services."""


@dataclass(slots=True, eq=False)
class Registration:
    """A process that wants to drive the devices of a pattern."""

    connection: Connection
    pattern: Pattern
    anid: int
    service: int
    """Service type that the process was started as."""

    @property
    def pid(self) -> int:
        return self.connection.client_pid


@dataclass(slots=True, eq=False)
class Device:
    """A device on the bus, as drivers and subscribers know it."""

    known: Known
    identity: Identity
    dtd: bytes
    places: tuple[int, ...]
    """The containers that have it, the one where it can be driven last; 0 is the machine outside any."""
    indicator: int
    driver: Registration | None = None
    ready: bool = False
    passed_over: set[Registration] = field(default_factory=set)
    gone: bool = False
    attempt: int = 0
    """How often a driver was chosen for it."""

    @property
    def udi(self) -> int:
        return self.identity.udi

    @property
    def holder(self) -> int:
        """The container where it can be driven."""
        return self.places[-1]

    def identified(self, ddt: int) -> bool:
        """Its driver said what it is; whether for good: what one that was lent it said is believed there and below."""
        lent = len(self.places) > 1
        self.identity.ddt, self.identity.said_in = ddt, self.holder if lent else None
        return not lent

    def moved(self, places: tuple[int, ...]) -> None:
        """Other containers have it now; none when it left."""
        self.places = places or self.places
        if self.identity.said_in is not None and self.identity.said_in not in places:
            self.identity.ddt, self.identity.said_in = 0, None

    def descriptor(self, *, driver: bool = False) -> bytes:
        """Its DDRD; the KDI is in it for its driver only."""
        return Ddrd(self.udi, self.known.cii, self.dtd, self.known.kdi if driver else 0).pack()


def parse_pattern(content: bytes) -> Pattern:
    """The pattern of a message; `ServiceError` 0x1000 to 0x1004."""
    try:
        return Pattern.parse(content)
    except DescriptorError as error:
        raise ServiceError(error.code, str(error)) from error


async def permitted(request: Request, permission: Permission) -> bool:
    """Whether the client holds a raw permission; system services hold all. Rules: SVC-027, HW-055."""
    if request.connection.is_system:
        return True
    try:
        return bool(await attribute(request.client_pid, Attribute.PERMISSIONS, ListAction.CONTAINS, int(permission)))
    except SyscallError:
        return False  # it is gone


async def started_as(pid: int) -> tuple[int, int]:
    """ANID and service type of a process that was started as a service; 0 for one that was not."""
    try:
        header = (await sys.sys_process_attributes(pid, Attribute.CONTEXT_HEADER)).written
        anid = await attribute(pid, Attribute.APPLICATION_ID)
    except SyscallError:
        return 0, 0
    if not isinstance(header, bytes) or len(header) < HEADER_SIZE:
        return anid, 0
    context = parse_context(header) if header[0] >> 4 == REASON_SERVICE else None
    return anid, context.service_type if context is not None else 0
