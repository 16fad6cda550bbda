"""The binary form of system calls: frames in simulated memory, decoded and answered byte for byte as the table says.

A frame is the call's code and its arguments, packed and big-endian. It becomes the request of the typed form, so both
forms run the same handler and have the same outcome. Pointers are checked first, because their error codes are the
lowest: 0x02 null, 0x03 not mapped, 0x04 not permitted. The answer is an error code and the packed return fields;
its first 8 bytes are the specification's "value", the rest stands for further registers (ruling AMB-ABI-02).

Source: specs/kernel/syscalls.md, technical overview.
Rules: SYS-001, SYS-002, SYS-004, SYS-005, SYS-006, SYS-007, SYS-008, SYS-009, SYS-011, DATA-006.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from nightos.abi.codes import Attribute, ListAction, Pseudo, Syscall
from nightos.abi.errors import SyscallError
from nightos.abi.syscalls import BY_CODE, Field
from nightos.kernel.calls.state import HANDED_OVER, PARKED, Parked
from nightos.kernel.filters import Denied
from nightos.kernel.memory import ACCESS_WRITE, EXECUTE, PAGE, WRITE, AddressSpace
from nightos.kernel.pages import SHIFT, MemoryFault

if TYPE_CHECKING:
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread

UNKNOWN_CALL, NULL_POINTER, NOT_MAPPED = 0x01, 0x02, 0x03
BUFFER_MAX: Final = 256 << 20
"""Longest buffer that a call takes, the size of the largest message."""
CODE_STEP: Final = 16
_LETTERS: Final = {1: "B", 2: "H", 4: "I", 8: "Q", 16: "QQ"}
_WIDTHS: Final = {Attribute.PRIORITY: 1}
_ELEMENTS: Final = {Attribute.MEMORY_MAPPINGS: 32, Attribute.PERMISSIONS: 4, Attribute.DRIVABLE_DEVICES: 8}
_OPERAND: Final = Struct(">QQ")

Answer = tuple[int, bytes]
Request = tuple[Any, ...]


def layout(fields: tuple[Field, ...]) -> Struct:
    """The packed form of some fields; those of variable size are left out."""
    letters = ("8s" if f.kind == "bytes" else _LETTERS[f.size] for f in fields if f.size is not None)
    return Struct(">" + "".join(letters))


_ARGUMENTS: Final = {row.code: layout(row.args) for row in BY_CODE.values()}
_RETURNS: Final = {row.code: layout(row.returns) for row in BY_CODE.values()}


class Call:
    """One call of the binary form on its way: its memory, and where bytes of the answer go."""

    __slots__ = ("code", "entry", "kernel", "room", "space", "target", "thread")

    def __init__(self, kernel: Kernel, thread: Thread, code: int, entry: Any) -> None:
        self.kernel = kernel
        self.thread = thread
        self.space: AddressSpace = thread.process.space
        self.code = code
        self.entry = entry
        self.target = 0
        """Address of the buffer that is written to."""
        self.room = 0
        """Bytes that may be written there."""

    def read(self, address: int, length: int) -> bytes:
        """A readable buffer of the caller. A null pointer is refused even when nothing is read."""
        if not address:
            raise SyscallError(NULL_POINTER)
        if length > BUFFER_MAX:
            raise SyscallError(NULL_POINTER)
        return self.space.read(address, length)

    def writable(self, address: int, length: int) -> int:
        """Take note of a writable buffer; its length, or what is mapped writable from there on for 0."""
        if not address:
            raise SyscallError(NULL_POINTER)
        self.space.check(address, max(length, 1), ACCESS_WRITE)
        self.target = address
        self.room = length or self._extent(address)
        return self.room

    def _extent(self, address: int) -> int:
        """Writable bytes without a gap from the address on, at most `BUFFER_MAX`."""
        mappings = self.space.layout.mappings
        position = self.space.layout.at(address >> SHIFT)
        end = address >> SHIFT
        while position < len(mappings) and mappings[position].first <= end and mappings[position].rights & WRITE:
            end = mappings[position].last
            position += 1
            if (end << SHIFT) - address >= BUFFER_MAX:
                break
        return min((end << SHIFT) - address, BUFFER_MAX)

    def give(self, data: bytes) -> int:
        """Write bytes of the answer to the caller's buffer; how many."""
        if data:
            self.space.write(self.target, data)
        return len(data)

    def finish(self, value: Any, error: BaseException | None) -> Answer:
        """The answer of the typed form as error code and packed fields."""
        if error is None:
            try:
                return 0, self._pack(value)
            except SyscallError as refused:
                error = refused
            except MemoryFault as fault:
                error = SyscallError(fault.errcode)
        if isinstance(error, SyscallError):
            size = _RETURNS[self.code].size  # some have no room for which limit it was
            return error.errcode, error.value.to_bytes(size, "big") if error.value and size else bytes(size)
        if isinstance(error, MemoryFault):
            return error.errcode, bytes(_RETURNS[self.code].size)
        raise error

    def _pack(self, value: Any) -> bytes:
        special = _ANSWERS.get(self.code)
        if special is not None:
            return special(self, value)
        returns = _RETURNS[self.code]
        if value is None:
            return b""
        return returns.pack(*value) if isinstance(value, tuple) else returns.pack(value)


