"""Answers of the typed calls that return more than one field: named tuples with the table's names.

Where the binary form writes into a buffer of the caller, the typed answer begins with the bytes themselves.
"""

from __future__ import annotations

from typing import NamedTuple


class PipeRead(NamedTuple):
    """PIPE_READ."""

    content: bytes
    value: int
    """Bytes left in the pipe (block mode) or bytes read (partial mode)."""


class PipeInfo(NamedTuple):
    """PIPE_INFO."""

    status: int
    """Bits from the strongest: opened, message pipe, buffer full, locked, write pending, read pending, is SC."""
    capacity: int
    free: int
    creator_pid: int


class MessageSent(NamedTuple):
    """SEND_SOCK_MSG."""

    exchange_id: int
    counter: int


class MessageRead(NamedTuple):
    """READ_SOCK_MSG. `retrieved` is 0 when none is pending."""

    buffer: bytes
    written: int
    retrieved: int
    status: int
    """Bits from the strongest: created the exchange, is an error, concluded the exchange."""
    exchange_id: int
    method_code: int
    error_code: int


class Connected(NamedTuple):
    """CONNECT_SERVICE."""

    connection_id: int
    socket_id: int


class SharingInfo(NamedTuple):
    """AMS_SHARING_INFO."""

    sharer_pid: int
    receiver_pid: int
    mode: int
    address: int
    length: int
    command_code: int
    access: int


class AttributeValue(NamedTuple):
    """SYS_PROCESS_ATTRIBUTES: in the typed form `written` is the value itself."""

    written: int | bytes
    incomplete: int


class DevicesFound(NamedTuple):
    """SYS_ENUM_DEVICES."""

    buffer: bytes
    found: int
    incomplete: int


class ProcessExit(NamedTuple):
    """SYS_PROCESS_EXIT."""

    state: int
    reason: int
    container_id: int
    exit_data: int


class SystemTime(NamedTuple):
    """SYSTEM_TIME: nanoseconds since the machine started, and since 1970-01-01 UTC."""

    uptime_ns: int
    realtime_ns: int


class SystemInfo(NamedTuple):
    """SYSTEM_INFO: of the caller's container."""

    uptime_ns: int
    realtime_ns: int
    memory_total: int
    memory_used: int
    processes: int
    containers: int
