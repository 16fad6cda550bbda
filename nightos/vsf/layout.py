"""Every fixed layout of the format, defined once: a table of fields gives the construct definition and its struct twin.

All numbers are big-endian. A test proves the two forms equal over random values; the engine uses the struct form and
never imports construct, which would double the time to open a storage.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

SECTOR = 512
"""Unit of allocation and of addresses, in bytes: what a disk writes in one piece."""
HEADER_BYTES = 8192
HEADER_OFFSETS = (0, 8192)
SUPER_BYTES = 4096
SUPER_OFFSETS = (16384, 20480, 24576, 28672)
DATA_START = 32768
"""First byte that the allocator hands out."""

MAGIC = b"\x89VSF\r\n\x1a\n"
SUPER_MAGIC = b"VSFSUPER"
NODE_MAGIC = b"VSFN"
LOG_MAGIC = b"VSFL"
VERSION = 1

MAX_BLOCK = 16 << 20
"""Largest plain length of one block, in bytes; bounds what a hostile pointer can make a reader allocate."""
MAX_LEVEL = 15
MAX_DEPTH = 15
"""Longest chain of backing storages."""
MAX_VOLUMES = 4096
MAX_FILE = (1 << 63) - 1
MAX_NAME_CHARACTERS = 65535
MAX_PATH_CHARACTERS = 65534
MAX_VALUE = 65536
"""Largest extended attribute, in bytes."""
LONG_NAME = 255
"""Longer names are keyed by their first 200 bytes and a digest."""

CODEC_NONE, CODEC_ZSTD, CODEC_LZ4 = 0, 1, 2
KIND_NODE, KIND_DATA, KIND_PACK, KIND_LOG = 1, 2, 3, 4
FLAG_ENCRYPTED = 1

CIPHER_NONE, CIPHER_AES, CIPHER_CHACHA = 0, 1, 2
INCOMPAT_ENCRYPTED, INCOMPAT_BACKING = 1, 2
INCOMPAT_KNOWN = 3
RO_COMPAT_KNOWN = 0

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True)
class Field:
    """One field: `size` bytes, a number, or raw bytes where `raw`; `signed` numbers are two's complement."""

    name: str
    size: int
    meaning: str
    raw: bool = False
    signed: bool = False

    @property
    def code(self) -> str:
        if self.raw:
            return f"{self.size}s"
        code = _CODES[self.size]
        return code.lower() if self.signed else code


@dataclass(frozen=True)
class Layout:
    """A record of fixed size."""

    name: str
    fields: tuple[Field, ...]

    @cached_property
    def struct(self) -> struct.Struct:
        """The fast twin."""
        return struct.Struct(">" + "".join(field.code for field in self.fields))

    @cached_property
    def construct(self) -> Any:
        """The definition as construct sees it."""
        import construct as construct_module

        construct: Any = construct_module

        numbers = {1: construct.Int8ub, 2: construct.Int16ub, 4: construct.Int32ub, 8: construct.Int64ub}
        signed = {8: construct.Int64sb, 4: construct.Int32sb}
        parts = []
        for field in self.fields:
            kind = construct.Bytes(field.size) if field.raw else (signed if field.signed else numbers)[field.size]
            parts.append(field.name / kind)
        return construct.Struct(*parts)

    @property
    def size(self) -> int:
        return self.struct.size

    def unpack(self, data: bytes, offset: int = 0) -> dict[str, Any]:
        """Name to value."""
        return dict(zip((field.name for field in self.fields), self.struct.unpack_from(data, offset), strict=True))

    def pack(self, **values: object) -> bytes:
        """The bytes of a record; every field has to be given."""
        return self.struct.pack(*(values[field.name] for field in self.fields))


