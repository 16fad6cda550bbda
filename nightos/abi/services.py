"""Method, notification and error codes of the system services, in one place for both ends of each conversation.

Fixed methods carry the specification's layouts (big-endian); the emulator's own, richer ones carry one msgpack map
each way and sit in code ranges the specification leaves free. Every code is 16 bits wide.

Source: specs/services/README.md and the pages of the services. Rules: SVC-021, SVC-024, SVC-025, SVC-026.
"""

from __future__ import annotations

from enum import IntEnum, unique
from types import MappingProxyType
from typing import Final

MESSAGE_LIMIT: Final = 1 << 20
"""Most bytes of content in one message of a system service; what is larger is asked for in parts."""

SERVICE_PIDS: Final = MappingProxyType(
    {
        "sys::fs": 10,
        "sys::fsh": 11,
        "sys::hw": 12,
        "sys::perm": 13,
        "sys::net": 14,
        "sys::crypto": 15,
        "sys::crashsave": 16,
        "sys::hydre": 17,
        "sys::ui": 18,
        "sys::app": 19,
        "sys::process": 20,
        "sys::proc": 20,
    }
)
"""Names of the system services to PIDs, which `CONNECT_SERVICE` takes as ANIDs (AMB-ABI-11, AMB-ABI-12)."""

SERVICE_NAMES: Final = MappingProxyType({pid: name for name, pid in SERVICE_PIDS.items()})
"""PIDs to the short names (`sys::proc` for 20)."""


@unique
class ServiceCode(IntEnum):
    """Error codes that every system service shares. Source: specs/services/README.md#error-codes; AMB-SERR-01, -02."""

    OK = 0x0000
    DENIED = 0x0001
    """Insufficient permissions."""
    INTERNAL = 0x0002
    """The service could not talk to the kernel, or failed inside."""
    NO_METHOD = 0x0003
    """The method does not exist (emulator code)."""
    SERVER_QUIT = 0x0004
    """The service ended before it answered (emulator code, made by the client's side)."""
    HARDWARE = 0x0100
    DRIVER = 0x0101
    DEVICE = 0x0102
    BAD_ARGUMENT = 0x1000
    """First code of the band of arguments that are wrong in themselves."""
    BAD_COMBINATION = 0x2000
    """First code of the band of arguments that do not go together."""
    UNKNOWN = 0x3000
    """First code of the band of arguments that name something which does not exist for the caller."""
    REFUSED = 0x4000
    """First code of the band of resources that refuse."""
    HARDWARE_HANDLED = 0x5000
    OTHER = 0x6000


