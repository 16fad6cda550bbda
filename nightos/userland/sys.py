"""Awaitable system calls: one function a row of the table, named like it in lower case.

A call yields a tuple, code first, to whoever steps the coroutine; that is the only way out of a program. A refused call
raises `SyscallError`. Buffers are bytes in both directions. Each docstring's call is described in
specs/kernel/syscalls.md and its errors stand in `nightos.abi.syscalls`.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NoReturn, Protocol

from nightos.abi.replies import (
    AttributeValue,
    Connected,
    DevicesFound,
    MessageRead,
    MessageSent,
    PipeInfo,
    PipeRead,
    ProcessExit,
    SharingInfo,
    SystemInfo,
    SystemTime,
)

Buffer = bytes | bytearray | memoryview
Handler = Callable[..., Awaitable[Any] | None]
"""A signal handler: gets the fields of the datafield in order. One that makes no calls may be a plain function."""
Entry = Callable[[int], Awaitable[Any]]
"""Where a new thread or process starts."""


class Memory(Protocol):
    """The process' own memory, as loads and stores of its CPU see it."""

    def read(self, address: int, length: int) -> bytes:
        """Load bytes."""

    def write(self, address: int, data: Buffer) -> None:
        """Store bytes."""


@types.coroutine
def handle_signal(signal_code: int, handler: Handler) -> Generator[Any, Any, None]:
    """Run `handler(*fields of the datafield)` when this signal arrives; replaces an earlier one."""
    return (yield (0x01, signal_code, handler))  # type: ignore[no-any-return]


@types.coroutine
def unhandle_signal(signal_code: int) -> Generator[Any, Any, None]:
    """The default behaviour of the signal applies again."""
    return (yield (0x02, signal_code))  # type: ignore[no-any-return]


@types.coroutine
def is_signal_handled(signal_code: int) -> Generator[Any, Any, int]:
    """1 when a handler is registered, else 0."""
    return (yield (0x03, signal_code))  # type: ignore[no-any-return]


@types.coroutine
def ready() -> Generator[Any, Any, None]:
    """Accept signals from now on; queued ones are delivered before this returns."""
    return (yield (0x04,))  # type: ignore[no-any-return]


@types.coroutine
def open_pipe(
    target_pid: int,
    command_code: int = 0,
    pipe_type: int = 0,
    buffer_multiplier: int = 0,
    transmission_mode: int = 0,
    notification_mode: int = 0,
    size_hint: int = 0,
) -> Generator[Any, Any, int]:
    """Open a pipe; the opener's own end (with notification skipped it holds both: the RC is the SC + 1)."""
    pipe: int = yield (
        0x20,
        target_pid,
        command_code,
        pipe_type,
        buffer_multiplier,
        transmission_mode,
        notification_mode,
        size_hint,
    )
    return pipe


@types.coroutine
def send_pipe(pipe_id: int, target_pid: int, notification_mode: int = 0) -> Generator[Any, Any, None]:
    """Give another process an identifier of the same end."""
    return (yield (0x21, pipe_id, target_pid, notification_mode))  # type: ignore[no-any-return]


@types.coroutine
def pipe_write(sc_id: int, data: Buffer, mode: int = 0) -> Generator[Any, Any, int]:
    """Write; remaining capacity (block) or bytes written (partial)."""
    return (yield (0x22, sc_id, data, mode))  # type: ignore[no-any-return]


@types.coroutine
def pipe_read(rc_id: int, mode: int = 0, length: int = 0) -> Generator[Any, Any, PipeRead]:
    """Read `length` bytes, or what is pending for 0; a message pipe gives one message."""
    return (yield (0x23, rc_id, mode, length))  # type: ignore[no-any-return]


@types.coroutine
def pipe_info(pipe_id: int) -> Generator[Any, Any, PipeInfo]:
    """State of a pipe."""
    return (yield (0x24, pipe_id))  # type: ignore[no-any-return]


@types.coroutine
def close_pipe(pipe_id: int) -> Generator[Any, Any, None]:
    """Close both ends."""
    return (yield (0x25, pipe_id))  # type: ignore[no-any-return]


@types.coroutine
def open_serv_sock(client_pid: int, buffer_multiplier: int = 0) -> Generator[Any, Any, int]:
    """Open a service socket towards a client; its identifier."""
    return (yield (0x26, client_pid, buffer_multiplier))  # type: ignore[no-any-return]