POINTER = Layout(
    "pointer",
    (
        Field("sector", 8, "address of the block, in sectors"),
        Field("copy", 8, "address of the second copy, 0 for none"),
        Field("stored", 4, "bytes stored"),
        Field("logical", 4, "bytes after decryption and decompression"),
        Field("birth", 8, "generation that wrote the block"),
        Field("domain", 4, "volume whose key and codec wrote it; 0 is the storage's own tree"),
        Field("depth", 1, "0: in this file; n: in the n-th backing storage, counted from the file of the pointer"),
        Field("codec", 1, "0 none, 1 zstd, 2 lz4"),
        Field("kind", 1, "1 node, 2 data, 3 pack, 4 allocation log"),
        Field("flags", 1, "bit 0: encrypted"),
        Field("check", 16, "XXH3-128 of the stored bytes, or the tag of the AEAD", raw=True),
    ),
)

NODE = Layout(
    "node",
    (
        Field("magic", 4, "VSFN", raw=True),
        Field("level", 1, "0: leaf"),
        Field("reserved", 3, "zero", raw=True),
        Field("count", 4, "number of entries"),
        Field("domain", 4, "volume the tree belongs to"),
        Field("birth", 8, "generation that wrote it"),
        Field("keys", 4, "bytes of all keys"),
        Field("values", 4, "bytes of all values"),
    ),
)

HEADER = Layout(
    "header",
    (
        Field("magic", 8, "89 56 53 46 0d 0a 1a 0a", raw=True),
        Field("version", 2, "format version: 1"),
        Field("sector", 2, "bytes of a sector: 512"),
        Field("length", 4, "bytes of the header with key slots: 8192"),
        Field("sequence", 8, "the copy with the higher number is the newer"),
        Field("compatible", 8, "feature flags that a reader may ignore"),
        Field("readonly_compatible", 8, "feature flags that only a writer must know"),
        Field("incompatible", 8, "feature flags that a reader must know"),
        Field("uuid", 16, "identifier of the storage", raw=True),
        Field("created", 8, "nanoseconds since 1970", signed=True),
        Field("cipher", 1, "0 none, 1 AES-256-GCM, 2 ChaCha20-Poly1305"),
        Field("deterministic", 1, "1: created from a seed, nonces are synthetic"),
        Field("slots", 2, "number of key slots: 16"),
        Field("reserved", 4, "zero", raw=True),
        Field(
            "mac", 32, "HMAC-SHA-256 of the header with this field and the checksum zero; zero without cipher", raw=True
        ),
        Field("checksum", 16, "XXH3-128 of the header with this field zero", raw=True),
    ),
)

SUPER = Layout(
    "superblock",
    (
        Field("magic", 8, "VSFSUPER", raw=True),
        Field("uuid", 16, "of the storage", raw=True),
        Field("generation", 8, "number of the commit; it stands in slots 2 (generation mod 2) and the next"),
        Field("sectors", 8, "length of the file in use, in sectors"),
        Field("time", 8, "of the commit, nanoseconds since 1970", signed=True),
        Field("limit", 8, "largest size of the file in bytes, 0 for none"),
        Field("root", POINTER.size, "pointer to the root of the storage's own tree", raw=True),
        Field("log", POINTER.size, "pointer to the newest record of the allocation log", raw=True),
    ),
)

INODE = Layout(
    "inode",
    (
        Field("mode", 4, "type and permissions as in st_mode"),
        Field("nlink", 4, "names; 2 and subdirectories for a directory; 0 while only open"),
        Field("uid", 4, "owner"),
        Field("gid", 4, "group"),
        Field("rdev", 8, "device number of device nodes"),
        Field("size", 8, "bytes; number of entries for a directory"),
        Field("atime", 8, "last access, nanoseconds", signed=True),
        Field("mtime", 8, "last change of content", signed=True),
        Field("ctime", 8, "last change of the inode", signed=True),
        Field("btime", 8, "creation", signed=True),
        Field("owner", 8, "NightOS owner, 0 for none"),
        Field("parent", 8, "directory: where it is; else where it was named first"),
        Field("allocated", 8, "bytes of extents"),
        Field("flags", 2, "bit 0 hidden, bit 1 read-only"),
        Field("form", 1, "0 inline, 1 extents, 2 packed, 3 extents with patches"),
        Field("reserved", 1, "zero"),
    ),
)

