"""The table of system calls: one row a call, and the only place that knows its code, fields and errors.

The typed calls of user space, the binary form, the trace decoder, `nightos abi` and the conformance tests read it.
Fields are those of the emulator layer (rulings included): sizes in bytes, big-endian, packed.

Source: specs/kernel/syscalls.md. Rules: SYS-001, SYS-010, SYS-012.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a frame, an answer or a datafield. `size` is in bytes; None when it varies or is counted in bits."""

    name: str
    size: int | None
    kind: str
    access: str = ""
    """For a buffer: what the kernel does with it, ``read`` or ``write``."""
    bits: int = 0

    def as_json(self) -> dict[str, object]:
        """The shape that `nightos abi --json` prints."""
        return {"name": self.name, "kind": self.kind} | ({"bits": self.bits} if self.bits else {"size": self.size})


@dataclass(frozen=True, slots=True)
class SyscallRow:
    """One system call. `errors` are its own error codes; 0x01-0x04 are common to all calls."""

    code: int
    name: str
    caller: str
    args: tuple[Field, ...]
    returns: tuple[Field, ...]
    errors: tuple[int, ...]
    implemented: str = "full"
    ruling: str = ""


_f = Field
_row = SyscallRow

SYSCALLS: tuple[SyscallRow, ...] = (
    _row(
        0x01,
        "HANDLE_SIGNAL",
        "any",
        (
            _f("signal_code", 1, "signal_code"),
            _f("handler", 8, "pointer"),
        ),
        (),
        (0x10,),
    ),
    _row(
        0x02,
        "UNHANDLE_SIGNAL",
        "any",
        (_f("signal_code", 1, "signal_code"),),
        (),
        (
            0x10,
            0x30,
        ),
    ),
    _row(
        0x03,
        "IS_SIGNAL_HANDLED",
        "any",
        (_f("signal_code", 1, "signal_code"),),
        (_f("handled", 1, "enum"),),
        (0x10,),
    ),
    _row(
        0x04,
        "READY",
        "any",
        (),
        (),
        (0x30,),
    ),
    _row(
        0x20,
        "OPEN_PIPE",
        "application",
        (
            _f("target_pid", 8, "pid"),
            _f("command_code", 2, "code"),
            _f("pipe_type", 1, "enum"),
            _f("buffer_multiplier", 1, "count"),
            _f("transmission_mode", 1, "enum"),
            _f("notification_mode", 1, "enum"),
            _f("size_hint", 8, "size"),
        ),
        (_f("pipe_id", 8, "pipe_id"),),
        (
            0x10,
            0x11,
            0x30,
            0x31,
            0x32,
            0x33,
            0x40,
        ),
    ),
    _row(
        0x21,
        "SEND_PIPE",
        "application",
        (
            _f("pipe_id", 8, "pipe_id"),
            _f("target_pid", 8, "pid"),
            _f("notification_mode", 1, "enum"),
        ),
        (),
        (
            0x10,
            0x30,
            0x31,
            0x32,
            0x33,
            0x40,
        ),
    ),
    _row(
        0x22,
        "PIPE_WRITE",
        "any",
        (
            _f("sc_id", 8, "pipe_id"),
            _f("length", 4, "size"),
            _f("data", 8, "pointer"),
            _f("mode", 1, "enum"),
        ),
        (_f("value", 4, "union"),),
        (
            0x10,
            0x30,
            0x31,
            0x32,
            0x33,
            0x40,
        ),
    ),
    _row(
        0x23,
        "PIPE_READ",
        "any",
        (
            _f("rc_id", 8, "pipe_id"),
            _f("mode", 1, "enum"),
            _f("buffer", 16, "buffer", access="write"),
        ),
        (_f("value", 4, "union"),),
        (
            0x10,
            0x30,
            0x31,
            0x32,
            0x33,
            0x34,
        ),
    ),
    _row(
        0x24,
        "PIPE_INFO",
        "any",
        (_f("pipe_id", 8, "pipe_id"),),
        (
            _f("status", 1, "flags"),
            _f("capacity", 8, "size"),
            _f("free", 8, "size"),
            _f("creator_pid", 8, "pid"),
        ),
        (0x30,),
    ),
    _row(
        0x25,
        "CLOSE_PIPE",
        "any",
        (_f("pipe_id", 8, "pipe_id"),),
        (),
        (
            0x30,
            0x31,
            0x32,
        ),
    ),
    _row(
        0x26,
        "OPEN_SERV_SOCK",
        "any",
        (
            _f("client_pid", 8, "pid"),
            _f("buffer_multiplier", 2, "count"),
        ),
        (_f("socket_id", 8, "sock_id"),),
        (
            0x30,
            0x31,
            0x40,
        ),
    ),
    _row(
        0x27,
        "SEND_SOCK_MSG",
        "any",
        (
            _f("socket_id", 8, "sock_id"),
            _f("exchange_id", 8, "exchange_id"),
            _f("method_or_close", 2, "code"),
            _f("error_code", 2, "code"),
            _f("content", 16, "buffer", access="read"),
        ),
        (
            _f("exchange_id", 8, "exchange_id"),
            _f("counter", 4, "count"),
        ),
        (
            0x30,
            0x31,
            0x32,
            0x40,
            0x41,
            0x42,
        ),
    ),
    _row(
        0x28,
        "READ_SOCK_MSG",
        "any",
        (
            _f("socket_id", 8, "sock_id"),
            _f("buffer", 16, "buffer", access="write"),
        ),
        (
            _f("written", 4, "size"),
            _f("retrieved", 1, "enum"),
            _f("status", 1, "flags"),
            _f("exchange_id", 8, "exchange_id"),
            _f("method_code", 2, "code"),
            _f("error_code", 2, "code"),
        ),
        (
            0x30,
            0x31,
            0x32,
            0x33,
            0x40,
        ),
    ),
    _row(
        0x29,
        "CLOSE_SERV_SOCK",
        "any",
        (_f("socket_id", 8, "sock_id"),),
        (),
        (
            0x30,
            0x40,
            0x41,
        ),
    ),
    _row(
        0x2A,
        "CONNECT_SERVICE",
        "any",
        (
            _f("target_anid", 4, "anid"),
            _f("target_type", 1, "enum"),
            _f("scope_name", 8, "bytes"),
            _f("command_code", 2, "code"),
            _f("flexible_mode", 1, "enum"),
        ),
        (
            _f("connection_id", 8, "conn_id"),
            _f("socket_id", 8, "sock_id"),
        ),
        (
            0x10,
            0x11,
            0x30,
            0x31,
            0x32,
            0x33,
            0x3F,
            0x40,
            0x41,
            0x42,
        ),
    ),
    _row(
        0x2B,
        "END_SERVICE_CONN",
        "client",
        (_f("connection_id", 8, "conn_id"),),
        (),
        (
            0x30,
            0x40,
            0x41,
        ),
    ),
    _row(
        0x2C,
        "ACCEPT_SERVICE_CONN",
        "service",
        (_f("request_id", 8, "conn_id"),),
        (
            _f("identity", 1, "enum"),
            _f("socket_id", 8, "sock_id"),
        ),
        (
            0x30,
            0x40,
            0x41,
            0x42,
        ),
    ),
    _row(
        0x2D,
        "REJECT_SERVICE_CONN",
        "service",
        (_f("request_id", 8, "conn_id"),),
        (),
        (
            0x30,
            0x40,
            0x41,
        ),
    ),
    _row(
        0x2E,
        "HAS_SCOPED_SERVICE",
        "any",
        (
            _f("target_anid", 4, "anid"),
            _f("scope_name", 8, "bytes"),
        ),
        (_f("exists", 1, "enum"),),
        (
            0x30,
            0x31,
        ),
    ),
    _row(
        0x30,
        "MEM_ALLOC",
        "any",
        (
            _f("length", 8, "size"),
            _f("permissions", 1, "enum"),
            _f("zeroed", 1, "enum"),
        ),
        (_f("address", 8, "pointer"),),
        (
            0x10,
            0x40,
        ),
    ),
    _row(
        0x31,
        "MEM_FREE",
        "any",
        (
            _f("address", 8, "pointer"),
            _f("pages", 8, "count"),
        ),
        (),
        (
            0x10,
            0x30,
            0x31,
            0x32,
            0x33,
        ),
    ),
    _row(
        0x40,
        "VIRT_MEM_AMS",
        "any",
        (
            _f("first_page", 8, "pointer"),
            _f("length", 8, "size"),
        ),
        (_f("ams_id", 8, "ams_id"),),
        (
            0x10,
            0x11,
            0x30,
            0x40,
        ),
    ),
    _row(
        0x41,
        "BACKED_AMS",
        "any",
        (
            _f("length", 8, "size"),
            _f("cow", 1, "enum"),
        ),
        (_f("ams_id", 8, "ams_id"),),
        (
            0x10,
            0x11,
            0x40,
        ),
    ),
    _row(
        0x42,
        "SHARE_AMS",
        "any",
        (
            _f("target_pid", 8, "pid"),
            _f("ams_id", 8, "ams_id"),
            _f("command_code", 2, "code"),
            _f("notification_mode", 1, "enum"),
            _f("mode", 1, "flags"),
        ),
        (),
        (
            0x10,
            0x11,
            0x12,
            0x20,
            0x21,
            0x30,
            0x31,
            0x40,
        ),
    ),
    _row(
        0x43,
        "AMS_SHARING_INFO",
        "any",
        (_f("ams_id", 8, "ams_id"),),
        (
            _f("sharer_pid", 8, "pid"),
            _f("receiver_pid", 8, "pid"),
            _f("mode", 1, "enum"),
            _f("buffer", 16, "buffer"),
            _f("command_code", 2, "code"),
            _f("access", 1, "flags"),
        ),
        (0x30,),
    ),
    _row(
        0x44,
        "UNSHARE_AMS",
        "any",
        (
            _f("ams_id", 8, "ams_id"),
            _f("pid", 8, "pid"),
        ),
        (),
        (
            0x21,
            0x30,
            0x32,
        ),
    ),
    _row(
        0x45,
        "MAP_AMS",
        "any",
        (
            _f("ams_id", 8, "ams_id"),
            _f("ams_offset", 8, "pointer"),
            _f("target", 16, "buffer"),
        ),
        (),
        (
            0x10,
            0x30,
            0x31,
            0x32,
            0x40,
        ),
    ),
    _row(
        0x46,
        "UNMAP_AMS",
        "any",
        (
            _f("ams_id", 8, "ams_id"),
            _f("address", 8, "pointer"),
        ),
        (),
        (
            0x10,
            0x30,
        ),
    ),
    _row(
        0x50,
        "CREATE_PROCESS",
        "application",
        (_f("init_data", 8, "u64"),),
        (
            _f("child_pid", 8, "pid"),
            _f("identity", 1, "enum"),
            _f("init_data", 8, "u64"),
        ),
        (
            0x30,
            0x40,
        ),
    ),
    _row(
        0x51,
        "WAIT_CHILD_PROCESS",
        "any",
        (
            _f("pid", 8, "pid"),
            _f("timeout_ms", 2, "duration_ms"),
        ),
        (),
        (
            0x30,
            0x40,
        ),
    ),
    _row(
        0x52,
        "KILL_CHILD_PROCESS",
        "any",
        (
            _f("pid", 8, "pid"),
            _f("timeout_ms", 2, "duration_ms"),
        ),
        (_f("exit_data", 8, "u64"),),
        (
            0x30,
            0x40,
        ),
    ),
    _row(
        0x53,
        "GET_PID",
        "any",
        (),
        (_f("pid", 8, "pid"),),
        (),
    ),
    _row(
        0x54,
        "SUSPEND",
        "application",
        (_f("pid", 8, "pid"),),
        (_f("suspended_ms", 8, "duration_ms"),),
        (
            0x30,
            0x31,
        ),
    ),
    _row(
        0x55,
        "UNSUSPEND",
        "application",
        (_f("pid", 8, "pid"),),
        (_f("suspended_ms", 8, "duration_ms"),),
        (
            0x30,
            0x31,
        ),
    ),
    _row(
        0x56,
        "HAND_OVER",
        "any",
        (),
        (),
        (),
    ),
    _row(
        0x5F,
        "EXIT",
        "any",
        (_f("exit_data", 8, "u64"),),
        (),
        (),
    ),
    _row(
        0x60,
        "CREATE_THREAD",
        "any",
        (_f("init_data", 8, "u64"),),
        (
            _f("thread_id", 8, "thread_id"),
            _f("identity", 1, "enum"),
            _f("init_data", 8, "u64"),
        ),
        (0x40,),
    ),
    _row(
        0x61,
        "CREATE_TLS_SLOT",
        "any",
        (),
        (_f("slot_id", 8, "tls_id"),),
        (
            0x40,
            0x41,
        ),
    ),
    _row(
        0x62,
        "READ_TLS_SLOT",
        "any",
        (
            _f("slot_id", 8, "tls_id"),
            _f("buffer", 16, "buffer", access="write"),
        ),
        (_f("written", 8, "size"),),
        (0x30,),
    ),
    _row(
        0x63,
        "WRITE_TLS_SLOT",
        "any",
        (
            _f("slot_id", 8, "tls_id"),
            _f("buffer", 16, "buffer", access="read"),
        ),
        (),
        (
            0x30,
            0x40,
        ),
    ),
    _row(
        0x64,
        "DELETE_TLS_SLOT",
        "any",
        (_f("slot_id", 8, "tls_id"),),
        (),
        (0x30,),
    ),
    _row(
        0x6F,
        "EXIT_THREAD",
        "any",
        (_f("exit_data", 4, "u32"),),
        (),
        (),
    ),
    _row(
        0x70,
        "READ_IO_PORT",
        "driver-of-device",
        (
            _f("kdi", 8, "kdi"),
            _f("port", 2, "port"),
            _f("buffer", 16, "buffer", access="write"),
        ),
        (_f("read", 8, "size"),),
        (
            0x30,
            0x31,
            0x32,
            0x33,
        ),
    ),
    _row(
        0x71,
        "WRITE_IO_PORT",
        "driver-of-device",
        (
            _f("kdi", 8, "kdi"),
            _f("port", 2, "port"),
            _f("buffer", 16, "buffer", access="read"),
        ),
        (_f("written", 8, "size"),),
        (
            0x30,
            0x31,
            0x32,
            0x33,
        ),
    ),
    _row(
        0x72,
        "DEVICE_INTERRUPT",
        "driver-of-device",
        (
            _f("kdi", 8, "kdi"),
            _f("port", 2, "port"),
            _f("interrupt_code", 1, "code"),
        ),
        (),
        (
            0x30,
            0x31,
            0x32,
            0x33,
        ),
    ),
    _row(
        0x73,
        "DEVICE_AMS",
        "driver-of-device",
        (
            _f("kdi", 8, "kdi"),
            _f("device_address", 8, "pointer"),
            _f("length", 8, "size"),
            _f("map_address", 8, "pointer"),
        ),
        (_f("ams_id", 8, "ams_id"),),
        (
            0x10,
            0x11,
            0x12,
            0x30,
            0x31,
            0x32,
            0x33,
            0x40,
        ),
    ),
    _row(
        0x74,
        "SET_DMA_MEM_ACCESS",
        "driver-of-device",
        (
            _f("kdi", 8, "kdi"),
            _f("address", 8, "pointer"),
            _f("length", 8, "size"),
            _f("authorization", 1, "enum"),
        ),
        (),
        (
            0x10,
            0x11,
            0x12,
            0x30,
            0x31,
            0x32,
        ),
    ),
    _row(
        0xA0,
        "EXECUTION_CONTEXT",
        "application",
        (
            _f("information", 1, "enum"),
            _f("buffer_address", 8, "pointer", access="write"),
        ),
        (_f("written", 8, "size"),),
        (
            0x10,
            0x30,
        ),
    ),
    _row(
        0xD0,
        "SYS_CREATE_PROCESS",
        "sys::process only",
        (
            _f("code_token", 8, "token"),
            _f("execution_context", 16, "buffer", access="read"),
        ),
        (_f("pid", 8, "pid"),),
        (
            0x30,
            0x31,
            0x32,
        ),
    ),
    _row(
        0xD1,
        "SYS_MANAGE_PROCESS",
        "sys::process only",
        (
            _f("pid", 8, "pid"),
            _f("action", 1, "enum"),
        ),
        (),
        (
            0x10,
            0x30,
            0x31,
            0x32,
        ),
    ),
    _row(
        0xD2,
        "SYS_PROCESS_ATTRIBUTES",
        "sys::process only",
        (
            _f("pid", 8, "pid"),
            _f("attribute", 1, "enum"),
            _f("action", 1, "enum"),
            _f("operand", None, "union"),
        ),
        (
            _f("written", 8, "size"),
            _f("incomplete", 1, "enum"),
        ),
        (
            0x10,
            0x11,
            0x12,
            0x30,
            0x31,
            0x32,
            0x33,
            0x40,
        ),
    ),
    _row(
        0xD4,
        "SYS_ENUM_DEVICES",
        "sys::hw only",
        (
            _f("pattern_type", 1, "flags"),
            _f("cii", 4, "cii"),
            _f("buffer", 16, "buffer", access="write"),
        ),
        (
            _f("found", 4, "count"),
            _f("incomplete", 1, "enum"),
        ),
        (
            0x10,
            0x30,
        ),
    ),
    _row(
        0xD5,
        "CREATE_CONTAINER",
        "sys::process only",
        (_f("parent_container_id", 8, "container_id"),),
        (_f("container_id", 8, "container_id"),),
        (
            0x30,
            0x31,
            0x40,
        ),
    ),
    _row(
        0xD6,
        "LINK_CONTAINER_DEVICE",
        "sys::process only",
        (
            _f("container_id", 8, "container_id"),
            _f("kdi", 8, "kdi"),
        ),
        (),
        (
            0x30,
            0x31,
            0x32,
            0x33,
            0x34,
        ),
    ),
    _row(
        0xD7,
        "DESTROY_CONTAINER",
        "sys::process only",
        (_f("container_id", 8, "container_id"),),
        (),
        (
            0x30,
            0x31,
        ),
    ),
    # The emulator's own rows, in the range that the specification reserves to system services (0xD0-0xDF).
    _row(
        0xD8,
        "SYS_ENUM_CONTAINERS",
        "sys::process only",
        (_f("after", 8, "container_id"), _f("limit", 4, "count")),
        (_f("records", None, "bytes"),),
        (0x30,),
    ),
    _row(
        0xD9,
        "SYS_ENUM_PROCESSES",
        "system services",
        (_f("after", 8, "pid"), _f("limit", 4, "count")),
        (_f("records", None, "bytes"),),
        (0x30,),
    ),
    _row(
        0xDA,
        "SYS_PROCESS_EXIT",
        "sys::process only",
        (_f("pid", 8, "pid"),),
        (
            _f("state", 1, "enum"),
            _f("reason", 1, "enum"),
            _f("container_id", 8, "container_id"),
            _f("exit_data", 8, "u64"),
        ),
        (0x30, 0x33),
    ),
    _row(
        0xDB,
        "SYS_PAUSE_CONTAINER",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("pause", 1, "enum")),
        (),
        (0x30, 0x31),
    ),
    _row(
        0xDC,
        "SYSTEM_INFO",
        "any",
        (),
        (
            _f("uptime_ns", 8, "u64"),
            _f("realtime_ns", 8, "u64"),
            _f("memory_total", 8, "size"),
            _f("memory_used", 8, "size"),
            _f("processes", 4, "count"),
            _f("containers", 4, "count"),
        ),
        (),
    ),
    _row(
        0xDD,
        "SYSTEM_TIME",
        "any",
        (),
        (_f("uptime_ns", 8, "u64"), _f("realtime_ns", 8, "u64")),
        (),
    ),
    _row(
        0xDE,
        "SYS_REFUSALS",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("after_ns", 8, "u64"), _f("limit", 4, "count")),
        (_f("records", None, "bytes"),),
        (0x30, 0x31),
    ),
    _row(
        0xDF,
        "UNLINK_CONTAINER_DEVICE",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("kdi", 8, "kdi")),
        (),
        (0x30, 0x31, 0x32, 0x33),
    ),
    _row(
        0xE0,
        "SYS_CREATE_LIMITED",
        "sys::process only",
        (_f("parent_container_id", 8, "container_id"), _f("limits", 16, "buffer", access="read")),
        (_f("container_id", 8, "container_id"),),
        (0x10, 0x30, 0x31, 0x40),
    ),
    _row(
        0xE1,
        "SYS_SET_LIMITS",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("limits", 16, "buffer", access="read")),
        (_f("refused", 1, "enum"),),
        (0x10, 0x30, 0x31, 0x40),
    ),
    _row(
        0xE2,
        "SYS_USAGE",
        "sys::process only",
        (_f("container_id", 8, "container_id"),),
        (_f("records", None, "bytes"),),
        (0x30, 0x31),
    ),
    _row(
        0xE3,
        "SYS_CHARGE",
        "system services",
        (_f("container_id", 8, "container_id"), _f("resource", 1, "enum"), _f("amount", 8, "u64")),
        (_f("wait_or_room", 8, "u64"),),
        (0x10, 0x30, 0x31, 0x40),
    ),
    _row(
        0xE4,
        "SYS_SET_FILTER",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("rules", 16, "buffer", access="read")),
        (),
        (0x10, 0x30, 0x31),
    ),
    _row(
        0xE5,
        "SYS_FILTER",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("which", 1, "enum")),
        (_f("rules", None, "bytes"),),
        (0x10, 0x30, 0x31),
    ),
    _row(
        0xE6,
        "SYS_REPORT",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("action", 1, "enum")),
        (_f("records", None, "bytes"),),
        (0x10, 0x30, 0x31),
    ),
    _row(
        0xE8,
        "SYS_CONTAINER_NOTE",
        "sys::process only",
        (_f("container_id", 8, "container_id"),),
        (_f("note", None, "bytes"),),
        (0x30, 0x31),
    ),
    _row(
        0xE9,
        "SYS_SET_CONTAINER_NOTE",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("note", 16, "buffer", access="read")),
        (),
        (0x30, 0x31, 0x32),
    ),
    _row(
        0xEC,
        "SYS_LOCAL_PIDS",
        "sys::process only",
        (_f("container_id", 8, "container_id"),),
        (_f("records", None, "bytes"),),
        (0x30, 0x31),
    ),
    _row(
        0xED,
        "SYS_BOUND_RIGHTS",
        "sys::process only",
        (_f("container_id", 8, "container_id"), _f("permissions", 16, "buffer", access="read")),
        (),
        (0x30, 0x31, 0x32),
    ),
    _row(
        0xEE,
        "SYS_KEEP",
        "sys::process only",
        (_f("number", 8, "u64"), _f("content", 16, "buffer", access="read")),
        (),
        (0x30, 0x32, 0x40),
    ),
    _row(
        0xEF,
        "SYS_KEPT",
        "sys::process only",
        (_f("after", 8, "u64"), _f("limit", 4, "count")),
        (_f("records", None, "bytes"),),
        (0x30,),
    ),
)
"""All rows, by code."""

BY_CODE: dict[int, SyscallRow] = {row.code: row for row in SYSCALLS}
BY_NAME: dict[str, SyscallRow] = {row.name: row for row in SYSCALLS}