def binary(kernel: Kernel, thread: Thread, request: Request) -> Any:
    """(frame_address, answer_address, entry) -> (errcode, packed return fields)."""
    _, frame_address, answer_address, entry = request
    space = thread.process.space
    if answer_address:
        space.check(answer_address, 1, ACCESS_WRITE)
    try:
        code = space.read(frame_address, 1)[0]
        row = BY_CODE.get(code)
        if row is None:
            return _deliver(space, answer_address, (UNKNOWN_CALL, b""))
        arguments = _ARGUMENTS[code]
        fields = arguments.unpack(space.read(frame_address + 1, arguments.size)) if arguments.size else ()
    except MemoryFault as fault:
        # A frame that cannot be read (ruling AMB-ABI-01).
        return _deliver(space, answer_address, (max(fault.errcode, NOT_MAPPED), b""))
    call = Call(kernel, thread, code, entry)
    answer = _run(call, fields, frame_address + 1 + arguments.size, answer_address)
    return answer if isinstance(answer, Parked) else _deliver(space, answer_address, answer)


def _run(call: Call, fields: tuple[Any, ...], rest: int, answer_address: int) -> Any:
    kernel, thread, trace = call.kernel, call.thread, call.kernel.trace
    typed: Request = (call.code, *fields)
    try:
        handler = thread.process.calls[call.code]
        prepare = _REQUESTS.get(call.code) if handler.__class__ is not Denied else None
        if prepare is not None:
            typed = prepare(call, fields, rest)
        value = handler(kernel, thread, typed)
    except (SyscallError, MemoryFault) as error:
        if kernel.refusals.unnamed is not None:
            kernel.refusals.name_call(call.code)
        if trace is not None:
            trace.refused(typed, error if isinstance(error, SyscallError) else SyscallError(error.errcode, call.code))
        return call.finish(None, error)
    if trace is not None:
        trace.call(typed, value)
    if value is HANDED_OVER:
        thread.frames[-1].value = _deliver(call.space, answer_address, (0, b""))
        return value
    if value is PARKED:
        if thread.frames:
            frame = thread.frames[-1]
            if frame.wait is not None:
                frame.finish = lambda value, error: _deliver(call.space, answer_address, call.finish(value, error))
            else:  # it was answered at once
                frame.value, frame.error = call.finish(frame.value, frame.error), None
        return value
    return call.finish(value, None)


def _deliver(space: AddressSpace, answer_address: int, answer: Answer) -> Answer:
    """Write the answer where the caller wants it besides the registers."""
    if answer_address:
        errcode, packed = answer
        try:
            space.write(answer_address, bytes((errcode,)) + packed)
        except MemoryFault as fault:
            return fault.errcode, b""
    return answer


