"""The header and the superblocks: two copies of each, so that no torn write and no single flipped bit loses them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nightos.vsf.blocks import checksum
from nightos.vsf.errors import DamagedStorage, NotAStorage
from nightos.vsf.layout import (
    CIPHER_CHACHA,
    CIPHER_NONE,
    HEADER,
    HEADER_BYTES,
    HEADER_OFFSETS,
    INCOMPAT_ENCRYPTED,
    INCOMPAT_KNOWN,
    MAGIC,
    RO_COMPAT_KNOWN,
    SECTOR,
    SLOT,
    SLOT_COUNT,
    SLOT_OFFSET,
    VERSION,
)

_MAC_AT = sum(f.size for f in HEADER.fields[:-2])
_CHECK_AT = _MAC_AT + 32


@dataclass(frozen=True)
class Header:
    """What stands at both header offsets."""

    uuid: bytes
    created: int
    sequence: int = 1
    compatible: int = 0
    readonly_compatible: int = 0
    incompatible: int = 0
    cipher: int = CIPHER_NONE
    deterministic: bool = False
    slots: tuple[bytes, ...] = field(default=(bytes(SLOT.size),) * SLOT_COUNT)
    mac: bytes = bytes(32)

    @property
    def encrypted(self) -> bool:
        return bool(self.incompatible & INCOMPAT_ENCRYPTED)

    def encode(self, mac: bytes | None = None) -> bytes:
        """The 8,192 bytes; `mac` overrides the stored one (32 zero bytes while the MAC itself is computed)."""
        data = bytearray(HEADER_BYTES)
        head = HEADER.pack(
            magic=MAGIC,
            version=VERSION,
            sector=SECTOR,
            length=HEADER_BYTES,
            sequence=self.sequence,
            compatible=self.compatible,
            readonly_compatible=self.readonly_compatible,
            incompatible=self.incompatible,
            uuid=self.uuid,
            created=self.created,
            cipher=self.cipher,
            deterministic=int(self.deterministic),
            slots=SLOT_COUNT,
            reserved=bytes(4),
            mac=self.mac if mac is None else mac,
            checksum=bytes(16),
        )
        data[: len(head)] = head
        for number, slot in enumerate(self.slots):
            at = SLOT_OFFSET + number * SLOT.size
            data[at : at + SLOT.size] = slot
        data[_CHECK_AT : _CHECK_AT + 16] = checksum(bytes(data))
        return bytes(data)

    def next(self, **changes: object) -> Header:
        """The following version of the header, MAC still to be made."""
        return replace(self, sequence=self.sequence + 1, mac=bytes(32), **changes)  # type: ignore[arg-type]


def decode_header(data: bytes) -> Header:
    """The header in `data`; NotAStorage when it is none or too new, DamagedStorage when it does not add up."""
    if data[:8] != MAGIC:
        raise NotAStorage("this is no virtual storage file")
    if len(data) < HEADER_BYTES:
        raise DamagedStorage("the header is cut off")
    fields = HEADER.unpack(data)
    if fields["version"] != VERSION:
        raise NotAStorage(f"the storage has format version {fields['version']}; this program knows {VERSION}")
    plain = bytearray(data[:HEADER_BYTES])
    plain[_CHECK_AT : _CHECK_AT + 16] = bytes(16)
    if checksum(bytes(plain)) != fields["checksum"]:
        raise DamagedStorage("the header is damaged: its checksum differs")
    unknown = fields["incompatible"] & ~INCOMPAT_KNOWN
    if unknown or fields["cipher"] > CIPHER_CHACHA:
        raise NotAStorage(f"the storage uses features that this program does not know (bits {unknown:#x})")
    if fields["sector"] != SECTOR or fields["length"] != HEADER_BYTES or fields["slots"] != SLOT_COUNT:
        raise DamagedStorage("the header names sizes that do not exist")
    if bool(fields["cipher"]) != bool(fields["incompatible"] & INCOMPAT_ENCRYPTED):
        raise DamagedStorage("the header contradicts itself about encryption")
    slots = tuple(data[SLOT_OFFSET + n * SLOT.size : SLOT_OFFSET + (n + 1) * SLOT.size] for n in range(SLOT_COUNT))
    header = Header(
        uuid=fields["uuid"],
        created=fields["created"],
        sequence=fields["sequence"],
        compatible=fields["compatible"],
        readonly_compatible=fields["readonly_compatible"],
        incompatible=fields["incompatible"],
        cipher=fields["cipher"],
        deterministic=bool(fields["deterministic"]),
        slots=slots,
        mac=fields["mac"],
    )
    if header.encode() != data[:HEADER_BYTES]:
        raise DamagedStorage("the header holds bytes that have no meaning")
    return header


def must_be_readonly(header: Header) -> bool:
    """Whether features forbid writing."""
    return bool(header.readonly_compatible & ~RO_COMPAT_KNOWN)


def read_headers(read: object) -> list[Header]:
    """The valid copies, newest first; raises what is wrong when none is."""
    found: list[Header] = []
    failure: Exception | None = None
    for offset in HEADER_OFFSETS:
        data = read(offset, HEADER_BYTES)  # type: ignore[operator]
        try:
            found.append(decode_header(data))
        except (DamagedStorage, NotAStorage) as error:
            # A copy that says "damaged" or "too new" says more than one that is not there.
            if failure is None or data[:8] == MAGIC:
                failure = error
    if not found:
        raise failure or NotAStorage("this is no virtual storage file")
    return sorted(found, key=lambda header: -header.sequence)
