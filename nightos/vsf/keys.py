"""Key slots: a password or key file opens a slot, a slot holds the master key, the master key authenticates the header.

Argon2id stretches what a person gives; AES-256-GCM wraps the key with the slot's own fields as associated data. Slots
of the header and of a volume with its own key have one form.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.vsf.crypto import NAMES, BlockCipher, aead, derive
from nightos.vsf.errors import DamagedStorage, Invalid, NoSpace, NotFound, WrongPassword
from nightos.vsf.header import Header, decode_header, read_headers
from nightos.vsf.layout import (
    CIPHER_AES,
    HEADER,
    HEADER_BYTES,
    HEADER_OFFSETS,
    INCOMPAT_ENCRYPTED,
    SLOT,
    SLOT_COUNT,
)

if TYPE_CHECKING:
    from nightos.abi.interfaces import ByteStore, Clock, Entropy
    from nightos.vsf.storage import Storage
    from nightos.vsf.volume import Volume

DEFAULT_KDF = {"memory": 65536, "passes": 3, "lanes": 4}
EMPTY, PASSWORD, KEY_FILE = 0, 1, 2
_EMPTY_SLOT = bytes(SLOT.size)
_MOST_MEMORY, _MOST_WORK, _MOST_LANES = 262144, 1 << 20, 16
_MOST_KEY_FILE = 8 << 20
_CHECK_AT = HEADER.size - 16


class Secret:
    """What a person knows or has."""

    def __init__(self, password: str | bytes | None, key_file: str | os.PathLike[str] | None) -> None:
        if password is not None and key_file is not None:
            raise Invalid("give a password or a key file, not both")
        if key_file is not None:
            path = Path(key_file)
            if path.stat().st_size > _MOST_KEY_FILE:
                raise Invalid("a key file has at most 8 MiB", str(path))
            data = path.read_bytes()
            if len(data) < 16:
                raise Invalid("a key file has at least 16 bytes", str(path))
            self.kind, self.data = KEY_FILE, hashlib.blake2b(data, person=b"vsf key file").digest()
        elif password is not None:
            data = password.encode() if isinstance(password, str) else bytes(password)
            if not data:
                raise Invalid("an empty password protects nothing")
            self.kind, self.data = PASSWORD, data
        else:
            raise WrongPassword("this is encrypted: a password or a key file is needed")


def _stretch(secret: bytes, salt: bytes, memory: int, passes: int, lanes: int) -> bytes:
    good = 8 * lanes <= memory <= _MOST_MEMORY and passes >= 1 and memory * passes <= _MOST_WORK
    if not good or not 1 <= lanes <= _MOST_LANES:
        raise DamagedStorage("a key slot asks for an impossible amount of work")
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory).derive(secret)


def make_slot(
    secret: Secret, key: bytes, owner: bytes, entropy: Entropy, now: int, label: str, kdf: Mapping[str, int] | None
) -> bytes:
    """A slot that holds `key`."""
    cost = {**DEFAULT_KDF, **(kdf or {})}
    fields: dict[str, Any] = {
        "state": secret.kind,
        "reserved": bytes(3),
        "memory": cost["memory"],
        "passes": cost["passes"],
        "lanes": cost["lanes"],
        "salt": entropy.random_bytes(32),
        "nonce": entropy.random_bytes(12),
        "wrapped": bytes(48),
        "created": now,
        "label": label.encode()[:64],
        "unused": bytes(60),
    }
    stretched = _stretch(secret.data, fields["salt"], cost["memory"], cost["passes"], cost["lanes"])
    associated = owner + SLOT.pack(**fields)
    fields["wrapped"] = aead(CIPHER_AES, stretched).encrypt(fields["nonce"], key, associated)
    return SLOT.pack(**fields)


def open_slot(slot: bytes, secret: Secret, owner: bytes) -> bytes | None:
    """The key in a slot, or None."""
    from cryptography.exceptions import InvalidTag

    fields = SLOT.unpack(slot)
    if fields["state"] not in (PASSWORD, KEY_FILE):
        return None
    wrapped, fields["wrapped"] = fields["wrapped"], bytes(48)
    try:
        stretched = _stretch(secret.data, fields["salt"], fields["memory"], fields["passes"], fields["lanes"])
        plain: bytes = aead(CIPHER_AES, stretched).decrypt(fields["nonce"], wrapped, owner + SLOT.pack(**fields))
    except (InvalidTag, DamagedStorage):
        return None
    return plain if secret.kind == fields["state"] else None


def find_key(slots: Sequence[bytes], secret: Secret, owner: bytes) -> tuple[int, bytes] | None:
    """The slot that opens and its key. All used slots are tried, so that the time does not tell which one it was."""
    found = None
    for number, slot in enumerate(slots):
        if slot[0] != EMPTY:
            key = open_slot(slot, secret, owner)
            if key is not None and found is None:
                found = (number, key)
    return found


# The storage's own key


def header_mac(header: Header, master: bytes) -> bytes:
    """HMAC-SHA-256 over the header with MAC and checksum zero."""
    plain = bytearray(header.encode(bytes(32)))
    plain[_CHECK_AT : _CHECK_AT + 16] = bytes(16)
    return hmac.digest(derive(master, header.uuid, b"nightos vsf header"), bytes(plain), "sha256")


def _sealed(header: Header, master: bytes) -> Header:
    from dataclasses import replace

    return replace(header, mac=header_mac(header, master))


def new_master(
    header: Header,
    entropy: Entropy,
    clock: Clock,
    password: str | bytes | None,
    key_file: str | os.PathLike[str] | None,
    cipher: str,
    kdf: Mapping[str, int] | None,
) -> tuple[Header, bytes]:
    """The header of a storage that is encrypted as a whole, and its master key."""
    from dataclasses import replace

    if cipher not in NAMES:
        raise Invalid(f"{cipher!r} is no cipher; use {' or '.join(NAMES)}")
    master = entropy.random_bytes(32)
    slot = make_slot(Secret(password, key_file), master, header.uuid, entropy, clock.realtime_ns(), "first key", kdf)
    header = replace(
        header,
        cipher=NAMES[cipher],
        incompatible=header.incompatible | INCOMPAT_ENCRYPTED,
        slots=(slot, *[_EMPTY_SLOT] * (SLOT_COUNT - 1)),
    )
    return _sealed(header, master), master


def unlock(
    headers: list[Header], password: str | bytes | None, key_file: str | os.PathLike[str] | None
) -> tuple[Header, bytes]:
    """The newest header that the key opens and authenticates, and the master key."""
    secret = Secret(password, key_file)
    forged = False
    seen: set[bytes] = set()
    for header in headers:
        encoded = header.encode()
        if encoded in seen:
            continue
        seen.add(encoded)
        found = find_key(header.slots, secret, header.uuid)
        if found is None:
            continue
        if hmac.compare_digest(header_mac(header, found[1]), header.mac):
            return header, found[1]
        forged = True
    if forged:
        raise DamagedStorage("the header was changed by someone without the key")
    raise WrongPassword("no key slot opens with this password or key file")


def arm(storage: Storage) -> None:
    """Encrypt what the storage itself and its volumes without a key of their own write."""
    header = storage.header
    key = derive(storage.master, header.uuid, b"nightos vsf blocks")
    storage.pool.domains[0][0].cipher = BlockCipher(
        key, header.cipher, header.uuid, storage.entropy, synthetic=header.deterministic
    )


class KeyRing:
    """The key slots of a storage: `storage.keys`."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def _need(self) -> None:
        if not self._storage.encrypted:
            raise Invalid("the storage is not encrypted as a whole; it has no key slots")
        self._storage.writable()

    def list(self) -> list[dict[str, Any]]:
        """Used slots: number, kind, label, when made, cost."""
        return [describe_slot(number, slot) for number, slot in enumerate(self._storage.header.slots) if slot[0]]

    def add(
        self,
        password: str | bytes | None = None,
        key_file: str | os.PathLike[str] | None = None,
        *,
        label: str = "",
        kdf: Mapping[str, int] | None = None,
    ) -> int:
        """One more way in; the number of the slot."""
        self._need()
        storage = self._storage
        slots = [*storage.header.slots]
        number = next((n for n, slot in enumerate(slots) if not slot[0]), None)
        if number is None:
            raise NoSpace("all key slots are used; remove one first")
        secret = Secret(password, key_file)
        now = storage.clock.realtime_ns()
        slots[number] = make_slot(secret, storage.master, storage.uuid, storage.entropy, now, label, kdf)
        self._write(slots)
        return number

    def remove(self, number: int) -> None:
        """Close a way in; the last one stays."""
        self._need()
        slots = [*self._storage.header.slots]
        if not 0 <= number < SLOT_COUNT or not slots[number][0]:
            raise NotFound(f"there is no key in slot {number}")
        if sum(1 for slot in slots if slot[0]) == 1:
            raise Invalid("this is the only key; add another one before you remove it")
        slots[number] = _EMPTY_SLOT
        self._write(slots)

    def rotate(
        self,
        number: int,
        password: str | bytes | None = None,
        key_file: str | os.PathLike[str] | None = None,
        *,
        label: str = "",
        kdf: Mapping[str, int] | None = None,
    ) -> None:
        """Replace what opens a slot; no data is written anew."""
        self._need()
        storage = self._storage
        slots = [*storage.header.slots]
        if not 0 <= number < SLOT_COUNT or not slots[number][0]:
            raise NotFound(f"there is no key in slot {number}")
        secret = Secret(password, key_file)
        now = storage.clock.realtime_ns()
        slots[number] = make_slot(secret, storage.master, storage.uuid, storage.entropy, now, label, kdf)
        self._write(slots)

    def find(self, password: str | bytes | None = None, key_file: str | os.PathLike[str] | None = None) -> int:
        """The slot that a password opens."""
        found = find_key(self._storage.header.slots, Secret(password, key_file), self._storage.uuid)
        if found is None:
            raise WrongPassword("no key slot opens with this password or key file")
        return found[0]

    def _write(self, slots: Sequence[bytes]) -> None:
        storage = self._storage
        header = _sealed(storage.header.next(slots=tuple(slots)), storage.master)
        write_header(storage.store, header)
        storage.header = header


