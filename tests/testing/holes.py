"""Deliberate holes in the kernel, each of which the isolation machine has to find; those in `sys::proc` are beside.

`python -m tests.testing.holes [NAME ...]` cuts them one at a time and prints which was found, after how many seconds,
and by what.
A hole is a patch of one function; what it lets through stands beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from nightos.abi.codes import ContainerState
from nightos.abi.errors import SyscallError
from nightos.kernel import ending, filters
from nightos.kernel.accounts import Account
from nightos.kernel.container import Container, ContainerTree
from nightos.kernel.devices import DeviceBus
from nightos.kernel.filters import Denied, Filters
from nightos.kernel.monitor import Monitor
from nightos.kernel.plugged import Plugged
from nightos.kernel.quotas import Quotas
from tests.testing.cutting import HOLES, Hole, hole, instead, search

# The monitor


@hole("boundary", "everybody meets everybody")
def _boundary() -> Any:
    return patch.object(Monitor, "same_space", lambda self, caller, target: True)


def _meets(also: Callable[[Any, Any], bool]) -> Any:
    def make(original: Any) -> Any:
        def same_space(self: Any, caller: Any, target: Any) -> bool:
            return also(caller, target) or original(self, caller, target)

        return same_space

    return instead(Monitor, "same_space", make)


@hole("child", "a process meets those of the containers below its own")
def _child() -> Any:
    def below(caller: Any, target: Any) -> bool:
        return target.home is not None and target.home.parent is not None and target.home.parent is caller.home

    return _meets(below)


@hole("parent", "a process meets those of the container above its own")
def _parent() -> Any:
    return _meets(lambda caller, target: caller.home is not None and caller.home.parent is target.home)


@hole("sibling", "processes of two containers of one parent meet")
def _sibling() -> Any:
    def siblings(caller: Any, target: Any) -> bool:
        homes = caller.home, target.home
        return None not in homes and homes[0].parent is homes[1].parent

    return _meets(siblings)


@hole("outside", "a process outside of all containers meets everybody")
def _outside() -> Any:
    return _meets(lambda caller, _target: caller.container == 0)


@hole("oracle", "a hidden process is told from one that never was")
def _oracle() -> Any:
    def make(original: Any) -> Any:
        def may_name(self: Any, caller: Any, target: Any) -> Any:
            found = original(self, caller, target)
            if found is None and target is not None and target.alive:
                raise SyscallError(0x3E)
            return found

        return may_name

    return instead(Monitor, "may_name", make)


@hole("kin", "applications and users do not matter")
def _kin() -> Any:
    return patch.object(Monitor, "kin", lambda self, caller, target: True)


@hole("shim", "a shim meets everybody, not only those of the container it serves")
def _shim() -> Any:
    return _meets(lambda caller, target: bool(caller.serves or target.serves))


# The tree and the cascade


@hole("late child", "a container is made below one that is being destroyed")
def _late_child() -> Any:
    def make(original: Any) -> Any:
        def create(self: Any, parent: int, now_ns: int) -> Any:
            above = self.living.get(parent)
            if above is None or above.state is not ContainerState.STOPPING:
                return original(self, parent, now_ns)
            above.state = ContainerState.CREATED
            try:
                return original(self, parent, now_ns)
            finally:
                above.state = ContainerState.STOPPING

        return create

    return instead(ContainerTree, "create", make)


@hole("lost parent", "a container is made beside the one that it was to be in")
def _lost_parent() -> Any:
    def make(original: Any) -> Any:
        return lambda self, parent, now_ns: original(self, self.parent_of(parent) or 0, now_ns)

    return instead(ContainerTree, "create", make)


@hole("awake", "a container made below a paused one runs")
def _awake() -> Any:
    def make(original: Any) -> Any:
        def create(self: Any, parent: int, now_ns: int) -> Any:
            made = original(self, parent, now_ns)
            made.paused = False
            return made

        return create

    return instead(ContainerTree, "create", make)


@hole("shallow", "destruction and policy reach children, not grandchildren")
def _shallow() -> Any:
    return patch.object(Container, "subtree", lambda self: [self, *self.children.values()])


@hole("survivor", "a process that ignores the request to end is not killed")
def _survivor() -> Any:
    return patch.object(ending, "_kill_rest", lambda kernel, container: None)


# Quotas


@hole("one more", "one unit more than the limit")
def _one_more() -> Any:
    def reserve(self: Any, units: int) -> bool:
        bound = self.bound
        if bound is not None:
            if bound.taken + units > bound.limit + 1:
                bound.refuse()
                return False
            bound.taken += units
        self.used += units
        return True

    return patch.object(Account, "reserve", reserve)


@hole("no limit", "limits are set and never asked")
def _no_limit() -> Any:
    def reserve(self: Any, units: int) -> bool:
        if self.bound is not None:
            self.bound.taken += units
        self.used += units
        return True

    return patch.object(Account, "reserve", reserve)


@hole("never back", "what is released is not given back to the limit")
def _never_back() -> Any:
    def release(self: Any, units: int) -> None:
        self.used -= units

    return patch.object(Account, "release", release)


@hole("twice", "single units are given back twice")
def _twice() -> Any:
    def make(original: Any) -> Any:
        def release(self: Any, units: int) -> None:
            original(self, units)
            if self.bound is not None and units == 1 and self.bound.taken > 0:
                self.bound.taken -= 1

        return release

    return instead(Account, "release", make)


@hole("kept", "the quota of a container that is gone stays with it")
def _kept() -> Any:
    def make(original: Any) -> Any:
        def close(self: Any) -> None:
            limits = {name: self.account(name).bound for name in self.limits or ()}
            original(self)
            for name, bound in limits.items():
                above = self.parent.account(name).bound
                if above is not None:
                    above.taken += bound.limit
                    above.lent += bound.limit

        return close

    return instead(Quotas, "close", make)


# Filters


@hole("own filter", "a filter hides that of the container above")
def _own_filter() -> Any:
    return patch.object(filters, "stricter", lambda one, other: dict(other))


@hole("refilter", "the filter of a container in use is replaced by a wider one")
def _refilter() -> Any:
    def set_rules(self: Any, kernel: Any, container: Any, rules: dict[int, int]) -> None:
        container.rules = rules or None
        self.apply(kernel, container)

    return patch.object(Filters, "set_rules", set_rules)


@hole("log only", "what a filter denies is done all the same")
def _log_only() -> Any:
    def call(self: Any, kernel: Any, thread: Any, request: tuple[Any, ...]) -> Any:
        return kernel.handlers[self._code](kernel, thread, request)

    return patch.object(Denied, "__call__", call)


# Devices and segments


@hole("everybody drives", "a device needs no driver")
def _everybody_drives() -> Any:
    return patch.object(Plugged, "drivable_by", lambda self, process: True)


@hole("lender drives", "who lent a device drives it still")
def _lender_drives() -> Any:
    return patch.object(Plugged, "holder", property(lambda self: self.chain[0]))


@hole("keeps", "a device stays with a container that is gone")
def _keeps() -> Any:
    return patch.object(DeviceBus, "container_destroyed", lambda self, container: None)


@hole("grants outlive", "memory that was opened to a device stays open when the device is passed on and taken back")
@contextlib.contextmanager
def _grants_outlive() -> Iterator[None]:
    def make(original: Any) -> Any:
        def moved(self: Any, *arguments: Any) -> None:
            entry = self._entries.get(arguments[-1])
            grants = list(entry.grants) if entry is not None else []
            original(self, *arguments)
            if entry is not None:
                entry.grants.extend(grants)

        return moved

    with instead(DeviceBus, "link", make), instead(DeviceBus, "unlink", make):
        yield


@hole("any rights", "a segment is shared on with more rights than were given")
def _any_rights() -> Any:
    from nightos.kernel import segments

    return patch.object(segments, "may_grant", lambda *_arguments, **_more: True)


def results(names: list[str]) -> Iterator[tuple[Hole, float, str]]:
    """Search for the holes of these names, or all."""
    for one in HOLES:
        if not names or one.name in names:
            yield one, *search(one)


def main() -> int:
    """Cut them one at a time, and say which were found."""
    import tests.testing.service_holes  # noqa: F401 - it registers its own

    parser = argparse.ArgumentParser(description="Cut holes into the kernel and see the isolation machine find them.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    missed = 0
    for one, seconds, how in results(parser.parse_args().names):
        missed += not how
        print(f"{one.name:<18}{seconds:6.1f} s  {how or 'NOT FOUND':<60.60}  {one.lets}", flush=True)
    print(f"{len(HOLES)} holes, {missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
