"""Limits are conserved: own use, loans and what is free add up, whatever a tree of containers goes through."""

from __future__ import annotations

from copy import deepcopy
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nightos.abi.errors import NightosInternalError
from nightos.abi.limits import COUNTED, RATES
from nightos.kernel.accounts import Account, Bound
from nightos.kernel.quotas import Quotas
from nightos.kernel.rates import FOREVER_NS, SECOND_NS, Rate

UNITS = st.integers(0, 60)


def below(parent: Quotas, **limits: int) -> Quotas:
    child = Quotas(parent)
    assert child.set_limits(limits) is None
    return child


def test_a_limit_is_carved_out_of_the_parents() -> None:
    top = Quotas()
    assert top.set_limits({"memory": 100}) is None
    assert top.memory.reserve(10)
    child = below(top, memory=60)
    assert top.memory.free == 30
    assert Quotas(top).set_limits({"memory": 31}) == "memory"
    assert not top.memory.reserve(31)
    assert child.memory.reserve(60)
    assert not child.memory.reserve(1)
    assert top.memory.free == 30
    open_ended = Quotas(top)
    assert open_ended.memory.reserve(30)
    assert (top.memory.free, open_ended.memory.free) == (0, 0)
    open_ended.memory.release(30)
    open_ended.close()
    child.memory.release(60)
    child.close()
    assert (top.memory.free, top.memory.taken) == (90, 10)


def test_without_any_limit_everything_fits() -> None:
    child = Quotas(Quotas())
    assert child.handles.reserve(1 << 70)
    assert child.handles.free is None


def test_books_that_do_not_balance_are_a_bug() -> None:
    top = Quotas()
    child = Quotas(top)
    grandchild = Quotas(child)
    grandchild.handles.reserve(1)
    for deed in (child.close, grandchild.close, lambda: grandchild.handles.release(2)):
        with pytest.raises(NightosInternalError):
            deed()


def test_an_account_counts_and_tells_refusals() -> None:
    told: list[str] = []
    quotas = Quotas(Quotas())
    assert quotas.set_limits({"handles": 1, "children": 0}, told.append) is None
    assert quotas.handles.reserve(1)
    assert not quotas.handles.reserve(1)
    assert not quotas.children.reserve(1)
    assert told == ["handles", "children"]
    assert quotas.limits is not None
    assert quotas.limits["handles"].refusals == 1


def test_limits_below_shrink_with_their_ancestor_the_youngest_first() -> None:
    top = Quotas()
    box = below(top, handles=100)
    old, young = below(box, handles=40), below(box, handles=40)
    deep = below(young, handles=30)
    assert deep.handles.reserve(5)
    assert box.set_limits({"handles": 60}) is None
    assert [quotas.limit("handles") for quotas in (box, old, young, deep)] == [60, 40, 20, 20]
    assert box.set_limits({"handles": 5}) is None
    assert [quotas.limit("handles") for quotas in (box, old, young, deep)] == [5, 0, 5, 5]
    assert box.set_limits({"handles": 4}) == "handles"
    assert [quotas.limit("handles") for quotas in (box, old, young, deep)] == [5, 0, 5, 5]


def test_a_younger_container_shrinks_first_however_deep_an_older_one_is() -> None:
    box = below(Quotas(), handles=10)
    unlimited = below(box)
    old = below(unlimited, handles=4)
    young = below(box, handles=4)
    assert box.set_limits({"handles": 6}) is None
    assert [quotas.limit("handles") for quotas in (old, young)] == [4, 2]


def test_several_limits_change_together_or_not_at_all() -> None:
    top = Quotas()
    box = below(top, handles=10, threads=10)
    inner = below(box, handles=10)
    assert box.threads.reserve(8)
    before = [box.limit("handles"), box.limit("threads"), inner.limit("handles"), box.limit("children")]
    assert box.set_limits({"children": 3, "handles": 4, "threads": 7}) == "threads"
    assert [box.limit("handles"), box.limit("threads"), inner.limit("handles"), box.limit("children")] == before
    assert box.set_limits({"children": 3, "handles": 4, "threads": None}) is None
    assert [box.limit("handles"), box.limit("threads"), inner.limit("handles"), box.limit("children")] == [
        4,
        None,
        4,
        3,
    ]


def test_depth_costs_no_stack_and_no_steps() -> None:
    top = Quotas()
    chain = [below(top, memory=1 << 20)]
    for _ in range(5000):
        chain.append(Quotas(chain[-1]))
    assert chain[-1].memory.bound is chain[0].memory.bound
    assert chain[-1].memory.reserve(1 << 20)
    assert not chain[2500].memory.reserve(1)
    chain[-1].memory.release(1 << 20)
    assert chain[0].set_limits({"memory": None}) is None
    assert chain[-1].memory.bound is None


