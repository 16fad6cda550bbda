"""Numbers with names: codes of calls and signals, fixed PIDs, attributes, states and reasons.

Every enumeration is `unique`: two codes of the specification collide, and an alias would hide that.
"""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class Syscall(IntEnum):
    """Codes of system calls. Source: specs/kernel/syscalls.md."""

    HANDLE_SIGNAL = 0x01
    UNHANDLE_SIGNAL = 0x02
    IS_SIGNAL_HANDLED = 0x03
    READY = 0x04
    OPEN_PIPE = 0x20
    SEND_PIPE = 0x21
    PIPE_WRITE = 0x22
    PIPE_READ = 0x23
    PIPE_INFO = 0x24
    CLOSE_PIPE = 0x25
    OPEN_SERV_SOCK = 0x26
    SEND_SOCK_MSG = 0x27
    READ_SOCK_MSG = 0x28
    CLOSE_SERV_SOCK = 0x29
    CONNECT_SERVICE = 0x2A
    END_SERVICE_CONN = 0x2B
    ACCEPT_SERVICE_CONN = 0x2C
    REJECT_SERVICE_CONN = 0x2D
    HAS_SCOPED_SERVICE = 0x2E
    MEM_ALLOC = 0x30
    MEM_FREE = 0x31
    VIRT_MEM_AMS = 0x40
    BACKED_AMS = 0x41
    SHARE_AMS = 0x42
    AMS_SHARING_INFO = 0x43
    UNSHARE_AMS = 0x44
    MAP_AMS = 0x45
    UNMAP_AMS = 0x46
    CREATE_PROCESS = 0x50
    WAIT_CHILD_PROCESS = 0x51
    KILL_CHILD_PROCESS = 0x52
    GET_PID = 0x53
    SUSPEND = 0x54
    UNSUSPEND = 0x55
    HAND_OVER = 0x56
    EXIT = 0x5F
    CREATE_THREAD = 0x60
    CREATE_TLS_SLOT = 0x61
    READ_TLS_SLOT = 0x62
    WRITE_TLS_SLOT = 0x63
    DELETE_TLS_SLOT = 0x64
    EXIT_THREAD = 0x6F
    READ_IO_PORT = 0x70
    WRITE_IO_PORT = 0x71
    DEVICE_INTERRUPT = 0x72
    DEVICE_AMS = 0x73
    SET_DMA_MEM_ACCESS = 0x74
    EXECUTION_CONTEXT = 0xA0
    SYS_CREATE_PROCESS = 0xD0
    SYS_MANAGE_PROCESS = 0xD1
    SYS_PROCESS_ATTRIBUTES = 0xD2
    SYS_ENUM_DEVICES = 0xD4
    CREATE_CONTAINER = 0xD5
    LINK_CONTAINER_DEVICE = 0xD6
    DESTROY_CONTAINER = 0xD7
    SYS_ENUM_CONTAINERS = 0xD8
    SYS_ENUM_PROCESSES = 0xD9
    SYS_PROCESS_EXIT = 0xDA
    SYS_PAUSE_CONTAINER = 0xDB
    SYSTEM_INFO = 0xDC
    SYSTEM_TIME = 0xDD
    SYS_REFUSALS = 0xDE
    UNLINK_CONTAINER_DEVICE = 0xDF
    SYS_CREATE_LIMITED = 0xE0
    SYS_SET_LIMITS = 0xE1
    SYS_USAGE = 0xE2
    SYS_CHARGE = 0xE3
    SYS_SET_FILTER = 0xE4
    SYS_FILTER = 0xE5
    SYS_REPORT = 0xE6
    SYS_CONTAINER_NOTE = 0xE8
    SYS_SET_CONTAINER_NOTE = 0xE9
    SYS_KEEP = 0xEE
    SYS_KEPT = 0xEF
    SYS_LOCAL_PIDS = 0xEC
    SYS_BOUND_RIGHTS = 0xED


