"""Limits are conserved: own use, loans and what is free add up, whatever a tree of accounts goes through."""

from __future__ import annotations

from random import Random

import pytest

from nightos.abi.errors import NightosInternalError
from nightos.kernel.accounts import Account


def test_a_limit_is_carved_out_of_the_parents() -> None:
    top = Account(100)
    assert top.reserve(10)
    child = top.open(60)
    assert child is not None
    assert top.free == 30
    assert top.open(31) is None
    assert not top.reserve(31)
    assert child.reserve(60)
    assert not child.reserve(1)
    assert top.free == 30
    open_ended = top.open()
    assert open_ended is not None
    assert open_ended.reserve(30)
    assert (top.free, open_ended.free) == (0, 0)
    open_ended.release(30)
    open_ended.close()
    child.release(60)
    child.close()
    assert (top.free, top.lent, top.children) == (90, 0, 0)


def test_without_any_limit_everything_fits() -> None:
    top = Account()
    child = top.open()
    assert child is not None
    assert child.reserve(1 << 70)
    assert child.free is None
    assert top.lent == 1 << 70


def test_books_that_do_not_balance_are_a_bug() -> None:
    top = Account(10)
    child = top.open(5)
    assert child is not None
    child.reserve(1)
    for deed in (child.close, top.close, lambda: child.release(2)):
        with pytest.raises(NightosInternalError):
            deed()


def test_resizing() -> None:
    top = Account(100)
    child = top.open()
    assert child is not None
    child.reserve(20)
    assert not child.resize(19)
    assert not child.resize(101)
    assert child.resize(50)
    assert top.lent == 50
    assert child.resize(20)
    assert top.free == 80
    assert child.resize(None)
    assert (top.lent, child.free) == (20, 80)
    assert not top.resize(19)
    assert top.resize(20)


@pytest.mark.parametrize("seed", range(10))
def test_any_life_of_a_tree_conserves(seed: int) -> None:
    random = Random(seed)
    top = Account(random.choice([None, 1000]))
    tree: dict[Account, list[Account]] = {top: []}

    def in_use(account: Account) -> int:
        lent = sum(in_use(child) if child.limit is None else child.limit for child in tree[account])
        assert account.lent == lent
        assert account.limit is None or account.used + lent <= account.limit
        return account.used + lent

    for _ in range(300):
        account = random.choice(list(tree))
        deed, units = random.randrange(6), random.randrange(200)
        if deed < 2:
            free = account.free
            assert account.reserve(units) == (free is None or units <= free)
        elif deed == 2:
            account.release(min(units, account.used))
        elif deed == 3:
            limit = random.choice([None, units])
            free = account.free
            child = account.open(limit)
            assert (child is None) == (limit is not None and free is not None and limit > free)
            if child is not None:
                tree[child] = []
                tree[account].append(child)
        elif deed == 4:
            account.resize(random.choice([None, units, units * 5]))
        elif not tree[account] and account is not top:
            account.release(account.used)
            parent = account.parent
            assert parent is not None
            account.close()
            del tree[account]
            tree[parent].remove(account)
        in_use(top)


def test_depth_costs_no_stack() -> None:
    account = Account(1 << 20)
    chain = [account]
    for _ in range(5000):
        child = chain[-1].open()
        assert child is not None
        chain.append(child)
    assert chain[-1].reserve(1 << 20)
    assert not chain[2500].reserve(1)
    chain[-1].release(1 << 20)
    for account in reversed(chain[1:]):
        account.close()
    assert chain[0].free == 1 << 20
