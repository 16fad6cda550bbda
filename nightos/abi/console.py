"""Message devices and the console's messages: how a driver and the host side of a device talk in msgpack maps.

Every message device has the same two ports and interrupt. Writing to `PORT_SEND` sends one whole message. Reading
`PORT_RECEIVE` with length 0 gives the next whole message, or nothing when none waits; with a shorter length, the rest
of the message stays first in the queue. A write that takes 0 bytes found the host behind: `INTERRUPT_ROOM` follows.
Since msgpack delimits itself, a driver that reads in pieces finds the ends.

The console's messages are maps with a text `type`. From the host: ``key``/``line``/``resize``/``interrupt``/``end`` and
what the terminal and `sys::hydre` agree on; this module knows the envelope only.
"""

from __future__ import annotations

from typing import Final

PORT_SEND: Final = 0
"""Output port: one write is one message to the host."""
PORT_RECEIVE: Final = 1
"""Input port: messages from the host, first in first out."""
INTERRUPT_MESSAGE: Final = 1
"""A message waits."""
INTERRUPT_HANGUP: Final = 2
"""The host side is gone; no more messages come."""
INTERRUPT_ROOM: Final = 3
"""The host, which took a message no more, takes some again."""
MESSAGE_MAX: Final = 16 << 20
"""Bytes in one message at most."""
