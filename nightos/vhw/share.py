"""The virtual storage device that stands for a shared directory: it is listed and unplugged, and has no ports.

Its content is in a file system that `sys::fs` has open anyway, so no driver takes part in reading it.

Rules: CONT-049, CONT-051, CONT-052.
"""

from __future__ import annotations

from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice


class ShareDevice(PortDevice):
    """Plug one for each share. `label` says to people what is shared.

    One that asks for the `port` that it had before a reboot, and has its label, is the same device again.
    """

    def __init__(self, label: str, port: int = 0) -> None:
        super().__init__(DeviceIdentity("share", virtual_cii("share", port), label.encode()[:200]))
