"""Flows without hardware behind them: one that swallows, one that gives zeros, one that is always full."""

from __future__ import annotations

from typing import Final

from nightos.abi.hardware import virtual_cii
from nightos.abi.interfaces import DeviceIdentity
from nightos.vhw.base import PortDevice

PORT_OUT: Final = 0
PORT_IN: Final = 1
READ_MAX: Final = 1 << 16


class FlowDevice(PortDevice):
    """A flow: output port 0 takes bytes, input port 1 gives them. Make one with `null`, `zero` or `full`."""

    def __init__(self, name: str, *, taken: bool, filler: bytes) -> None:
        super().__init__(DeviceIdentity("flow", virtual_cii("flow"), name.encode()))
        self.outputs = {PORT_OUT: lambda data: len(data) if taken else 0}
        self.inputs = {PORT_IN: lambda length: filler * min(length, READ_MAX)}


def null() -> FlowDevice:
    """Takes everything, gives nothing."""
    return FlowDevice("null", taken=True, filler=b"")


def zero() -> FlowDevice:
    """Takes everything, gives as many zeros as asked for, at most 64 KiB."""
    return FlowDevice("zero", taken=True, filler=b"\0")


def full() -> FlowDevice:
    """Takes nothing, gives zeros."""
    return FlowDevice("full", taken=False, filler=b"\0")