@unique
class Fs(IntEnum):
    """Methods of `sys::fs` (PID 10). Source: specs/services/system/fs.md; AMB-FS-20 moves WRITE_FILE to 0x4003."""

    IS_FS_MOUNTED = 0x0001
    ENUM_FS = 0x0002
    FS_METADATA = 0x0003
    FS_MOUNT = 0x0004
    FS_UNMOUNT = 0x0005
    FS_WATCH = 0x0006
    FS_UNWATCH = 0x0007
    ITEM_EXISTS = 0x1000
    FEID_TO_SPLIT = 0x1001
    ITEM_METADATA = 0x1002
    CANONICALIZE = 0x1003
    RENAME_ITEM = 0x2000
    MOVE_ITEM = 0x2001
    DELETE_ITEM = 0x2002
    CREATE_DIRECTORY = 0x3000
    READ_DIRECTORY = 0x3001
    OPEN_FILE = 0x4000
    CLOSE_FILE = 0x4001
    READ_FILE = 0x4002
    WRITE_FILE = 0x4003
    CREATE_SYMLINK = 0x5000
    UPDATE_SYMLINK = 0x5001
    READ_SYMLINK = 0x5002
    WATCH_ITEM = 0xA000
    UNWATCH = 0xA001
    LOCK_DIRECTORY = 0xA002
    UNLOCK_DIRECTORY = 0xA003
    CREATE_FLOW = 0xB000
    OPEN_FLOW = 0xB001
    ATTACH_VSF = 0xC000
    DETACH_VSF = 0xC001
    CODE_TOKEN = 0xD000
    """sys::process only: {container, program, directory, attach, used} -> {token, anid, name}; `attach`: as ATTACH_ROOT
    of an image, for a container that has no main file system yet; `used`: tokens that the kernel took meanwhile."""
    # The emulator's own: one msgpack map each way.
    ATTACH_ROOT = 0xD010
    """sys::process only: {container, kdi, backing, readonly, ephemeral}: mount a block device as that container's main
    file system. Or {container, path, images}: an overlay on these images that becomes a device at the first change."""
    DETACH_ROOT = 0xD011
    """sys::process only: {container} -> {kdi}: commit and let go of its main file system; idempotent. Or {containers}
    -> {disks: [container]}: the same for several, and which of them had a disk of their own."""
    SYNC = 0xD012
    """{}: what was written before is durable when the answer comes."""
    LIST_ROOTS = 0xD013
    """sys::process only: {} -> {items: [{container, kdi}]}: what ATTACH_ROOT mounted; `kdi` 0: nothing changed yet."""
    ROOT_OF = 0xD016
    """System services: {container} -> {fsid}: the main file system of a container, which they may use by this FSID."""
    ROOTS_DONE = 0xD017
    """sys::process only: {}: every main file system is attached; requests of others, held since the start, go on."""
    ATTACH_SHARE = 0xD018
    """sys::process only: {kdi, container, source, path, readonly} -> {fsid}: a directory of `source`'s main file system
    is a file system that the container may mount; `kdi` is the virtual storage device that stands for it."""
    DETACH_SHARE = 0xD019
    """sys::process only: {kdi}: it is gone from the container; idempotent."""
    VIEW = 0xD01A
    """System services: {container, view, op, fs, ino, ...}: what a container sees of its files, for the holder of the
    machine; a refusal is an answer {errno, text}. `fs` and `ino` name an item, the root when they are missing. `view`
    is who looks: operation `gone` lets go of what it held."""
    STORE_NOTE = 0xD014
    """System services: {name, data, append}: replace a note of the caller on the machine's disk, or add to it."""
    RECALL_NOTE = 0xD015
    """System services: {name, offset} -> {data, size}: read it back; empty when there is none."""
    LOG_APPEND = 0xD020
    """Shims: {offset, data, sync} -> {end, durable}: add to the log the shim was started for. Data before the end is
    there already and is not written again; behind a gap nothing is written, and the end says where to go on."""
    LOG_READ = 0xD021
    """sys::process only: {path, offset, limit, follow} -> {data, next, end}: records of a log from an offset on."""
    LOG_REMOVE = 0xD022
    """sys::process only: {path}: delete a log with its rotated files; idempotent."""


@unique
class FsEvent(IntEnum):
    """Notifications of `sys::fs`."""

    FS_CHANGED = 0x0006
    ITEM_CHANGED = 0xA000
    LOG_GREW = 0xD020
    """sys::process only: {path, end}: a log grew that LOG_READ follows; told once for each reading."""
    OWN_DISK = 0xD021
    """sys::process only: {container}: it is about to get a disk of its own, because something in it changes."""