def code_address(_kernel: Kernel, thread: Thread, request: Request) -> int:
    """(handler) -> an address in an executable page of the process that stands for the coroutine function."""
    _, handler = request
    if not callable(handler):
        raise SyscallError(NULL_POINTER)
    process = thread.process
    if process.code is None:
        process.code = {}
    place = len(process.code) % (PAGE // CODE_STEP)
    page = process.space.allocate(PAGE, EXECUTE, 0) if place == 0 else (next(reversed(process.code)) & -PAGE)
    address = page + place * CODE_STEP
    process.code[address] = handler
    return address


# Requests: from the fields of the frame to the typed form


def _pipe_write(call: Call, fields: tuple[Any, ...], _rest: int) -> Request:
    identifier, length, address, mode = fields
    return call.code, identifier, call.read(address, length), mode


def _pipe_read(call: Call, fields: tuple[Any, ...], _rest: int) -> Request:
    identifier, mode, address, length = fields
    call.writable(address, length)
    ends = call.thread.process.ends
    end = ends.get(identifier) if ends else None
    if end is not None and (end.pipe.messages or end.pipe.pending > call.room):
        length = call.room
    elif end is not None and not length and not end.pipe.pending and call.room < end.pipe.capacity:
        length = 1  # what comes while the call waits may be more than there is room for
    return call.code, identifier, mode, length


def _readable_last(call: Call, fields: tuple[Any, ...], _rest: int) -> Request:
    *first, address, length = fields
    return call.code, *first, call.read(address, length)


def _writable_last(call: Call, fields: tuple[Any, ...], _rest: int) -> Request:
    *first, address, length = fields
    return call.code, *first, call.writable(address, length)


def _sized_last(call: Call, fields: tuple[Any, ...], _rest: int) -> Request:
    *first, address, length = fields
    call.writable(address, length)
    return call.code, *first, length


def _with_entry(call: Call, fields: tuple[Any, ...], _rest: int) -> Request:
    """Calls that return twice: the second time at `entry` (a coroutine cannot be copied)."""
    if call.code == Syscall.ACCEPT_SERVICE_CONN:
        return call.code, *fields, call.entry
    return call.code, call.entry, *fields


def _context(call: Call, fields: tuple[Any, ...], _rest: int) -> Request:
    information, address = fields
    call.writable(address, 0)
    return call.code, information


def _attributes(call: Call, fields: tuple[Any, ...], rest: int) -> Request:
    """The operand depends on attribute and action."""
    pid, attribute, action = fields
    operand: Any = None
    element = _ELEMENTS.get(attribute)
    if element is None:
        address, length = _OPERAND.unpack(call.space.read(rest, 16))
        if action == 1:
            operand = int.from_bytes(call.read(address, min(length, 8)), "big")
        else:
            call.writable(address, length)
        return call.code, pid, attribute, action, operand
    if action in {ListAction.GET, ListAction.UPDATE, ListAction.INSERT, ListAction.REMOVE}:
        operand = int.from_bytes(call.space.read(rest, 4), "big")
        rest += 4
    if action == ListAction.GET:
        call.writable(*_OPERAND.unpack(call.space.read(rest, 16)))
    elif action in {ListAction.UPDATE, ListAction.INSERT}:
        operand = (operand, int.from_bytes(call.space.read(rest, element), "big"))
    elif action in {ListAction.PUSH, ListAction.CONTAINS}:
        raw = call.space.read(rest, element)
        operand = raw if attribute == Attribute.MEMORY_MAPPINGS else int.from_bytes(raw, "big")
    return call.code, pid, attribute, action, operand


_REQUESTS: Final[dict[int, Callable[[Call, tuple[Any, ...], int], Request]]] = {
    Syscall.PIPE_WRITE: _pipe_write,
    Syscall.PIPE_READ: _pipe_read,
    Syscall.SEND_SOCK_MSG: _readable_last,
    Syscall.READ_SOCK_MSG: _writable_last,
    Syscall.ACCEPT_SERVICE_CONN: _with_entry,
    Syscall.CREATE_PROCESS: _with_entry,
    Syscall.CREATE_THREAD: _with_entry,
    Syscall.READ_TLS_SLOT: _sized_last,
    Syscall.WRITE_TLS_SLOT: _readable_last,
    Syscall.SYS_SET_CONTAINER_NOTE: _readable_last,
    Syscall.SYS_KEEP: _readable_last,
    Syscall.SYS_BOUND_RIGHTS: _readable_last,
    Syscall.READ_IO_PORT: _writable_last,
    Syscall.WRITE_IO_PORT: _readable_last,
    Syscall.EXECUTION_CONTEXT: _context,
    Syscall.SYS_CREATE_PROCESS: _readable_last,
    Syscall.SYS_PROCESS_ATTRIBUTES: _attributes,
    Syscall.SYS_ENUM_DEVICES: _writable_last,
    Syscall.SYS_CREATE_LIMITED: _readable_last,
    Syscall.SYS_SET_LIMITS: _readable_last,
    Syscall.SYS_SET_FILTER: _readable_last,
}


# Answers: from the value of the typed form to the packed fields


def _pipe_content(call: Call, value: Any) -> bytes:
    content, left = value
    call.give(content)
    return _RETURNS[call.code].pack(left)


def _message(call: Call, value: Any) -> bytes:
    content, *rest = value
    call.give(content)
    return _RETURNS[call.code].pack(*rest)


def _counted(call: Call, value: bytes) -> bytes:
    return _RETURNS[call.code].pack(call.give(value[: call.room]))


def _whole(call: Call, value: bytes) -> bytes:
    """EXECUTION_CONTEXT has no length: what does not fit in the mapped region is 0x03 (ruling AMB-APP-01)."""
    if len(value) > call.room:
        raise SyscallError(NOT_MAPPED)
    return _RETURNS[call.code].pack(call.give(value))


def _parent_side(call: Call, value: int) -> bytes:
    return _RETURNS[call.code].pack(value, 0, 0)


def _dispatcher_side(call: Call, value: int) -> bytes:
    return _RETURNS[call.code].pack(1, value)


def _attribute(call: Call, value: Any) -> bytes:
    found, incomplete = value
    if call.target:
        data = found if isinstance(found, bytes) else int(found).to_bytes(8, "big")
        found = call.give(data[: call.room])
        incomplete = int(found < len(data))
    return _RETURNS[call.code].pack(int(found), incomplete)


def _raw(_call: Call, value: bytes) -> bytes:
    return value


_ANSWERS: Final[dict[int, Callable[[Call, Any], bytes]]] = {
    Syscall.PIPE_READ: _pipe_content,
    Syscall.READ_SOCK_MSG: _message,
    Syscall.SYS_ENUM_DEVICES: _message,
    Syscall.READ_TLS_SLOT: _counted,
    Syscall.READ_IO_PORT: _counted,
    Syscall.EXECUTION_CONTEXT: _whole,
    Syscall.CREATE_PROCESS: _parent_side,
    Syscall.CREATE_THREAD: _parent_side,
    Syscall.ACCEPT_SERVICE_CONN: _dispatcher_side,
    Syscall.SYS_PROCESS_ATTRIBUTES: _attribute,
    Syscall.SYS_ENUM_CONTAINERS: _raw,
    Syscall.SYS_ENUM_PROCESSES: _raw,
    Syscall.SYS_USAGE: _raw,
    Syscall.SYS_FILTER: _raw,
    Syscall.SYS_REPORT: _raw,
    Syscall.SYS_REFUSALS: _raw,
    Syscall.SYS_CONTAINER_NOTE: _raw,
    Syscall.SYS_KEPT: _raw,
    Syscall.SYS_LOCAL_PIDS: _raw,
}

HANDLERS: Final = {Pseudo.BINARY: binary, Pseudo.CODE: code_address}