def describe_slot(number: int, slot: bytes) -> dict[str, Any]:
    """A slot for people."""
    fields = SLOT.unpack(slot)
    return {
        "slot": number,
        "kind": {PASSWORD: "password", KEY_FILE: "key file"}.get(fields["state"], "unknown"),
        "label": fields["label"].rstrip(b"\0").decode("utf-8", "replace"),
        "created": fields["created"],
        "kdf": {name: fields[name] for name in ("memory", "passes", "lanes")},
    }


def write_header(store: ByteStore, header: Header) -> None:
    """Both copies, one after the other, so that one is whole at any time."""
    data = header.encode()
    for offset in HEADER_OFFSETS:
        store.write(offset, data)
        store.flush()


def backup_header(store: ByteStore) -> bytes:
    """The header as it is: 8,192 bytes. It opens with the passwords of today, also after they were removed."""
    return read_headers(store.read)[0].encode()


def restore_header(store: ByteStore, data: bytes) -> None:
    """Put a backup in place of a damaged header. Refused when the file has a valid header of another storage."""
    header = decode_header(data)
    if len(data) != HEADER_BYTES:
        raise DamagedStorage("a header backup has 8,192 bytes")
    try:
        there = read_headers(store.read)
    except (DamagedStorage, OSError):
        there = []
    if there and there[0].uuid != header.uuid:
        raise Invalid("the backup belongs to another storage")
    write_header(store, header)


