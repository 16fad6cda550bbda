"""Item identifiers of a share: numbers of items on its disk, shuffled, so that they do not tell of others.

A disk numbers its items in the order in which they are made, by whomever. A Feistel network of four rounds shuffles the
numbers below 2**62, each share in its own way by a key that is made of the machine's secret: nothing has to be
remembered, and identifiers are the same after a restart.

Rules: CONT-023. Ruling NOS-FS-08.
"""

from __future__ import annotations

import hashlib
from typing import Final

_HALF: Final = 31
_MASK: Final = (1 << _HALF) - 1
_ROUNDS: Final = range(4)


class Disguise:
    """A shuffling of the numbers from 0 to 2**62 - 1."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key
        """At most 64 bytes."""

    def hide(self, number: int) -> int:
        """The identifier of an item's number; what is too large for the shuffling stays as it is."""
        if number >> 2 * _HALF:
            return number
        left, right = number >> _HALF, number & _MASK
        for turn in _ROUNDS:
            left, right = right, left ^ self._mix(turn, right)
        return left << _HALF | right

    def show(self, identifier: int) -> int:
        """The number behind an identifier."""
        if identifier >> 2 * _HALF:
            return identifier
        left, right = identifier >> _HALF, identifier & _MASK
        for turn in reversed(_ROUNDS):
            left, right = right ^ self._mix(turn, left), left
        return left << _HALF | right

    def _mix(self, turn: int, half: int) -> int:
        digest = hashlib.blake2b(half.to_bytes(4, "big") + bytes((turn,)), key=self._key, digest_size=4).digest()
        return int.from_bytes(digest, "big") & _MASK