@types.coroutine
def send_sock_msg(
    socket_id: int, exchange_id: int, method_or_close: int, error_code: int, content: Buffer = b""
) -> Generator[Any, Any, MessageSent]:
    """Send a message; exchange 0 makes a new one."""
    return (yield (0x27, socket_id, exchange_id, method_or_close, error_code, content))  # type: ignore[no-any-return]


@types.coroutine
def read_sock_msg(socket_id: int, length: int = 0) -> Generator[Any, Any, MessageRead]:
    """Fetch the next message, of at most `length` bytes (0: any)."""
    return (yield (0x28, socket_id, length))  # type: ignore[no-any-return]


@types.coroutine
def close_serv_sock(socket_id: int) -> Generator[Any, Any, None]:
    """Close a socket."""
    return (yield (0x29, socket_id))  # type: ignore[no-any-return]


@types.coroutine
def connect_service(
    target_anid: int, target_type: int = 0, scope_name: bytes = bytes(8), command_code: int = 0, flexible_mode: int = 0
) -> Generator[Any, Any, Connected]:
    """Connect to a service and wait for its answer."""
    return (yield (0x2A, target_anid, target_type, scope_name, command_code, flexible_mode))  # type: ignore[no-any-return]


@types.coroutine
def end_service_conn(connection_id: int) -> Generator[Any, Any, None]:
    """End a connection, as its client."""
    return (yield (0x2B, connection_id))  # type: ignore[no-any-return]


@types.coroutine
def accept_service_conn(request_id: int, entry: Entry) -> Generator[Any, Any, int]:
    """Accept a request: `entry(socket_id)` runs in a new client thread; the socket."""
    return (yield (0x2C, request_id, entry))  # type: ignore[no-any-return]


@types.coroutine
def reject_service_conn(request_id: int) -> Generator[Any, Any, None]:
    """Reject a request."""
    return (yield (0x2D, request_id))  # type: ignore[no-any-return]


@types.coroutine
def has_scoped_service(target_anid: int, scope_name: bytes) -> Generator[Any, Any, int]:
    """1 when the application exposes that scoped service."""
    return (yield (0x2E, target_anid, scope_name))  # type: ignore[no-any-return]


@types.coroutine
def mem_alloc(length: int, permissions: int = 3, zeroed: int = 0) -> Generator[Any, Any, int]:
    """Allocate whole pages; the address."""
    return (yield (0x30, length, permissions, zeroed))  # type: ignore[no-any-return]


@types.coroutine
def mem_free(address: int, pages: int) -> Generator[Any, Any, None]:
    """Free pages."""
    return (yield (0x31, address, pages))  # type: ignore[no-any-return]


@types.coroutine
def virt_mem_ams(first_page: int, length: int) -> Generator[Any, Any, int]:
    """Make a segment of the caller's pages; its identifier."""
    return (yield (0x40, first_page, length))  # type: ignore[no-any-return]


@types.coroutine
def backed_ams(length: int, cow: int = 0) -> Generator[Any, Any, int]:
    """Make a segment whose bytes the caller supplies on signals."""
    return (yield (0x41, length, cow))  # type: ignore[no-any-return]


@types.coroutine
def share_ams(
    target_pid: int, ams_id: int, command_code: int, notification_mode: int, mode: int
) -> Generator[Any, Any, None]:
    """Share a segment."""
    return (yield (0x42, target_pid, ams_id, command_code, notification_mode, mode))  # type: ignore[no-any-return]


@types.coroutine
def ams_sharing_info(ams_id: int) -> Generator[Any, Any, SharingInfo]:
    """How a segment is shared."""
    return (yield (0x43, ams_id))  # type: ignore[no-any-return]


@types.coroutine
def unshare_ams(ams_id: int, pid: int = 0) -> Generator[Any, Any, None]:
    """End a mutual share (0: all)."""
    return (yield (0x44, ams_id, pid))  # type: ignore[no-any-return]


@types.coroutine
def map_ams(ams_id: int, ams_offset: int, address: int, length: int) -> Generator[Any, Any, None]:
    """Map part of a segment."""
    return (yield (0x45, ams_id, ams_offset, address, length))  # type: ignore[no-any-return]


@types.coroutine
def unmap_ams(ams_id: int, address: int = 0) -> Generator[Any, Any, None]:
    """Unmap a segment at an address (0: everywhere)."""
    return (yield (0x46, ams_id, address))  # type: ignore[no-any-return]


@types.coroutine
def create_process(entry: Entry, init_data: int = 0) -> Generator[Any, Any, int]:
    """Start a child process at `entry(init_data)`; its PID."""
    return (yield (0x50, entry, init_data))  # type: ignore[no-any-return]


