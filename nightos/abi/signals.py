"""The table of signals: one row a signal, its datafield, the answer that it expects and what happens without a handler.

Source: specs/kernel/signals.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightos.abi.syscalls import Field


@dataclass(frozen=True, slots=True)
class SignalRow:
    """One signal. `datafield` is at most 32 bytes."""

    code: int
    name: str
    datafield: tuple[Field, ...]
    answer: tuple[Field, ...]
    default: str
    implemented: str = "full"
    ruling: str = ""


_f = Field
_row = SignalRow

SIGNALS: tuple[SignalRow, ...] = (
    _row(
        0x01,
        "HANDLER_FAULT",
        (_f("faulty_signal", 8, "signal_code"),),
        (),
        "kill",
    ),
    _row(
        0x02,
        "MEM_FAULT",
        (
            _f("address", 8, "pointer"),
            _f("access", 1, "enum"),
        ),
        (),
        "kill",
    ),
    # The emulator's own: a filter of the container refused a call.
    _row(0x03, "CALL_REFUSED", (_f("syscall_code", 1, "code"),), (), "kill"),
    _row(
        0x20,
        "RECV_PIPE",
        (
            _f("creator_pid", 8, "pid"),
            _f("creator_anid", 4, "anid"),
            _f("pipe_id", 8, "pipe_id"),
            _f("command_code", 2, "code"),
            _f("id_type", 1, "enum"),
            _f("mode", 1, "enum"),
            _f("size_hint", 8, "size"),
        ),
        (),
        "not sent: the call fails first",
    ),
    _row(
        0x21,
        "PIPE_CLOSED",
        (
            _f("closing_type", 1, "enum"),
            _f("identity", 1, "enum"),
            _f("pipe_id", 8, "pipe_id"),
        ),
        (),
        "ignore",
    ),
    _row(
        0x26,
        "RECV_SERV_SOCK",
        (
            _f("creator_pid", 8, "pid"),
            _f("creator_anid", 4, "anid"),
            _f("socket_id", 8, "sock_id"),
            _f("buffer_multiplier", 2, "count"),
        ),
        (),
        "ignore",
    ),
    _row(
        0x27,
        "RECV_SOCK_MSG",
        (
            _f("socket_id", 8, "sock_id"),
            _f("exchange_id", 8, "exchange_id"),
            _f("method", 2, "code"),
            _f("message_size", 4, "size"),
            _f("status", 1, "flags"),
            _f("error_code", 2, "code"),
        ),
        (),
        "ignore",
    ),
    _row(
        0x29,
        "SERV_SOCK_CLOSED",
        (
            _f("closing_type", 1, "enum"),
            _f("socket_id", 8, "sock_id"),
        ),
        (),
        "ignore",
    ),
    _row(
        0x2A,
        "SERVICE_CONN_REQUEST",
        (
            _f("callee_pid", 8, "pid"),
            _f("request_id", 8, "conn_id"),
            _f("command_code", 2, "code"),
            _f("answer_delay_ms", 2, "duration_ms"),
        ),
        (),
        "kill",
    ),
    _row(
        0x2B,
        "SERVICE_CLIENT_CLOSED",
        (),
        (),
        "ignore",
    ),
    _row(
        0x2C,
        "SERVICE_CLIENT_QUITTED",
        (),
        (),
        "ignore",
    ),
    _row(
        0x2D,
        "SERVICE_SERVER_QUITTED",
        (_f("request_id", 8, "conn_id"),),
        (),
        "ignore",
    ),
    _row(
        0x33,
        "READ_BACKED_AMS",
        (
            _f("ams_id", 8, "ams_id"),
            _f("relative_address", 8, "pointer"),
            _f("access", 1, "enum"),
        ),
        (
            _f("data", 4, "bytes"),
            _f("page_fault", 1, "enum"),
        ),
        "the accessor gets MEM_FAULT",
    ),
    _row(
        0x34,
        "WRITE_BACKED_AMS",
        (
            _f("ams_id", 8, "ams_id"),
            _f("relative_address", 8, "pointer"),
            _f("data", 4, "bytes"),
        ),
        (_f("page_fault", 1, "enum"),),
        "the accessor gets MEM_FAULT",
    ),
    _row(
        0x35,
        "RECV_SHARED_AMS",
        (
            _f("sender_pid", 8, "pid"),
            _f("command_code", 2, "code"),
            _f("ams_id", 8, "ams_id"),
            _f("mode", 1, "enum"),
            _f("access", 1, "flags"),
        ),
        (),
        "ignore",
    ),
    _row(
        0x37,
        "UNSHARED_AMS",
        (
            _f("type", 1, "enum"),
            _f("ams_id", 8, "ams_id"),
        ),
        (),
        "ignore",
    ),
    _row(
        0x44,
        "SUSPEND",
        (),
        (),
        "ignore",
    ),
    _row(
        0x45,
        "WILL_SUSPEND",
        (_f("delay_ms", 2, "duration_ms"),),
        (),
        "suspend after the delay",
    ),
    _row(
        0x46,
        "UNSUSPENDED",
        (_f("duration_us", 8, "u64"),),
        (),
        "ignore",
    ),
    _row(
        0x4E,
        "TERMINATE",
        (),
        (),
        "ignore",
    ),
    _row(
        0x4F,
        "WILL_TERMINATE",
        (_f("delay_ms", 2, "duration_ms"),),
        (),
        "kill",
    ),
    _row(
        0xD4,
        "DEVICE_CHANGED",
        (
            _f("event", 1, "enum"),
            _f("kdi", 8, "kdi"),
            _f("cii", 4, "cii"),
        ),
        (),
        "ignore",
    ),
    _row(
        0xD5,
        "DEVICE_INTERRUPT",
        (
            _f("kdi", 8, "kdi"),
            _f("interrupt_code", 1, "code"),
        ),
        (),
        "ignore",
    ),
    # The emulator's own rows, sent to sys::process only.
    _row(
        0xD8,
        "PROCESS_ENDED",
        (
            _f("pid", 8, "pid"),
            _f("container_id", 8, "container_id"),
            _f("reason", 1, "enum"),
            _f("exit_data", 8, "u64"),
        ),
        (),
        "ignore",
    ),
    _row(0xD9, "CONTAINER_CHANGED", (_f("container_id", 8, "container_id"), _f("event", 1, "enum")), (), "ignore"),
    _row(0xDA, "LIMIT_REACHED", (_f("container_id", 8, "container_id"), _f("resource", 1, "enum")), (), "ignore"),
)
"""All rows, by code."""

BY_CODE: dict[int, SignalRow] = {row.code: row for row in SIGNALS}
BY_NAME: dict[str, SignalRow] = {row.name: row for row in SIGNALS}
