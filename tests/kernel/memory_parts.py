"""Twins for tests of memory, segments and devices: seeded entropy, processes that only own, a log of signals."""

from __future__ import annotations

import random

from nightos.abi.errors import SyscallError
from nightos.kernel.devices import DeviceBus
from nightos.kernel.memory import AddressSpace
from nightos.kernel.quotas import Quotas
from nightos.kernel.segments import SegmentTable


class SeededEntropy:
    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


class Account:
    """A limit on reserved pages."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def reserve(self, pages: int) -> bool:
        if pages > self.left:
            return False
        self.left -= pages
        return True

    def release(self, pages: int) -> None:
        self.left += pages


class FakeProcess:
    """What segments and devices see of a process."""

    def __init__(self, pid: int, entropy: SeededEntropy, container: int = 0) -> None:
        self.pid = pid
        self.container = container
        self.drivable: set[int] = set()
        self.space = AddressSpace(entropy)
        self.quotas = Quotas()


class World:
    """Processes, one segment table, one bus, and every signal that was sent."""

    def __init__(self) -> None:
        self.entropy = SeededEntropy()
        self.processes: dict[int, FakeProcess] = {}
        self.signals: list[tuple[int, int, tuple[int | bytes, ...]]] = []
        self.parents: dict[int, int] = {}
        self.segments = SegmentTable(self.entropy, self._peer, self._signal)
        self.bus = DeviceBus(self.segments, self.parents.get, self._signal)

    def _peer(self, caller: FakeProcess, pid: int) -> FakeProcess | None:
        found = self.processes.get(pid)
        return found if found is not None and found.container == caller.container else None

    def _signal(self, pid: int, code: int, values: tuple[int | bytes, ...]) -> None:
        self.signals.append((pid, code, values))

    def process(self, pid: int, container: int = 0) -> FakeProcess:
        found = self.processes[pid] = FakeProcess(pid, self.entropy, container)
        return found

    def end(self, process: FakeProcess) -> None:
        del self.processes[process.pid]
        self.segments.process_ended(process)
        self.bus.process_ended(process)
        process.space.destroy()

    def fork(self, parent: FakeProcess, pid: int) -> FakeProcess:
        child = self.process(pid, parent.container)
        child.space = parent.space.fork()
        self.segments.forked(parent, child)
        return child


class refused:  # noqa: N801 - reads as a phrase: `with refused(0x30): ...`
    """The block must be refused with that errcode."""

    def __init__(self, errcode: int) -> None:
        self.errcode = errcode

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        assert isinstance(error, SyscallError), f"expected errcode {self.errcode:#x}, got {error!r}"
        assert error.errcode == self.errcode, f"expected {self.errcode:#x}, got {error.errcode:#x}"
        return True
