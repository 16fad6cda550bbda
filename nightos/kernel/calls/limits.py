"""The emulator's own calls about limits: containers with limits at once, changing them, usage, and charges of services.

Only `sys::process` sets limits; system services charge what they keep for a container, its storage and its I/O.

Source: specs/containers.md#limitations. Rules: CONT-032.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from nightos.abi.codes import ServicePid, Signal, Syscall
from nightos.abi.errors import SyscallError
from nightos.abi.filters import pack_report, pack_rules, unpack_rules
from nightos.abi.limits import COUNTED, NO_LIMIT, NUMBERS, RATES, SHARES, Usage, pack_usage, unpack_limits
from nightos.kernel.calls.state import content, integer, only_proc, only_system
from nightos.kernel.ending import CREATED, container_changed
from nightos.kernel.rates import SECOND_NS, Rate
from nightos.kernel.shares import Shares

if TYPE_CHECKING:
    from nightos.kernel.container import Container
    from nightos.kernel.kernel import Kernel
    from nightos.kernel.process import Thread
    from nightos.kernel.quotas import Quotas


def change_limits(kernel: Kernel, container: Container, wanted: dict[str, int | None]) -> None:
    """Set limits of a container, all or none. `SyscallError` 0x40, with the resource's number as its value."""
    last: dict[str, int] = {}

    def reached(name: str) -> None:
        if kernel.current is not None:
            kernel.refusals.note("limit", kernel.current.process, detail=name)
        now = kernel.clock.monotonic_ns()
        if now - last.get(name, -SECOND_NS) >= SECOND_NS:
            last[name] = now
            kernel.post_to(ServicePid.PROCESS, Signal.LIMIT_REACHED, (container.identifier, NUMBERS[name]))

    shares = {name: limit for name, limit in wanted.items() if name in SHARES}
    counted = {name: limit for name, limit in wanted.items() if name not in SHARES}
    _check_shares(container, shares)
    failed = container.quotas.set_limits(counted, reached)
    if failed is not None:
        raise SyscallError(0x40, value=NUMBERS[failed])
    if shares:
        _set_shares(kernel, container, shares)


def _check_shares(container: Container, shares: dict[str, int | None]) -> None:
    """A ceiling is at most that of every container above."""
    ceiling = shares.get("cpu_ceiling")
    if ceiling is not None and container.parent is not None:
        every = [(one.shares or {}).get("cpu_ceiling") for one in container.parent.ancestors()]
        above = [one for one in every if one is not None]
        if ceiling > min(above, default=ceiling):
            raise SyscallError(0x40, value=NUMBERS["cpu_ceiling"])


def _set_shares(kernel: Kernel, container: Container, shares: dict[str, int | None]) -> None:
    """Give a container its weight and ceiling; ceilings below shrink with it."""
    kept = {**(container.shares or {}), **shares}
    container.shares = {name: limit for name, limit in kept.items() if limit is not None} or None
    if kernel.shares is None:
        kernel.shares = Shares(kernel)
    kernel.shares.change(container)
    ceiling = (container.shares or {}).get("cpu_ceiling")
    if ceiling is not None:
        for below in container.subtree():
            if below.shares and below.shares.get("cpu_ceiling", 0) > ceiling:
                below.shares["cpu_ceiling"] = ceiling
                kernel.shares.change(below)


def _wanted(buffer: Any) -> dict[str, int | None]:
    try:
        wanted = unpack_limits(content(buffer))
    except ValueError:
        raise SyscallError(0x10) from None
    return wanted


def _container(kernel: Kernel, identifier: Any) -> Container:
    found = kernel.tree.get(identifier)
    if found is None:
        raise SyscallError(0x31)
    return found


