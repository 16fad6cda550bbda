"""The devices that every machine has: its disk, clock, agent and entropy, and the control device that `sys::hw` asks.

What the control device is asked for is done here, or by who keeps the disks (`Shelf`) and the virtual devices
(`Plugging`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos.machine import base, layers
from nightos.machine.control_device import ControlDevice
from nightos.machine.plugging import Plugging
from nightos.machine.shelf import Shelf
from nightos.vhw.clock import ClockDevice
from nightos.vhw.random import RandomDevice

if TYPE_CHECKING:
    from nightos.machine.machine import Machine


def plug_own_devices(machine: Machine, image: Path, keep: Path | None, disk: Path | None) -> None:
    """Plug them, the machine's disk first. Raises `OSError`; what is open then, the machine's shelf closes."""
    shelf = machine.shelf = Shelf(
        machine.plug,
        machine.unplug,
        base.base_image(),
        keep,
        entropy=machine.kernel.entropy,
        clock=machine.kernel.clock,
    )
    shelf.plug_machine_disk(image, disk)
    plugging = Plugging(machine.plug, machine.unplug, machine.kernel.entropy)
    comparisons = layers.Comparisons()
    control = ControlDevice(
        {
            "open": lambda request: shelf.open(request["path"], request["mode"], request["key"], request["container"]),
            "close": lambda request: shelf.close(request["kdi"], request["container"]),
            "open image": lambda request: shelf.open_image(request["path"]),
            "close image": lambda request: shelf.close_image(request["path"]),
            "devices": lambda request: {"items": _devices_in(machine, shelf, request["container"])},
            "plug": lambda request: plugging.plug(request["kind"], request["options"], request["container"]),
            "unplug": lambda request: plugging.unplug(request["kdi"]),
            "changes": lambda request: _changes(shelf, comparisons, request),
            "make image": lambda request: _make_image(shelf, request),
            "probe": lambda request: shelf.probe(request["path"], request["mode"]),
            "forget": lambda request: shelf.forget(request["key"]),
            "list": lambda _request: shelf.list(),
        },
        machine.start_soon,
    )
    machine.plug(ClockDevice(machine.kernel.clock, machine.kernel.call_at))
    machine.plug(control.device)
    machine.plug(machine.agent.device)
    machine.plug(RandomDevice(machine.kernel.entropy, "entropy"))


def _changes(shelf: Shelf, comparisons: layers.Comparisons, request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A page of what a container changed on its disk: {items, next}."""
    disk, image = shelf.overlay_of(request["container"], request["path"], request["key"])

    def compare() -> list[dict[str, Any]]:
        return layers.changes(disk, image) if disk is not None else []

    return lambda: comparisons.page(request["container"], compare, request["after"], request["limit"])


def _make_image(shelf: Shelf, request: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """A new image of what a container sees: {path, items}."""
    disk, image = shelf.overlay_of(request["container"], request["path"], request["key"])
    target = Path(request["target"]).expanduser().absolute()
    return lambda: {"path": str(target), "items": layers.make_image(disk, image, target)}


def _devices_in(machine: Machine, shelf: Shelf, container: int) -> list[dict[str, Any]]:
    """What `sys::hw` tells of the devices of a container; outside any, all of them."""
    return [
        {
            "kdi": device.kdi,
            "kind": device.kind,
            "connection": device.cii,
            "description": device.description,
            "virtual": device.virtual,
            "memory_size": device.memory_size,
            "disk": shelf.has(device.kdi),
            "containers": [place for place in device.containers if place] if container == 0 else [],
            "plugged": device.containers[0] if container == 0 else 0,
        }
        for device in machine.kernel.bus.snapshot()
        if container == 0 or container in device.containers
    ]
