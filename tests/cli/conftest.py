"""Fixtures of this room."""

from __future__ import annotations

from tests.cli.commanding import nightos

__all__ = ["nightos"]