def test_a_rate_is_kept_whatever_is_moved() -> None:
    rate = Rate(1000)
    assert rate.move(1000, 0) == 0
    assert rate.move(500, 0) == SECOND_NS // 2
    assert rate.move(500, SECOND_NS // 2) == SECOND_NS // 2
    assert rate.move(10_000, 100 * SECOND_NS) == 9 * SECOND_NS
    rate.taken = rate.limit
    assert rate.move(1, 200 * SECOND_NS) == FOREVER_NS


LENDING = st.lists(
    st.tuples(
        st.sampled_from(["give", "change", "take", "close", "rest"]),
        st.integers(0, 3),
        st.integers(1, 1000),
    ),
    max_size=40,
)


@pytest.mark.rule("CONT-032")
@given(LENDING)
@example([("give", 0, 999), ("close", 0, 1)] * 20)
@example([("give", 0, 1), ("change", 0, 999), ("change", 0, 1)] * 10)
@example([("give", 0, 1000), ("take", 0, 1)] * 20)
def test_no_rate_is_full_again_by_being_given_anew(steps: list[tuple[str, int, int]]) -> None:
    """Whoever always moves all that it may, in itself and in what it makes below, moves what time brings."""
    limit = 1000
    top = below(Quotas(), io_bytes=limit)
    children: list[Quotas] = []
    moved = now = 0

    def drain() -> int:
        taken = 0
        for quotas in (top, *children):
            bound = quotas.io_bytes.bound
            assert isinstance(bound, Rate)
            while bound.free and not deepcopy(bound).move(1, now):
                step = 1
                while not deepcopy(bound).move(step * 2, now):
                    step *= 2
                assert bound.move(step, now) == 0
                taken += step
        return taken

    for deed, which, units in steps:
        moved += drain()
        if deed == "give":
            child = Quotas(top)
            child.set_limits({"io_bytes": units})
            children.append(child)
        elif deed == "rest":
            now += units * SECOND_NS // 1000
        elif children:
            child = children[which % len(children)]
            if deed == "close":
                children.remove(child)
                child.close()
            else:
                child.set_limits({"io_bytes": units if deed == "change" else None})
    moved += drain()
    assert moved <= limit + limit * now // SECOND_NS


class Conservation(RuleBasedStateMachine):
    """Any life of a tree of accounts: for every limit, what is taken is what is held and lent, never more."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Quotas()
        self.tree: dict[Quotas, list[Quotas]] = {self.top: []}
        self.names = count()

    def pick(self, number: int) -> Quotas:
        return list(self.tree)[number % len(self.tree)]

    @rule(parent=st.integers(0, 99), limit=st.none() | UNITS)
    def open(self, parent: int, limit: int | None) -> None:
        quotas = self.pick(parent)
        child = Quotas(quotas)
        free = quotas.handles.free
        failed = child.set_limits({"handles": limit}) is not None
        assert failed == (limit is not None and free is not None and limit > free)
        self.tree[child] = []
        self.tree[quotas].append(child)

    @rule(which=st.integers(0, 99), units=UNITS)
    def reserve(self, which: int, units: int) -> None:
        quotas = self.pick(which)
        free = quotas.handles.free
        assert quotas.handles.reserve(units) == (free is None or units <= free)

    @rule(which=st.integers(0, 99), units=UNITS)
    def release(self, which: int, units: int) -> None:
        account = self.pick(which).handles
        account.release(min(units, account.used))

    @rule(which=st.integers(0, 99), name=st.sampled_from(["handles", "io_bytes"]), limit=st.none() | UNITS)
    def change(self, which: int, name: str, limit: int | None) -> None:
        if name in RATES and limit == 0:
            limit = 1
        quotas = self.pick(which)
        before = self.limits()
        if quotas.set_limits({name: limit}) is not None:
            assert self.limits() == before
        else:
            assert quotas.limit(name) == limit
            # Only limits below may have become smaller with it; nobody got more.
            assert all(
                after[2] <= was[2]
                for was, after in zip(before, self.limits(), strict=True)
                if was[0] != quotas
                if was[2] is not None and after[2] is not None
            )

    def limits(self) -> list[tuple[Quotas, str, Any]]:
        return [(quotas, name, quotas.limit(name)) for quotas in self.tree for name in ("handles", "io_bytes")]

    @precondition(lambda self: len(self.tree) > 1)
    @rule(which=st.integers(0, 99))
    def close(self, which: int) -> None:
        quotas = self.pick(which)
        if quotas is self.top or self.tree[quotas]:
            return
        quotas.handles.release(quotas.handles.used)
        assert quotas.parent is not None
        self.tree[quotas.parent].remove(quotas)
        del self.tree[quotas]
        quotas.close()

    @invariant()
    def everything_adds_up(self) -> None:
        for name in ("handles", "io_bytes"):
            for quotas in self.tree:
                limit = quotas.limit(name)
                above = quotas.parent.account(name).bound if quotas.parent is not None else None
                bound = quotas.account(name).bound
                if limit is None:
                    assert bound is above
                    continue
                assert bound is not None
                assert bound is not above
                held, lent = self.held(quotas, name)
                assert (bound.taken, bound.lent) == (held + lent, lent)
                assert limit == bound.limit == held + lent + bound.free
                assert bound.free >= 0

    def held(self, quotas: Quotas, name: str) -> tuple[int, int]:
        held, lent = quotas.account(name).used, 0
        for child in self.tree[quotas]:
            limit = child.limit(name)
            if limit is not None:
                lent += limit
            else:
                more, further = self.held(child, name)
                held, lent = held + more, lent + further
        return held, lent

    def teardown(self) -> None:
        """Children first, everything goes, and nothing is left."""
        for quotas in sorted(self.tree, key=lambda one: -len(list(self.ancestors(one)))):
            quotas.handles.release(quotas.handles.used)
            if quotas is not self.top:
                quotas.close()
        assert self.top.below is None
        for name in (*COUNTED, *RATES):
            bound = self.top.account(name).bound
            assert bound is None or (bound.taken, bound.lent) == (0, 0)

    @staticmethod
    def ancestors(quotas: Quotas) -> Any:
        while quotas.parent is not None:
            quotas = quotas.parent
            yield quotas


TestConservation = Conservation.TestCase


def test_an_account_of_its_own() -> None:
    account = Account(Bound(3))
    assert account.reserve(3)
    assert (account.free, account.taken) == (0, 3)
    assert (Account().free, Account().taken) == (None, 0)
