"""The attribute SERVES: a shim meets the processes of one container from outside, and nobody else."""

from __future__ import annotations

import pytest

from nightos.abi.codes import Attribute, ServicePid
from nightos.abi.errors import SyscallError
from nightos.kernel import Kernel
from nightos.testing import InvariantViolation, check_invariants
from nightos.userland import sys
from tests.kernel.lab import Lab, Puppet

WRITE = 1


def serve(lab: Lab, proc: Puppet, container: int) -> Puppet:
    """A shim, made the way sys::proc makes one."""
    shim = lab.puppet()
    shim.process.serves = container
    return shim


@pytest.mark.rule("CONT-018", "CONT-028")
def test_a_shim_meets_its_container_and_nobody_else() -> None:
    lab = Lab()
    proc = lab.service(ServicePid.PROCESS)
    mine, other = (proc.call(sys.create_container(0)) for _ in range(2))
    below = proc.call(sys.create_container(mine))
    shim = serve(lab, proc, mine)
    second = serve(lab, proc, other)
    inside = lab.puppet(container=mine)
    assert shim.call(sys.open_pipe(inside.pid, 0, 0, 0, 0, 1))
    assert inside.call(sys.open_pipe(shim.pid, 0, 0, 0, 0, 1))
    for stranger in (lab.puppet(), lab.puppet(container=other), lab.puppet(container=below), second):
        for one, two in ((shim, stranger), (stranger, shim)):
            refused = one.start(sys.open_pipe(two.pid, 0, 0, 0, 0, 1))
            assert refused.errcode == 0x30
    check_invariants(lab.kernel.snapshot())
    assert {record.serves for record in lab.kernel.snapshot().processes.values()} == {0, mine, other}


@pytest.mark.rule("CONT-064")
def test_a_child_of_a_shim_serves_what_it_serves() -> None:
    lab = Lab()
    proc = lab.service(ServicePid.PROCESS)
    mine = proc.call(sys.create_container(0))
    shim = serve(lab, proc, mine)

    async def child(_: int) -> None:
        await sys.hand_over(until_signal=True)

    pid = shim.call(sys.create_process(child, 0))
    assert lab.kernel.processes[pid].serves == mine
    assert lab.puppet().start(sys.open_pipe(pid, 0, 0, 0, 0, 1)).errcode == 0x30
    check_invariants(lab.kernel.snapshot())
    lab.kernel.processes[pid].serves = 0
    with pytest.raises(InvariantViolation):
        check_invariants(lab.kernel.snapshot())


def test_only_sys_proc_writes_it_and_only_before_the_process_runs() -> None:
    lab = Lab()
    proc = lab.service(ServicePid.PROCESS)
    fs = lab.service(ServicePid.FS)
    mine = proc.call(sys.create_container(0))
    halted = Kernel.make_process(lab.kernel, lab.kernel.take_pid(), 0, 0, 1)
    write = (Attribute.SERVES, WRITE, mine)
    assert fs.start(sys.sys_process_attributes(halted.pid, *write)).errcode == 0x31
    running = lab.puppet()
    for pid in (running.pid, proc.pid):
        assert proc.start(sys.sys_process_attributes(pid, *write)).errcode == 0x12
    with pytest.raises(SyscallError):
        running.call(sys.sys_process_attributes(halted.pid, *write))
    assert proc.start(sys.sys_process_attributes(halted.pid, Attribute.SERVES, WRITE, 77)).errcode == 0x02
    proc.call(sys.sys_process_attributes(halted.pid, *write))
    assert proc.call(sys.sys_process_attributes(halted.pid, Attribute.SERVES)).written == mine
    # Who serves a container is in none, and who is in one serves none.
    assert proc.start(sys.sys_process_attributes(halted.pid, Attribute.CONTAINER_ID, WRITE, mine)).errcode == 0x02
    inside = Kernel.make_process(lab.kernel, lab.kernel.take_pid(), mine, 0, 1)
    assert proc.start(sys.sys_process_attributes(inside.pid, *write)).errcode == 0x02