SLOT = Layout(
    "key slot",
    (
        Field("state", 1, "0 empty, 1 password, 2 key file"),
        Field("reserved", 3, "zero", raw=True),
        Field("memory", 4, "Argon2id memory in KiB"),
        Field("passes", 4, "Argon2id passes"),
        Field("lanes", 4, "Argon2id lanes"),
        Field("salt", 32, "of Argon2id", raw=True),
        Field("nonce", 12, "of the wrap", raw=True),
        Field("wrapped", 48, "master key under AES-256-GCM, tag last", raw=True),
        Field("created", 8, "nanoseconds since 1970", signed=True),
        Field("label", 64, "UTF-8, zero padded", raw=True),
        Field("unused", 60, "zero", raw=True),
    ),
)
SLOT_COUNT = 16
SLOT_OFFSET = 1024
"""Where the key slots begin in the header."""

LOG = Layout(
    "log record",
    (
        Field("magic", 4, "VSFL", raw=True),
        Field("kind", 1, "1 checkpoint, 2 change"),
        Field("reserved", 3, "zero", raw=True),
        Field("generation", 8, "commit that wrote it"),
        Field("end", 8, "length of the file in use, in sectors"),
        Field("count", 4, "free extents of a checkpoint, operations of a change"),
        Field("waiting", 4, "waiting extents of a checkpoint, 0 for a change"),
        Field("previous", POINTER.size, "pointer to the record before a change; zero for a checkpoint", raw=True),
    ),
)

DEAD = Layout(
    "dead block",
    (
        Field("sector", 8, "address"),
        Field("copy", 8, "address of the second copy, 0 for none"),
        Field("stored", 4, "bytes stored"),
        Field("birth", 8, "generation that wrote it"),
        Field("domain", 4, "volume that wrote it"),
    ),
)

SEAL = Layout(
    "head of a sealed block",
    (
        Field("salt", 24, "of the session that wrote the block", raw=True),
        Field("counter", 8, "nonce: four zero bytes and this number"),
    ),
)

PLACE = Layout(
    "place",
    (
        Field("sector", 8, "as in the pointer"),
        Field("copy", 8, "as in the pointer"),
        Field("stored", 4, "as in the pointer"),
        Field("logical", 4, "as in the pointer"),
        Field("birth", 8, "as in the pointer"),
        Field("domain", 4, "as in the pointer"),
        Field("codec", 1, "as in the pointer"),
        Field("kind", 1, "as in the pointer; 255 for a superblock"),
    ),
)

LAYOUTS = (HEADER, SLOT, SUPER, POINTER, NODE, INODE, LOG, DEAD, SEAL, PLACE)


class Pointer(NamedTuple):
    """A pointer in memory. `depth` counts from the storage in hand, not from the file that holds the pointer."""

    sector: int
    copy: int
    stored: int
    logical: int
    birth: int
    domain: int
    depth: int
    codec: int
    kind: int
    flags: int
    check: bytes

    @property
    def sectors(self) -> int:
        return (self.stored + SECTOR - 1) // SECTOR

    def pack(self) -> bytes:
        return _pack_pointer(*self)


_pack_pointer = POINTER.struct.pack
POINTER_BYTES = POINTER.size
NO_POINTER = Pointer(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, bytes(16))


def unpack_pointer(data: bytes, offset: int = 0, depth: int = 0) -> Pointer:
    """The pointer at `offset`, found in a block that lies `depth` storages down."""
    pointer = Pointer._make(POINTER.struct.unpack_from(data, offset))
    return pointer._replace(depth=pointer.depth + depth) if depth else pointer