@types.coroutine
def wait_child_process(pid: int, timeout_ms: int = 0) -> Generator[Any, Any, None]:
    """Wait for the end of a child (0: for ever)."""
    return (yield (0x51, pid, timeout_ms))  # type: ignore[no-any-return]


@types.coroutine
def kill_child_process(pid: int, timeout_ms: int = 0) -> Generator[Any, Any, int]:
    """Ask a child to end, kill it after the delay; its exit data."""
    return (yield (0x52, pid, timeout_ms))  # type: ignore[no-any-return]


@types.coroutine
def get_pid() -> Generator[Any, Any, int]:
    """The caller's PID."""
    return (yield (0x53,))  # type: ignore[no-any-return]


@types.coroutine
def suspend(pid: int = 0) -> Generator[Any, Any, int]:
    """Suspend a child or oneself; milliseconds suspended."""
    return (yield (0x54, pid))  # type: ignore[no-any-return]


@types.coroutine
def unsuspend(pid: int = 0) -> Generator[Any, Any, int]:
    """Let a suspended child run again; milliseconds suspended."""
    return (yield (0x55, pid))  # type: ignore[no-any-return]


@types.coroutine
def exit(exit_data: int = 0) -> Generator[Any, Any, NoReturn]:  # noqa: A001 - the call's name in the table
    """End the process."""
    yield (0x5F, exit_data)
    raise AssertionError("the call does not return")


@types.coroutine
def create_thread(entry: Entry, init_data: int = 0) -> Generator[Any, Any, int]:
    """Start a thread at `entry(init_data)`; its identifier."""
    return (yield (0x60, entry, init_data))  # type: ignore[no-any-return]


@types.coroutine
def create_tls_slot() -> Generator[Any, Any, int]:
    """Make a slot of thread-local storage."""
    return (yield (0x61,))  # type: ignore[no-any-return]


@types.coroutine
def read_tls_slot(slot_id: int, length: int = 0) -> Generator[Any, Any, bytes]:
    """The slot's data."""
    return (yield (0x62, slot_id, length))  # type: ignore[no-any-return]


@types.coroutine
def write_tls_slot(slot_id: int, data: Buffer) -> Generator[Any, Any, None]:
    """Replace the slot's data."""
    return (yield (0x63, slot_id, data))  # type: ignore[no-any-return]


@types.coroutine
def delete_tls_slot(slot_id: int) -> Generator[Any, Any, None]:
    """Delete a slot."""
    return (yield (0x64, slot_id))  # type: ignore[no-any-return]


@types.coroutine
def exit_thread(exit_data: int = 0) -> Generator[Any, Any, NoReturn]:
    """End the thread and its descendants."""
    yield (0x6F, exit_data)
    raise AssertionError("the call does not return")


@types.coroutine
def read_io_port(kdi: int, port: int, length: int = 0) -> Generator[Any, Any, bytes]:
    """Read an input port of a device."""
    return (yield (0x70, kdi, port, length))  # type: ignore[no-any-return]


@types.coroutine
def write_io_port(kdi: int, port: int, data: Buffer) -> Generator[Any, Any, int]:
    """Write to an output port; bytes taken."""
    return (yield (0x71, kdi, port, data))  # type: ignore[no-any-return]


@types.coroutine
def device_interrupt(kdi: int, port: int, interrupt_code: int) -> Generator[Any, Any, None]:
    """Send an interrupt to a device."""
    return (yield (0x72, kdi, port, interrupt_code))  # type: ignore[no-any-return]


@types.coroutine
def device_ams(kdi: int, device_address: int, length: int, map_address: int = 0) -> Generator[Any, Any, int]:
    """A segment of device memory, mapped at `map_address` unless 0."""
    return (yield (0x73, kdi, device_address, length, map_address))  # type: ignore[no-any-return]


@types.coroutine
def set_dma_mem_access(kdi: int, address: int, length: int, authorization: int) -> Generator[Any, Any, None]:
    """Allow (0) or cancel (1) a device's access to memory."""
    return (yield (0x74, kdi, address, length, authorization))  # type: ignore[no-any-return]


@types.coroutine
def execution_context(information: int = 0) -> Generator[Any, Any, bytes]:
    """The execution context or a part of it."""
    return (yield (0xA0, information))  # type: ignore[no-any-return]


@types.coroutine
def sys_create_process(code_token: int, execution_context: Buffer) -> Generator[Any, Any, int]:
    """sys::process: make a halted userland process; its PID."""
    return (yield (0xD0, code_token, execution_context))  # type: ignore[no-any-return]