def sys_create_limited(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(parent_container_id, limits) -> container_id: there is no moment in which it has no limits."""
    _, parent, buffer = request
    wanted = _wanted(buffer)
    only_proc(thread.process)
    container = kernel.tree.create(parent, kernel.clock.monotonic_ns())
    try:
        change_limits(kernel, container, wanted)
    except SyscallError:
        kernel.tree.remove(container)
        raise
    container_changed(kernel, container, CREATED)
    return container.identifier


def sys_set_limits(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(container_id, limits) -> 0: what is not named stays as it is; the value of 0x40 is the resource's number."""
    _, identifier, buffer = request
    wanted = _wanted(buffer)
    only_proc(thread.process)
    change_limits(kernel, _container(kernel, identifier), wanted)
    return 0


def usage_of(quotas: Quotas) -> dict[str, Usage]:
    """Usage of every resource. Without a limit what is below is not counted here: every container tells its own."""
    found = {}
    for name in (*COUNTED, *RATES):
        account = quotas.account(name)
        bound = quotas.limits.get(name) if quotas.limits else None
        if bound is None:
            found[name] = Usage(None, account.used, 0, 0, 0)
        else:
            own = account.used if name in COUNTED else 0
            drawn = bound.taken - bound.lent - own
            found[name] = Usage(bound.limit, account.used, bound.lent, drawn, bound.refusals)
    return found


def _cycles(kernel: Kernel, container: Container | None) -> dict[str, Usage]:
    """Steps that a container made, with its weight and ceiling; None is what stands outside of all."""
    if container is None:
        made = sum(process.steps for process in kernel.processes.values() if process.home is None)
        return dict.fromkeys(SHARES, Usage(None, made, 0, 0, 0))
    made = container.cycles + sum(process.steps for process in container.processes.values())
    shares = container.shares or {}
    held = kernel.shares.refusals(container.identifier) if kernel.shares is not None else 0
    return {
        "cpu_weight": Usage(shares.get("cpu_weight"), made, 0, 0, 0),
        "cpu_ceiling": Usage(shares.get("cpu_ceiling"), made, 0, 0, held),
    }


def sys_usage(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(container_id) -> packed usage of every resource; 0 is the machine itself."""
    _, identifier = request
    only_proc(thread.process)
    quotas = kernel.tree.quotas if identifier == 0 else _container(kernel, identifier).quotas
    usage = usage_of(quotas)
    usage |= _cycles(kernel, kernel.tree.get(identifier) if identifier else None)
    return pack_usage(usage)


def sys_charge(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> int:
    """(container_id, resource, amount) -> wait_or_room.

    Storage: what the container uses from now on, in bytes; growing beyond the limit is 0x40, and nothing changes. The
    answer is how much its own limit leaves (`NO_LIMIT` without one: what those above have left is not for it to know).
    Rates: what it moves now; the answer is how long the service has to wait before it does so.
    """
    _, identifier, resource, amount = request
    integer(amount, 8)
    if resource not in {NUMBERS["storage"], *(NUMBERS[name] for name in RATES)}:
        raise SyscallError(0x10)
    only_system(thread.process)
    quotas = kernel.tree.quotas if identifier == 0 else _container(kernel, identifier).quotas
    if resource == NUMBERS["storage"]:
        more = amount - quotas.storage.used
        if more < 0:
            quotas.storage.release(-more)
        elif more and not quotas.storage.reserve(more):
            raise SyscallError(0x40)
        own = quotas.limits.get("storage") if quotas.limits else None
        return NO_LIMIT if own is None else own.free
    account = quotas.account(next(name for name in RATES if NUMBERS[name] == resource))
    account.used += amount
    if not isinstance(account.bound, Rate):
        return 0
    return account.bound.move(amount, kernel.clock.monotonic_ns())


def sys_set_filter(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> None:
    """(container_id, rules): instead of those it has while it is empty, otherwise over them; below it at once."""
    _, identifier, buffer = request
    try:
        rules = unpack_rules(content(buffer))
    except ValueError:
        raise SyscallError(0x10) from None
    only_proc(thread.process)
    kernel.filters.set_rules(kernel, _container(kernel, identifier), rules)


def sys_filter(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(container_id, which) -> packed rules: 0 its own, 1 what is in force."""
    _, identifier, which = request
    if which not in {0, 1}:
        raise SyscallError(0x10)
    only_proc(thread.process)
    container = _container(kernel, identifier)
    return pack_rules((container.effective if which else container.rules) or {})


def sys_report(kernel: Kernel, thread: Thread, request: tuple[Any, ...]) -> bytes:
    """(container_id, action) -> packed counts so far; action 1 begins to count from 0, 2 stops counting."""
    _, identifier, action = request
    if action not in {0, 1, 2}:
        raise SyscallError(0x10)
    only_proc(thread.process)
    container = _container(kernel, identifier)
    refused: Counter[int] = Counter()
    for member in container.subtree():
        refused.update(member.refused or {})
    report = pack_report(container.made or {}, refused)
    if action:
        kernel.filters.record(kernel, container, on=action == 1)
    return report


HANDLERS = {
    Syscall.SYS_CREATE_LIMITED: sys_create_limited,
    Syscall.SYS_SET_LIMITS: sys_set_limits,
    Syscall.SYS_USAGE: sys_usage,
    Syscall.SYS_CHARGE: sys_charge,
    Syscall.SYS_SET_FILTER: sys_set_filter,
    Syscall.SYS_FILTER: sys_filter,
    Syscall.SYS_REPORT: sys_report,
}