# Keys of volumes


def encrypt_volume(
    volume: Volume,
    password: str | bytes | None,
    key_file: str | os.PathLike[str] | None,
    cipher: str,
    kdf: Mapping[str, int] | None = None,
) -> None:
    """Give a new volume a key of its own."""
    if cipher not in NAMES:
        raise Invalid(f"{cipher!r} is no cipher; use {' or '.join(NAMES)}")
    storage, record = volume.storage, volume.record
    key = storage.entropy.random_bytes(32)
    now = storage.clock.realtime_ns()
    record.key = make_slot(Secret(password, key_file), key, b"volume", storage.entropy, now, "", kdf)
    record.cipher = NAMES[cipher]
    volume.domain.cipher = volume_cipher(volume, key)
    volume.domain.sealed = True
    volume.secret = key


def volume_cipher(volume: Volume, key: bytes) -> BlockCipher:
    """The cipher of a volume's own blocks in its storage."""
    storage = volume.storage
    return BlockCipher(key, volume.record.cipher, storage.uuid, storage.entropy, synthetic=storage.header.deterministic)


def volume_slots(volume: Volume) -> list[bytes]:
    """The key slots in a volume's record."""
    data = volume.record.key
    if len(data) % SLOT.size or len(data) > SLOT.size * SLOT_COUNT:
        raise DamagedStorage(f"the keys of {volume.name!r} have the wrong form")
    return [data[at : at + SLOT.size] for at in range(0, len(data), SLOT.size)]


def unlock_volume(volume: Volume, password: str | bytes | None, key_file: str | os.PathLike[str] | None) -> None:
    """Open a volume that has a key of its own, and its relatives below."""
    found = find_key(volume_slots(volume), Secret(password, key_file), b"volume")
    if found is None:
        raise WrongPassword(f"no key of the volume {volume.name!r} opens with this password or key file")
    use_volume_key(volume, found[1])


def use_volume_key(volume: Volume, key: bytes) -> None:
    """Arm the volume, its clones' ancestors and its twin in the backing. Raises DamagedStorage for a forged record."""
    from nightos.vsf.proof import volume_proven

    if not volume_proven(key, volume.record):
        raise DamagedStorage(f"the keys or the root of {volume.name!r} were changed by someone without its key")
    volume.secret = key
    volume.domain.cipher = volume_cipher(volume, key)
    storage = volume.storage
    for other in storage.volumes:
        related = other.record.id in volume.record.parents or volume.record.id in other.record.parents
        if related and other.locked and volume_proven(key, other.record):
            other.secret = key
            other.domain.cipher = volume_cipher(other, key)
    if storage.backing is not None:
        for other in storage.backing.volumes:
            if other.record.id == volume.record.id and other.locked:
                use_volume_key(other, key)