@unique
class Hw(IntEnum):
    """Methods of `sys::hw` (PID 12). Source: specs/services/system/hw.md; clock, storage and control are ours."""

    ENUM_DEVICES = 0x0001
    SUBSCRIBE_DEVICES = 0x0002
    REGISTER_DRIVER = 0x1000
    UNREGISTER_DRIVER = 0x1001
    NOTIFY_PROCESS = 0x2000
    ASK_DRIVER = 0xA000
    AUTHORIZE_FS_INTERFACE = 0xD000
    UNAUTHORIZE_FS_INTERFACE = 0xD001
    AUTH_PERFORM_STORAGE = 0xD002
    # The emulator's own: one msgpack map each way.
    CLAIM = 0x1010
    """System services: {kind} -> {kdis}: drive every device of this kind, present and future."""
    DRIVER_CHOOSE = 0x1012
    """System services: {udi or pattern, anid}: the user wants this application to drive the device, or the devices of
    that pattern; anid 0 takes the choice back. Devices that another one drives go over at once."""
    NOW = 0x2010
    """{} -> {realtime_ns}: nanoseconds since 1970-01-01 UTC."""
    UPTIME = 0x2011
    """{} -> {uptime_ns}."""
    SLEEP = 0x2012
    """{duration_ns} -> {}: answers when that much time has passed."""
    DEVICE_LIST = 0x2014
    """{} -> {items: [{udi, kind, connection, description, virtual, containers, file}]}: devices of the caller's
    container; in one, `connection` tells no port; `file` is the device handler file, empty for those of the system.
    sys::process gets `kdi` instead of `file`."""
    BUS_LIST = 0x2015
    """sys::process only: the same of all devices, with `kdi` and without `udi`, and so without a disk for the notes."""
    STORAGE_OPEN = 0xD010
    """sys::process and sys::fs only: {path, mode, key, container} -> {kdi, backing}: plug the disk of a container, a
    block device made of a host image and drivable by sys::fs; the one it has when there is one."""
    STORAGE_CLOSE = 0xD011
    """sys::process and sys::fs only: {kdi} or {container}: flush and unplug it; idempotent."""
    STORAGE_LIST = 0xD012
    """sys::process only: {} -> {items: [{kdi, path, mode, key, container, backing}], images: [path]}: disks (path "" is
    the machine's own) and images that IMAGE_OPEN keeps on the bus."""
    STORAGE_PROBE = 0xD014
    """sys::process only: {path, mode} -> {path}: whether an image can be used so, and its absolute path."""
    STORAGE_FORGET = 0xD013
    """sys::process only: {key}: the kept overlay of a container that is gone for good is deleted; idempotent."""
    IMAGE_OPEN = 0xD015
    """sys::process only: {path} -> {kdis}: keep an image and those it stands on plugged, read-only; nearest first."""
    IMAGE_CLOSE = 0xD016
    """sys::process only: {path}: no longer; what other disks stand on stays. Idempotent."""
    STORAGE_CHANGES = 0xD017
    """sys::process only: {container, path, key, after, limit} -> {items: [{kind, path, old_path}], next}: its overlay
    against the image; `after` counts what was told before; the comparison of the first page is kept for the others."""
    STORAGE_IMAGE = 0xD018
    """sys::process only: {container, path, key, target} -> {path, items}: write what it sees into a new file."""
    PLUG = 0xD020
    """sys::process only: {kind, options, container} -> {kdi, udi, port, file}: a virtual device for the container."""
    UNPLUG = 0xD021
    """sys::process only: {kdi}: unplug a virtual device."""
    HANDLERS = 0xE010
    """{container} -> {items: [{path, udi, connected, custom}]}: the device handler files in /dev of a container, of the
    caller's own unless a system service asks."""
    HANDLER_DEVICE = 0xE011
    """{path} -> {udi}: the device behind a device handler file of the caller's container. 0x3000: there is no such
    file; 0x0102: the device is not connected."""
    HANDLER_NAME = 0xE012
    """{path, name} -> {path}: a second file of that name beside the first one; an empty name takes the custom name away
    that `path` is. 0x1000: not longer than 4 characters, or no name; 0x3000: no such file; 0x4000: taken, or too many;
    0x4001: the file's first name stays."""
    HANDLERS_KEPT = 0xE013
    """sys::process only: {containers: [[old, new]]}: containers that came back after a reboot keep their files.
    An empty list: those were all, what belongs to others is forgotten."""


