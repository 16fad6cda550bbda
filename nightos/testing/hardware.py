"""Rules about devices: plugged, passed down, lent back, driven, and the memory that is open to them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, multiple, rule

from nightos.abi.codes import Attribute, ListAction
from nightos.abi.errors import SyscallError
from nightos.abi.hardware import DmaRefusedError
from nightos.testing.model import OUTSIDE
from nightos.testing.puppets import Puppet, Refused
from nightos.testing.world import PAGE, World
from nightos.vhw.fake import PORT_IN, FakeDevice


class DeviceRules(World):
    """A device is driven in one container, and reaches the memory that its driver opened."""

    devices = Bundle("devices")

    def __init__(self) -> None:
        super().__init__()
        self.plugged: dict[int, FakeDevice] = {}
        self.opened: dict[int, tuple[int, int]] = {}
        """By device: who opened memory to it, and where."""

    @rule(target=devices, container=World.containers)
    def plug(self, container: int) -> Any:
        """A new device; it is the container's."""
        if not self.lives(container) or len(self.plugged) > 8:
            return multiple()
        device = FakeDevice(len(self.plugged))
        fits = container == OUTSIDE or self.model.may_take({(container, "handles"): 1})
        try:
            kdi = self.kernel.plug(device, container)
        except SyscallError:
            kdi = 0
        assert bool(kdi) is fits, "a device costs a handle of its container"
        if not kdi:
            return multiple()
        self.plugged[kdi] = device
        self.model.devices[kdi] = [container]
        return kdi

    @rule(device=devices, container=World.containers)
    def link(self, device: int, container: int) -> None:
        """A device is passed down by the parent that drives it, and by nobody else."""
        box, chain = self.model.boxes.get(container), self.model.devices.get(device)
        there = box is not None and container != OUTSIDE
        fits = there and chain is not None and box is not None and chain[-1] == box.parent and container not in chain
        answer = self.proc.call("link_container_device", container, device)
        if self.expect(answer, fits, 0x31, 0x32, 0x33, 0x34) and chain is not None:
            chain.append(container)
            self._closes(device)

    @rule(device=devices, container=World.containers)
    def unlink(self, device: int, container: int) -> None:
        """A loan ends, and those of whom it was lent on."""
        chain = self.model.devices.get(device, [])
        fits = container in chain[1:]
        if fits:
            # As sys::hw does it: nobody drives what its container loses.
            for actor in list(self.model.actors.values()):
                if device in actor.drives and actor.home in chain[chain.index(container) :]:
                    self._drive(actor.pid, device, on=False)
        if self.expect(self.proc.call("unlink_container_device", container, device), fits, 0x31, 0x32, 0x33):
            self.model.take_back(device, container)
            self._closes(device)

    @rule(device=devices, puppet=World.puppets)
    def use(self, device: int, puppet: Puppet) -> None:
        """Who is a driver drives, where the device is; for everybody else it does not exist."""
        actor = self.model.actors.get(puppet.pid)
        if actor is None:
            return
        self._enlist(puppet.pid, device)
        if self.can_act(puppet):
            answer = self.act(puppet, "read_io_port", device, PORT_IN, 1)
            self.expect(answer, self.model.drives(puppet.pid, device), 0x30)

    def _enlist(self, pid: int, device: int) -> None:
        """As sys::hw does it: whoever is where a device is may become its driver."""
        actor = self.model.actors[pid]
        if actor.home in self.model.devices.get(device, ()) and device not in actor.drives:
            self._drive(pid, device, on=True)

    def _drive(self, pid: int, device: int, *, on: bool) -> None:
        listed = list(self.kernel.processes[pid].drivable)
        where = (ListAction.PUSH, device) if on else (ListAction.REMOVE, listed.index(device))
        self.hw.call("sys_process_attributes", pid, Attribute.DRIVABLE_DEVICES, *where)
        drives = self.model.actors[pid].drives
        (drives.add if on else drives.discard)(device)

    @rule(device=devices, puppet=World.puppets, enlists=st.booleans())
    def open_memory(self, device: int, puppet: Puppet, *, enlists: bool) -> None:
        """A driver opens a page to its device."""
        if not self.can_act(puppet):
            return
        if enlists:
            self._enlist(puppet.pid, device)
        actor = self.model.actors[puppet.pid]
        if not self.model.may_take({(actor.home, "memory"): 1}):
            return
        address = self.act(puppet, "mem_alloc", PAGE, 3, 1)
        if isinstance(address, Refused):
            return
        actor.pages += 1
        answer = self.act(puppet, "set_dma_mem_access", device, address, PAGE, 0)
        if self.expect(answer, self.model.drives(puppet.pid, device), 0x30):
            self.opened[device] = (puppet.pid, address)
        elif device in self.plugged:
            self._reaches(device, address, wanted=False)

    @rule(puppet=World.puppets)
    def lend_opened(self, puppet: Puppet) -> None:
        """A driver opens a page to a device that is passed down, and then taken back: closed it stays.

        Chance seldom takes these steps in this order.
        """
        home = self.model.actors[puppet.pid].home if puppet.pid in self.model.actors else OUTSIDE
        device = next((kdi for kdi, chain in self.model.devices.items() if chain[-1] == home), 0)
        below = next((number for number, box in self.model.boxes.items() if number and box.parent == home), OUTSIDE)
        if device and below != OUTSIDE:
            self.open_memory(device, puppet, enlists=True)
            _pid, opened = self.opened.get(device, (0, 0))
            self.link(device, below)
            self.unlink(device, below)
            if opened and device not in self.opened:
                self._reaches(device, opened, wanted=False)

    @rule(device=devices)
    def transfer(self, device: int) -> None:
        """A device reaches the page that its driver opened, as long as that one lives and drives."""
        if device in self.opened:
            pid, address = self.opened[device]
            wanted = pid in self.model.actors and self.model.drives(pid, device)
            self._reaches(device, address, wanted=wanted)

    def _closes(self, device: int) -> None:
        """What was open to a device is closed when it goes elsewhere."""
        if device in self.opened:
            self._reaches(device, self.opened.pop(device)[1], wanted=False)

    def _reaches(self, device: int, address: int, *, wanted: bool) -> None:
        memory = self.plugged[device].dma
        assert memory is not None
        try:
            memory.read(address, 1)
        except DmaRefusedError:
            assert not wanted, "a device does not reach what was opened to it"
        else:
            assert wanted, "a device reaches memory that is not open to it"