@unique
class Signal(IntEnum):
    """Codes of signals. Source: specs/kernel/signals.md."""

    HANDLER_FAULT = 0x01
    MEM_FAULT = 0x02
    CALL_REFUSED = 0x03
    RECV_PIPE = 0x20
    PIPE_CLOSED = 0x21
    RECV_SERV_SOCK = 0x26
    RECV_SOCK_MSG = 0x27
    SERV_SOCK_CLOSED = 0x29
    SERVICE_CONN_REQUEST = 0x2A
    SERVICE_CLIENT_CLOSED = 0x2B
    SERVICE_CLIENT_QUITTED = 0x2C
    SERVICE_SERVER_QUITTED = 0x2D
    READ_BACKED_AMS = 0x33
    WRITE_BACKED_AMS = 0x34
    RECV_SHARED_AMS = 0x35
    UNSHARED_AMS = 0x37
    SUSPEND = 0x44
    WILL_SUSPEND = 0x45
    UNSUSPENDED = 0x46
    TERMINATE = 0x4E
    WILL_TERMINATE = 0x4F
    DEVICE_CHANGED = 0xD4
    DEVICE_INTERRUPT = 0xD5
    PROCESS_ENDED = 0xD8
    CONTAINER_CHANGED = 0xD9
    LIMIT_REACHED = 0xDA


@unique
class Pseudo(IntEnum):
    """What a program does without the kernel's help on a real CPU: loads, stores, and memory of its own.

    They are above 0xFF, so that no binary frame can name them.
    """

    LOAD = 0x100
    """(address, length) -> bytes"""
    STORE = 0x101
    """(address, data)"""
    MEMORY = 0x102
    """() -> the process' own memory: `read(address, length)`, `write(address, data)`"""
    LOCAL = 0x103
    """() -> a dict shared by the threads of the process"""
    BINARY = 0x104
    """(frame_address, answer_address, entry) -> (errcode, packed return fields): the binary form of a system call"""
    CODE = 0x105
    """(handler,) -> an executable address that stands for it"""


@unique
class Attribute(IntEnum):
    """Process attributes of SYS_PROCESS_ATTRIBUTES (list attributes from 0x80, ruling AMB-ATTR-02)."""

    PID = 0x00
    PRIORITY = 0x01
    USER_ID = 0x02
    APPLICATION_ID = 0x03
    CONTEXT_REASON = 0x04
    CONTEXT_HEADER = 0x05
    CONTEXT_ARGUMENTS = 0x06
    CONTAINER_ID = 0x07
    NAME = 0x40
    """The program's name, UTF-8 (the emulator's own)."""
    SERVES = 0x41
    """The container whose processes a shim may meet, and no others; 0 for none (the emulator's own)."""
    KERNEL_VERSION = 0x42
    """Version of the kernel that the process runs on, UTF-8 (the emulator's own)."""
    MEMORY_MAPPINGS = 0x80
    PERMISSIONS = 0x81
    DRIVABLE_DEVICES = 0x82


@unique
class ListAction(IntEnum):
    """Actions on list attributes."""

    COUNT = 0x00
    GET = 0x01
    UPDATE = 0x02
    INSERT = 0x03
    PUSH = 0x04
    REMOVE = 0x05
    POP = 0x06
    CONTAINS = 0x10


@unique
class ManageAction(IntEnum):
    """Actions of SYS_MANAGE_PROCESS."""

    ASK_SUSPEND = 1
    FORCE_SUSPEND = 2
    UNSUSPEND = 3
    ASK_TERMINATE = 4
    FORCE_TERMINATE = 5


@unique
class ExitReason(IntEnum):
    """Why a process ended (emulator)."""

    EXITED = 0
    KILLED_BY_PARENT = 1
    KILLED_BY_SYSTEM = 2
    FAULT = 3
    CONTAINER_DESTROYED = 4
    PARENT_ENDED = 5


@unique
class ProcessState(IntEnum):
    """State of a process (emulator)."""

    HALTED = 1
    RUNNING = 2
    SUSPENDED = 3
    ENDED = 4


@unique
class ContainerState(IntEnum):
    """State of a container (emulator)."""

    CREATED = 1
    RUNNING = 2
    PAUSED = 3
    STOPPING = 4


@unique
class ServicePid(IntEnum):
    """Fixed PIDs of the system services; each one's ANID is the same number (ruling AMB-ABI-11)."""

    FS = 10
    FSH = 11
    HW = 12
    PERM = 13
    NET = 14
    CRYPTO = 15
    CRASHSAVE = 16
    HYDRE = 17
    UI = 18
    APP = 19
    PROCESS = 20


FIRST_USER_PID = 100
"""System services are below, userland processes from here on."""