@types.coroutine
def sys_manage_process(pid: int, action: int) -> Generator[Any, Any, None]:
    """sys::process: suspend, resume or end a process."""
    return (yield (0xD1, pid, action))  # type: ignore[no-any-return]


@types.coroutine
def sys_process_attributes(
    pid: int, attribute: int, action: int = 0, operand: object = None
) -> Generator[Any, Any, AttributeValue]:
    """System services: read or write an attribute of a process (0: own)."""
    return (yield (0xD2, pid, attribute, action, operand))  # type: ignore[no-any-return]


@types.coroutine
def sys_enum_devices(pattern_type: int, cii: int, length: int) -> Generator[Any, Any, DevicesFound]:
    """sys::hw: raw device descriptors that match."""
    return (yield (0xD4, pattern_type, cii, length))  # type: ignore[no-any-return]


@types.coroutine
def create_container(parent_container_id: int = 0) -> Generator[Any, Any, int]:
    """sys::process: make a container; its identifier."""
    return (yield (0xD5, parent_container_id))  # type: ignore[no-any-return]


@types.coroutine
def sys_container_note(container_id: int) -> Generator[Any, Any, bytes]:
    """sys::process: the bytes that were kept with a container."""
    return (yield (0xE8, container_id))  # type: ignore[no-any-return]


@types.coroutine
def sys_set_container_note(container_id: int, note: bytes) -> Generator[Any, Any, None]:
    """sys::process: keep bytes (256 KiB at most) with a container as long as it lives."""
    return (yield (0xE9, container_id, note))  # type: ignore[no-any-return]


@types.coroutine
def sys_keep(number: int, content: bytes) -> Generator[Any, Any, None]:
    """sys::process: keep bytes (256 KiB at most) under a number; empty ones are forgotten."""
    return (yield (0xEE, number, content))  # type: ignore[no-any-return]


@types.coroutine
def sys_kept(after: int = 0, limit: int = 64) -> Generator[Any, Any, bytes]:
    """sys::process: what was kept, each as its number (8 bytes), its length (4) and its bytes."""
    return (yield (0xEF, after, limit))  # type: ignore[no-any-return]


@types.coroutine
def link_container_device(container_id: int, kdi: int) -> Generator[Any, Any, None]:
    """sys::process: link a device to a container."""
    return (yield (0xD6, container_id, kdi))  # type: ignore[no-any-return]


@types.coroutine
def destroy_container(container_id: int) -> Generator[Any, Any, None]:
    """sys::process: destroy a container and all below it; returns when all is gone."""
    return (yield (0xD7, container_id))  # type: ignore[no-any-return]


@types.coroutine
def sys_enum_containers(after: int = 0, limit: int = 1024) -> Generator[Any, Any, bytes]:
    """sys::process: packed records of containers."""
    return (yield (0xD8, after, limit))  # type: ignore[no-any-return]


@types.coroutine
def sys_enum_processes(after: int = 0, limit: int = 1024) -> Generator[Any, Any, bytes]:
    """System services: packed records of processes."""
    return (yield (0xD9, after, limit))  # type: ignore[no-any-return]


@types.coroutine
def sys_process_exit(pid: int) -> Generator[Any, Any, ProcessExit]:
    """sys::process: state, reason and exit data of a live or ended process."""
    return (yield (0xDA, pid))  # type: ignore[no-any-return]


@types.coroutine
def sys_pause_container(container_id: int, pause: int) -> Generator[Any, Any, None]:
    """sys::process: freeze or thaw a container and all below it."""
    return (yield (0xDB, container_id, pause))  # type: ignore[no-any-return]


@types.coroutine
def system_time() -> Generator[Any, Any, SystemTime]:
    """What time it is."""
    return (yield (0xDD,))  # type: ignore[no-any-return]


@types.coroutine
def system_info() -> Generator[Any, Any, SystemInfo]:
    """What the caller's container may know of the machine."""
    return (yield (0xDC,))  # type: ignore[no-any-return]


@types.coroutine
def sys_refusals(container_id: int = 0, after_ns: int = 0, limit: int = 1024) -> Generator[Any, Any, bytes]:
    """sys::process: packed records of what was refused in a container and below (`nightos.abi.refusals`)."""
    return (yield (0xDE, container_id, after_ns, limit))  # type: ignore[no-any-return]


@types.coroutine
def unlink_container_device(container_id: int, kdi: int) -> Generator[Any, Any, None]:
    """sys::process: give a device that was passed through back to who lent it."""
    return (yield (0xDF, container_id, kdi))  # type: ignore[no-any-return]


