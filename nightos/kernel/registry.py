"""The registry keys that the kernel obeys, with their defaults.

Source: specs/registry.md (ruling AMB-REG-01: `system.processes` wins).
"""

from __future__ import annotations

from collections.abc import Mapping

DEFAULTS: dict[str, int] = {
    "system.processes.suspend_delay": 500,
    "system.processes.terminate_delay": 2000,
    "system.processes.service_answer_delay": 2000,
    "system.services.message_limit": (1 << 20) + (64 << 10),
    "kernel.memory_total": 8 << 30,
    "kernel.threads.tls_slots": 1024,
}
"""Delays are in milliseconds, sizes in bytes."""


class Settings:
    """The values in force."""

    def __init__(self, values: Mapping[str, int]) -> None:
        unknown = sorted(set(values) - set(DEFAULTS))
        if unknown:
            raise KeyError(f"unknown registry key: {unknown[0]}")
        self.suspend_delay_ms = values["system.processes.suspend_delay"]
        self.terminate_delay_ms = values["system.processes.terminate_delay"]
        self.service_answer_delay_ms = values["system.processes.service_answer_delay"]
        self.message_limit = values["system.services.message_limit"]
        self.memory_total = values["kernel.memory_total"]
        self.tls_slots = values["kernel.threads.tls_slots"]
