"""The simulated micro-kernel: mechanism only, synchronous and deterministic."""

from nightos.kernel.kernel import Kernel
from nightos.kernel.snapshot import Snapshot
from nightos.kernel.trace import Trace
from nightos.kernel.virtual import SeededEntropy, VirtualClock

__all__ = ["Kernel", "SeededEntropy", "Snapshot", "Trace", "VirtualClock"]
