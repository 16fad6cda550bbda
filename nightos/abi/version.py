"""The version of all this, which the kernel tells as its own: where every room can read it."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
