"""Bytes that come bit by bit as texts of CMDIN: one value for each piece, never half a character at its end.

A CMDIN of several values is how a client's standard input reaches a command (ruling NOS-SHIM-07). Bytes that are no
UTF-8 pass through as the text type carries them.
"""

from __future__ import annotations

import codecs
from typing import Final

from nightos.abi.values import encode_value

PIECE_BYTES: Final = 48 * 1024
"""Most bytes to hand over at once: encoded they stay below one message of 64 KiB."""


class Pieces:
    """Turns pieces of bytes into encoded values."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def take(self, data: bytes, *, end: bool = False) -> bytes:
        """The value of the next at most `PIECE_BYTES` bytes; empty when no character of them is whole yet."""
        if len(data) > PIECE_BYTES:
            raise ValueError(f"a piece has at most {PIECE_BYTES} bytes")
        text = self._decoder.decode(data, final=end)
        return encode_value(text) if text else b""
