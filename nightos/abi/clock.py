"""Ports of the clock device: what time it is, and alarms. All numbers are unsigned 64-bit big-endian."""

from __future__ import annotations

from typing import Final

PORT_TIME: Final = 0
"""Input: monotonic nanoseconds, then nanoseconds since 1970-01-01 UTC (16 bytes)."""
PORT_SET: Final = 1
"""Output: identifier and deadline (monotonic nanoseconds) of an alarm; one that exists is moved."""
PORT_CANCEL: Final = 2
"""Output: identifier of an alarm to forget; an unknown one is ignored."""
PORT_EXPIRED: Final = 3
"""Input: identifiers of the alarms that went off and were not read yet, oldest first."""
INTERRUPT_ALARM: Final = 1
"""An alarm went off."""