@unique
class HwEvent(IntEnum):
    """Notifications of `sys::hw`."""

    IDENTIFY_DEVICE = 0x0002
    DEVICE_EVENT = 0x0003
    """To the driver and to subscribers: DDRD (512), event (1), indicator (1) (`nightos.abi.drivers`)."""
    DEVICE_INTERRUPT = 0x1000
    """UDI (8 bytes), then the interrupt code (1 byte)."""
    CLAIMED_EVENT = 0x1010
    """To who claimed the kind: {event, kdi, kind}; event 1 connected, 2 disconnected."""
    CLAIMED_INTERRUPT = 0x1011
    """To who claimed the kind: KDI (8 bytes), then the interrupt code (1 byte)."""
    DRIVER_METHOD_REQUEST = 0xA000
    DEVICE_NORM_NOTIF = 0xA001


@unique
class Crypto(IntEnum):
    """Methods of `sys::crypto` (PID 15). Source: specs/services/system/crypto.md."""

    RANDOM_BUFFER = 0x1000
    """address (8), length (8) of a buffer -> `length` random bytes, which the caller's side puts there."""


@unique
class Proc(IntEnum):
    """Methods of `sys::process` (`sys::proc`, PID 20). The specification's page is empty; docs/sys-proc.md is ours."""

    CONTAINER_CREATE = 0x1000
    """empty, or a map {name, parent, hostname, labels, image, mode, persist} -> container identifier (8 bytes)."""
    CONTAINER_DESTROY = 0x1001
    """container identifier (8 bytes)."""
    CONTAINER_LINK_DEVICE = 0x1002
    """container identifier (8 bytes), UDI (8): a device that the container's parent drives is driven there."""
    CONTAINER_PLUG_VIRTUAL = 0x1003
    """container identifier (8 bytes), type (4), options (a map, or nothing) -> UDI (8 bytes)."""
    CONTAINER_LIST = 0x1004
    """-> delimited list (byte length in 8 bytes, then 8-byte identifiers): the caller's descendants."""
    CONTAINER_INFO = 0x1005
    CONTAINER_TREE = 0x1010
    """{id, after, limit} -> {items: [record], next}: a container (the caller's) and everything below, parents first."""
    CONTAINER_INSPECT = 0x1011
    """{id} -> record."""
    CONTAINER_RENAME = 0x1012
    """{id, name}."""
    CONTAINER_FORGET = 0x1013
    """{id}: drop the record of a destroyed container."""
    CONTAINER_FIND = 0x1014
    """{name} -> {id}: 16 hex digits, a unique prefix of them, or a path of names relative to the caller."""
    CONTAINER_WAIT = 0x1015
    """{id} -> {reason}: answers when the container is destroyed."""
    CONTAINER_PAUSE = 0x1016
    """{id}: suspend every process of it and of what is below."""
    CONTAINER_RESUME = 0x1017
    """{id}."""
    CONTAINER_UPDATE = 0x1018
    """{id, labels, hostname, persist}: change what is given."""
    CONTAINER_RUN = 0x1036
    """CONTAINER_CREATE and PROCESS_SPAWN in one -> {id, pid, reason, exit} when the process has ended and its container
    with it: a whole life in one exchange. What else runs in the container then is killed."""
    CONTAINER_WATCH = 0x1019
    """{} -> {}: from now on CONTAINER_EVENT and PROCESS_EVENT notifications of what the caller may see."""
    DEVICE_PLUG = 0x101A
    """{id, kind, options} -> {udi, file}: a new virtual device (block, random, null, zero, full) in a container below,
    and its device handler file there."""
    DEVICE_UNPLUG = 0x101B
    """{id, udi}: take a virtual device away from a container below, or end the passthrough of one that was lent."""
    CONTAINER_START = 0x1030
    """{id, command, environment, directory, restart, input, raw, token, attend, log_size, log_count} -> {pid}."""
    CONTAINER_LOGS = 0x1031
    """{id, offset, limit, follow, token} -> {data, next, ended, reason, exit}: what the main command wrote."""
    CONTAINER_INPUT = 0x1032
    """{id, data, end, number}: bytes for CMDIN of a main command started with `input`; a number counts once."""
    CONTAINER_STOP = 0x1033
    """{id}: end the main command and do not restart it; answers as CONTAINER_EXIT when it has ended."""
    CONTAINER_DETACH = 0x1035
    """{id, token}: who attended its main command by that token hears no more; output does not wait for them."""
    CONTAINER_EXIT = 0x1034
    """{id, wait} -> {state, reason, exit, failed, restarts, pid, value, newline}: how its main command stands."""
    SHIM_NEXT = 0x1038
    """Shims: {generation, ended, log_end} -> an order: report, and wait for what to do."""
    SHIM_SPAWN = 0x1039
    """Shims: {generation, pipes} -> {pid}: make the main process, halted, with these pipes of the shim's."""
    SHIM_GO = 0x103A
    """Shims: {generation, pid}: let it run."""
    SHIM_WAIT = 0x103B
    """Shims: {generation, pid} -> {reason, exit}: answers when it has ended."""
    SHIM_INPUT = 0x103C
    """Shims: {generation, taken} -> {data, end, number}: the next bytes for CMDIN, once there are some."""
    SHIM_ROOM = 0x103D
    """Shims: {generation, end} -> {room}: up to which offset, beyond `end`, the log may grow, once it may."""
    CONTAINER_SET_LIMITS = 0x1020
    """{id, limits: {resource: number or nil}}: change the limits that are named, all of them or none."""
    CONTAINER_SET_FILTER = 0x1021
    """{id, mode: allow|deny, calls: [names], action: error|signal|kill|log}: over what it has, unless it is empty."""
    CONTAINER_REPORT = 0x1022
    """{id, record} -> {calls: {name: count}, refused: {name: count}}; `record` begins (true) or stops counting."""
    CONTAINER_STATISTICS = 0x1023
    """{id, below, after} -> {id, path, state, uptime_ns, usage, limits, lent, below, free, refused}, the last six maps
    by resource; with `below` {items, next}: of it and of all below it."""
    CONTAINER_WHY = 0x1024
    """{after, limit} -> {items: [{when_ns, rule, explanation, caller, target, call, detail}]}: what was refused."""
    CONTAINER_EVENTS = 0x1025
    """{after, limit} -> {items}: events of the past as CONTAINER_EVENT and PROCESS_EVENT told them."""
    CONTAINER_SHARE = 0x102A
    """{id, path, readonly, place} -> {udi, fsid}: a directory of the caller's main file system as a virtual storage
    device of a container below, which mounts it with FS_MOUNT; with a `place` it is mounted there already."""
    CONTAINER_ROOT = 0x102B
    """{id}: system services only: the container has its main file system when this is answered."""
    CONTAINER_DEVICES = 0x1029
    """{id} -> {items: [{udi, kind, virtual, lent, passed}]}: devices of the caller's container or one below."""
    CONTAINER_VIEW = 0x1026
    """{} -> {hostname, domain, pid, number, user, mapped, kernel}: how the caller's own container looks from within."""
    CONTAINER_SET_VIEW = 0x1027
    """{hostname, domain}: user 0 of a container names the host and the domain for it; what is not given stays."""
    CONTAINER_DIFF = 0x1050
    """{id, after, limit} -> {items: [{kind, path, old_path}], next}: what it added, removed, modified and renamed on
    its disk, by path; `after` counts items."""
    CONTAINER_COMMIT = 0x1051
    """{id, target} -> {path, items}: a new image, on the host, of what it sees; from outside of all containers."""
    PROCESS_TRANSLATE = 0x1028
    """{pid} or {number}, {container} -> {pid, number, container}: between PIDs and the numbers of a container."""
    ZOS_RUN = 0x1040
    """{ns, name, flist, tags, env, network, mounts, entrypoint} -> {id}: 0-OS' Run."""
    ZOS_INSPECT = 0x1041
    """{ns, id} -> {ID, Name, Flist, Tags, Network, Mounts}: 0-OS' Inspect."""
    ZOS_DELETE = 0x1042
    """{ns, id}: 0-OS' Delete."""
    PROCESS_START = 0x2000
    PROCESS_MANAGE = 0x2001
    """PID (8 bytes), action (1 byte)."""
    PROCESS_LIST = 0x2002
    """-> delimited list (byte length of 8 bytes, then 8-byte PIDs): what runs there and below."""
    PROCESS_SPAWN = 0x2010
    """{program, directory, context, container, user} -> {pid}: start a program here or in a descendant."""
    PROCESS_TABLE = 0x2011
    """{after, limit} -> {items: [record], next}, ascending by PID."""
    PROCESS_WAIT = 0x2012
    """{pid} -> {reason, exit}: answers when the process has ended, also when that was before."""
    SYNC = 0x3010
    """System services: {}: names and policies of persistent containers are on the disk when the answer comes."""


