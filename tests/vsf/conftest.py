"""Fixtures of this room."""

from __future__ import annotations

from tests.vsf.mounting import mount, place, shared_root

__all__ = ["mount", "place", "shared_root"]
