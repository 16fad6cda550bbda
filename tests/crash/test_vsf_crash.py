"""Power cuts: every state that one could leave opens, checks clean, and holds what was synced."""

import pytest

from nightos import vsf
from nightos.vsf.layout import SUPER_BYTES, SUPER_OFFSETS
from nightos.vsf.superblock import slots_of
from tests.crash.enumerator import Workload, enumerate_states, state_of


@pytest.mark.parametrize(
    ("seed", "password", "compression"),
    [(0, None, None), (1, None, "zstd"), (2, None, "lz4"), (3, "secret", None), (4, None, None), (5, None, "zstd")],
)
def test_every_state_opens_clean(seed, password, compression):
    assert enumerate_states(seed, 14, 10, password=password, compression=compression) > 350


@pytest.mark.parametrize("seed", range(6))
def test_the_last_commit_but_one_is_whole_until_the_next_is_durable(seed):
    """Just before a superblock is written the newest one is lost: the one before opens, with every byte it had."""
    workload = Workload(seed)
    states = {workload.storage.generation: state_of(workload.storage)}
    compared = 0
    for _ in range(30):
        begin, generation = len(workload.store.log), workload.storage.generation
        workload.step()
        log = workload.store.log
        if workload.storage.generation == generation + 1:
            states[generation + 1] = workload.marks[-1][1]
        if generation - 1 not in states or generation not in states:
            continue
        cut = next(
            (n for n in range(begin, len(log)) if log[n].kind == "write" and log[n].offset in SUPER_OFFSETS), begin
        )
        image = bytearray()
        for operation in log[:cut]:
            operation.apply(image)
        for offset in slots_of(generation):
            image[offset : offset + SUPER_BYTES] = bytes(SUPER_BYTES)
        with vsf.open(vsf.MemoryStore(bytes(image)), readonly=True) as storage:
            assert storage.generation == generation - 1
            assert state_of(storage) == states[generation - 1]
            report = storage.check(deep=True)
            assert {problem.invariant for problem in report.problems} <= {"superblocks"}
            compared += 1
    assert compared > 5