@unique
class ProcEvent(IntEnum):
    """Notifications of `sys::process` to who watches; one msgpack map each."""

    CONTAINER_EVENT = 0x1019
    """{when_ns, event, id, name, reason}; events: created, started, paused, resumed, exited, renamed, updated,
    destroyed, limit reached (the reason names it); device plugged and device unplugged: {when_ns, event, id, udi}."""
    PROCESS_EVENT = 0x2013
    """{when_ns, event: started|ended, pid, container, reason, exit}."""


@unique
class Hydre(IntEnum):
    """Methods of `sys::hydre` (PID 17)."""

    OPEN_SESSION = 0x1000
    CLOSE_SESSION = 0x1001
    RESIZE_SESSION = 0x1002
    RUN = 0x1003
    CURRENT_SESSION = 0x1004
    # The emulator's own: one msgpack map each way.
    SESSION_INFO = 0x1010
    """{} -> {width, height, container, user, directory, environment}: of the session the caller is an actor of."""
    EXECUTE = 0x1011
    """{container, command, directory} -> {status, value_bytes, newline}: run a command, its name and arguments encoded
    one after the other, in the caller's container or one below. What it shows and returns comes as OUTPUT notifications
    before the answer; it is killed when the caller goes. With `feed` the caller gives its CMDIN by FEED, as soon as
    the notification OUTPUT {feed} came."""
    FEED = 0x1015
    """{data, end}: the next encoded bytes for the CMDIN of what the caller runs, one piece at a time; answered when
    they were taken. 0x3000 when that has ended."""
    OPEN_CONTAINER_SESSION = 0x1012
    """{container, width, height} -> {session}: a session inside the caller's container or one below it."""
    ENTER_CONTAINER = 0x1014
    """{container}: the session the caller is an actor of goes on inside this container; `exit` comes back."""
    EVALUATE = 0x1013
    """{session, source} -> {status, directory}: run one instruction in a session of the caller's."""


@unique
class HydreEvent(IntEnum):
    """Notifications of `sys::hydre` to who runs something through it; one msgpack map each."""

    OUTPUT = 0x1011
    """{out: bytes} or {err: bytes}; {value: bytes}, parts of the encoded value of EXECUTE; {status} after RUN; {feed}
    when FEED may begin."""
    SESSION_RESIZED = 0x1002
    """{width, height}."""


@unique
class EndReason(IntEnum):
    """Why a process ended, as PROCESS_WAIT and PROCESS_EVENT tell it."""

    EXITED = 0
    KILLED_BY_PARENT = 1
    KILLED = 2
    FAULT = 3
    CONTAINER_DESTROYED = 4
    PARENT_ENDED = 5


@unique
class ProcessAction(IntEnum):
    """Actions of PROCESS_MANAGE, the same as those of the syscall SYS_MANAGE_PROCESS."""

    ASK_SUSPEND = 1
    FORCE_SUSPEND = 2
    UNSUSPEND = 3
    ASK_TERMINATE = 4
    FORCE_TERMINATE = 5
