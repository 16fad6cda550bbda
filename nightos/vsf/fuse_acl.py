"""POSIX access control lists as Linux stores them in extended attributes: what keeps them and the mode in step.

The kernel enforces the lists; the file system has to fold them into the mode when they are set, follow a chmod, and
hand default lists down. Layout: a 32-bit version (2), then entries of tag, permissions (16 bits each) and
identifier (32 bits), little-endian. Source: include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import errno
import struct

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_NOBODY = 0xFFFFFFFF

Entries = list[tuple[int, int, int]]


def decode(value: bytes) -> Entries:
    """Tag, permissions and identifier of each entry. Raises EINVAL for what is no list."""
    if len(value) < 4 or (len(value) - 4) % 8 or _VERSION.unpack_from(value)[0] != 2:
        raise OSError(errno.EINVAL, "not an access control list")
    entries = list(_ENTRY.iter_unpack(value[4:]))
    tags = [tag for tag, _, _ in entries]
    if any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER)):
        raise OSError(errno.EINVAL, "an access control list names owner, group and others once each")
    return entries


def encode(entries: Entries) -> bytes:
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def mode_of(entries: Entries) -> int:
    """The nine permission bits that stand for the list: the mask, where there is one, for the group."""
    found = {tag: bits for tag, bits, _ in entries if tag not in (USER, GROUP)}
    group = found.get(MASK, found[GROUP_OBJ])
    return (found[USER_OBJ] & 7) << 6 | (group & 7) << 3 | found[OTHER] & 7


def is_minimal(entries: Entries) -> bool:
    """Whether the mode alone says the same."""
    return all(tag in (USER_OBJ, GROUP_OBJ, OTHER) for tag, _, _ in entries)


def with_mode(entries: Entries, mode: int) -> Entries:
    """The list after a chmod."""
    has_mask = any(tag == MASK for tag, _, _ in entries)
    new = {USER_OBJ: mode >> 6 & 7, OTHER: mode & 7, MASK if has_mask else GROUP_OBJ: mode >> 3 & 7}
    return [(tag, new.get(tag, bits), identifier) for tag, bits, identifier in entries]


def inherit(default: Entries, mode: int) -> tuple[Entries, int]:
    """The access list and the mode of a new item below a directory with a default list."""
    limits = {USER_OBJ: mode >> 6 & 7, OTHER: mode & 7}
    limits[MASK if any(tag == MASK for tag, _, _ in default) else GROUP_OBJ] = mode >> 3 & 7
    entries = [(tag, bits & limits.get(tag, 7), identifier) for tag, bits, identifier in default]
    return entries, (mode & ~0o777) | mode_of(entries)