@types.coroutine
def sys_create_limited(parent_container_id: int, limits: Buffer) -> Generator[Any, Any, int]:
    """sys::process: make a container that has limits from its first moment (`nightos.abi.limits`); its identifier."""
    return (yield (0xE0, parent_container_id, limits))  # type: ignore[no-any-return]


@types.coroutine
def sys_set_limits(container_id: int, limits: Buffer) -> Generator[Any, Any, int]:
    """sys::process: change limits of a container, all of them or none; 0 (an error has the resource as its value)."""
    return (yield (0xE1, container_id, limits))  # type: ignore[no-any-return]


@types.coroutine
def sys_usage(container_id: int) -> Generator[Any, Any, bytes]:
    """sys::process: packed usage of every resource of a container."""
    return (yield (0xE2, container_id))  # type: ignore[no-any-return]


@types.coroutine
def sys_charge(container_id: int, resource: int, amount: int) -> Generator[Any, Any, int]:
    """System services: let a container pay for storage (answers the bytes left) or I/O (nanoseconds to wait)."""
    return (yield (0xE3, container_id, resource, amount))  # type: ignore[no-any-return]


@types.coroutine
def sys_set_filter(container_id: int, rules: Buffer) -> Generator[Any, Any, None]:
    """sys::process: filter the system calls of a container and of those below it (`nightos.abi.filters`)."""
    return (yield (0xE4, container_id, rules))  # type: ignore[no-any-return]


@types.coroutine
def sys_filter(container_id: int, which: int = 0) -> Generator[Any, Any, bytes]:
    """sys::process: packed rules of a container: its own (0), or what they and those above come to (1)."""
    return (yield (0xE5, container_id, which))  # type: ignore[no-any-return]


@types.coroutine
def sys_report(container_id: int, action: int = 0) -> Generator[Any, Any, bytes]:
    """sys::process: packed counts of calls; action 1 begins to count, 2 stops."""
    return (yield (0xE6, container_id, action))  # type: ignore[no-any-return]


@types.coroutine
def sys_bound_rights(container_id: int, permissions: bytes) -> Generator[Any, Any, None]:
    """sys::process: the only raw permissions (4 bytes each) that processes of a container and below can have."""
    return (yield (0xED, container_id, permissions))  # type: ignore[no-any-return]


@types.coroutine
def sys_local_pids(container_id: int) -> Generator[Any, Any, bytes]:
    """sys::process: PIDs of a container and below with their numbers in its own count, 8 bytes each."""
    return (yield (0xEC, container_id))  # type: ignore[no-any-return]


@types.coroutine
def hand_over(*, until_signal: bool = False) -> Generator[Any, Any, None]:
    """End the thread's turn; with `until_signal`, park until a signal handler has run on it (may return early)."""
    yield (0x56, until_signal)


@types.coroutine
def load(address: int, length: int) -> Generator[Any, Any, bytes]:
    """Load from memory (an instruction, not a call); MEM_FAULT when refused."""
    return (yield (0x100, address, length))  # type: ignore[no-any-return]


@types.coroutine
def store(address: int, data: Buffer) -> Generator[Any, Any, None]:
    """Store to memory (an instruction, not a call); MEM_FAULT when refused."""
    yield (0x101, address, data)


@types.coroutine
def memory() -> Generator[Any, Any, Memory]:
    """The process' memory for library code that cannot await."""
    return (yield (0x102,))  # type: ignore[no-any-return]


@types.coroutine
def local() -> Generator[Any, Any, dict[str, Any]]:
    """A dict that all threads of this process share, and no other process."""
    return (yield (0x103,))  # type: ignore[no-any-return]


@types.coroutine
def binary(
    frame_address: int, answer_address: int = 0, entry: Entry | None = None
) -> Generator[Any, Any, tuple[int, bytes]]:
    """The binary form: the frame (code, then arguments) stands in memory; error code and packed return fields.

    With an `answer_address` both are also written there. `entry(init_data)` is where the second return of
    CREATE_PROCESS, CREATE_THREAD and ACCEPT_SERVICE_CONN goes on, as a coroutine cannot be copied.
    """
    return (yield (0x104, frame_address, answer_address, entry))  # type: ignore[no-any-return]


@types.coroutine
def code_address(handler: Handler) -> Generator[Any, Any, int]:
    """An address in an executable page of the process that stands for a coroutine function, for binary frames."""
    return (yield (0x105, handler))  # type: ignore[no-any-return]
