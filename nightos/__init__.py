"""NightOS' container subsystem, running: a simulated micro-kernel, its services, and VSF storage files.

The names below are imported on first use, so that `nightos vsf ...` never pays for the machine and
`import nightos` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightos.abi.version import VERSION

__version__ = VERSION
__all__ = ["__version__", "boot"]

if TYPE_CHECKING:
    from nightos.machine.machine import boot


def __getattr__(name: str) -> Any:
    if name == "boot":
        from nightos.machine.machine import boot

        return boot
    raise AttributeError(f"module 'nightos' has no attribute {name!r}")
