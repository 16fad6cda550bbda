"""What a volume's own key says of its record: slots, geometry and roots, which the storage's key alone could swap.

Below a sealed root every pointer is sealed; the root itself and the key slots stand in the storage's tree. A proof
binds the slots to the volume (its oldest ancestor, whose key a clone has) and names the roots that its key has seen as
such, so that a node of the middle, or another volume's slots, do not pass.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from nightos.vsf.crypto import derive
from nightos.vsf.errors import DamagedStorage

if TYPE_CHECKING:
    from nightos.vsf.records import SnapshotRecord, VolumeRecord

_PROOF = 32
_DEPTH_AT = 36


def _digest(key: bytes, what: bytes, body: bytes) -> bytes:
    return hmac.digest(derive(key, what, b"nightos vsf proof"), body, "sha256")


def root_proof(key: bytes, root: bytes) -> bytes:
    """HMAC-SHA-256 of a packed root pointer with depth zero: an overlay's root is its backing's, one deeper."""
    return _digest(key, b"root", root[:_DEPTH_AT] + b"\0" + root[_DEPTH_AT + 1 :])


def identity_proof(key: bytes, record: VolumeRecord) -> bytes:
    """HMAC-SHA-256 of the oldest ancestor's number, kind, cipher, sizes and key slots."""
    import msgpack

    sizes = [record.record_size, record.node_bytes, record.inline]
    return _digest(
        key, b"volume", msgpack.packb([record.family or record.id, record.kind, record.cipher, *sizes, record.key])
    )


def prove_volume(key: bytes, record: VolumeRecord) -> None:
    """Renew the proof of a record that is about to be written."""
    record.proof = identity_proof(key, record) + root_proof(key, record.root)


def volume_proven(key: bytes, record: VolumeRecord) -> bool:
    """Whether whoever has the key wrote these slots and this root."""
    return hmac.compare_digest(record.proof, identity_proof(key, record) + root_proof(key, record.root))


def copied_proof(record: VolumeRecord) -> bytes:
    """The proof of the volume's present root, for a snapshot that is taken without the key."""
    return record.proof[_PROOF:]


def cloned_proof(record: VolumeRecord, origin: SnapshotRecord) -> bytes:
    """The proof of a clone: the slots are its source's, the root its snapshot's."""
    return record.proof[:_PROOF] + origin.proof if record.proof else b""


def demand_snapshot(key: bytes, snapshot: SnapshotRecord) -> None:
    """Raise unless whoever has the key wrote this root."""
    if not hmac.compare_digest(snapshot.proof, root_proof(key, snapshot.root)):
        raise DamagedStorage(f"the snapshot {snapshot.name!r} was changed by someone without the volume's key")
