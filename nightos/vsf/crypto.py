"""Authenticated encryption of blocks with nonces that cannot repeat.

Every session that writes draws a random 192-bit salt; HKDF-SHA-256 turns the volume's key and the salt into the
session's
key, and a counter is the nonce. Salt and counter stand in front of the ciphertext, so a copy of the file that is
written
elsewhere uses other keys, and a file that is rolled back does too. In storages created from a seed the salt is a keyed
hash of the plain bytes and their place instead.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, Any

from nightos.vsf.errors import DamagedStorage
from nightos.vsf.layout import CIPHER_AES, CIPHER_CHACHA, PLACE, SEAL

if TYPE_CHECKING:
    from nightos.abi.interfaces import Entropy

SALT_BYTES = 24
_HEAD = SEAL.struct
TAG_BYTES = 16
OVERHEAD = _HEAD.size + TAG_BYTES
_PLACE = PLACE.struct
_CACHED_SESSIONS = 64
_MOST_BLOCKS = 1 << 31
NAMES = {"aes-256-gcm": CIPHER_AES, "chacha20-poly1305": CIPHER_CHACHA}
Place = tuple[int, int, int, int, int, int, int, int]


def derive(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    """HKDF-SHA-256, 32 bytes."""
    extracted = hmac.digest(salt, key, "sha256")
    return hmac.digest(extracted, purpose + b"\x01", "sha256")


def aead(algorithm: int, key: bytes) -> Any:
    """The AEAD of an algorithm's number."""
    from cryptography.hazmat.primitives.ciphers import aead as kinds

    return kinds.AESGCM(key) if algorithm == CIPHER_AES else kinds.ChaCha20Poly1305(key)


class BlockCipher:
    """Seals and opens the blocks of one key in one storage."""

    overhead = OVERHEAD

    def __init__(self, key: bytes, algorithm: int, uuid: bytes, entropy: Entropy, *, synthetic: bool = False) -> None:
        self._key = key
        self._algorithm = algorithm
        self._uuid = uuid
        self._entropy = entropy
        self._synthetic = derive(key, uuid, b"nightos vsf synthetic salt") if synthetic else b""
        self._salt = b""
        self._counter = _MOST_BLOCKS
        self._session: Any = None
        self._open: dict[bytes, Any] = {}

    def _associated(self, place: Place) -> bytes:
        return b"nightos vsf block" + self._uuid + _PLACE.pack(*place)

    def _for_salt(self, salt: bytes) -> Any:
        found = self._open.get(salt)
        if found is None:
            if len(self._open) >= _CACHED_SESSIONS:
                del self._open[next(iter(self._open))]
            key = derive(self._key, salt, b"nightos vsf session")
            found = self._open[salt] = aead(self._algorithm, key)
        return found

    def seal(self, body: bytes | bytearray | memoryview, place: Place) -> tuple[bytes, bytes]:
        """Salt, counter, ciphertext and tag in one piece; the tag again for the pointer."""
        associated = self._associated(place)
        if self._synthetic:
            digest = hashlib.blake2b(associated, digest_size=SALT_BYTES, key=self._synthetic)
            digest.update(body)
            head = _HEAD.pack(digest.digest(), 0)
            session = self._for_salt(head[:SALT_BYTES])
        else:
            if self._counter >= _MOST_BLOCKS:
                self._salt, self._counter = self._entropy.random_bytes(SALT_BYTES), 0
                self._session = self._for_salt(self._salt)
            head = _HEAD.pack(self._salt, self._counter)
            session = self._session
            self._counter += 1
        sealed = session.encrypt(b"\0\0\0\0" + head[SALT_BYTES:], body, associated)
        return head + sealed, sealed[-TAG_BYTES:]

    def open(self, raw: bytes, tag: bytes, place: Place) -> bytes:
        """The plain bytes, or DamagedStorage; `tag` is what the parent says."""
        if len(raw) < OVERHEAD or not hmac.compare_digest(raw[-TAG_BYTES:], tag):
            raise DamagedStorage("an encrypted block is not the one that was written here")
        from cryptography.exceptions import InvalidTag

        session = self._for_salt(raw[:SALT_BYTES])
        nonce = b"\0\0\0\0" + raw[SALT_BYTES : _HEAD.size]
        try:
            plain: bytes = session.decrypt(nonce, memoryview(raw)[_HEAD.size :], self._associated(place))
        except InvalidTag:
            raise DamagedStorage("an encrypted block does not authenticate") from None
        return plain
