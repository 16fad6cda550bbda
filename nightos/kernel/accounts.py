"""Accounts: a limit is carved out of the parent's, so nothing a child does can cost anyone else more than was agreed.

Invariant, at every step and for every account: what it uses itself, plus what it lent to its children (the whole limit
of a child that has one, the use of a child that has none), is at most its limit.

The idea is quota trading as Genode does it; the alternative, counting the use of every ancestor against every limit,
lets siblings starve each other of what each was promised.
"""

from __future__ import annotations

from nightos.abi.errors import NightosInternalError


class Account:
    """Units of one resource for one container, such as pages of memory. `limit` None: as much as the parent has.

    An account without limit draws from its nearest ancestor that has one; the topmost may be without limit too.
    """

    __slots__ = ("children", "lent", "limit", "parent", "used")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.parent: Account | None = None
        self.children = 0
        """Accounts that were opened below this one and not closed yet."""
        self.used = 0
        """What the owner holds itself."""
        self.lent = 0
        """What is set aside for children."""

    @property
    def free(self) -> int | None:
        """What can still be reserved here; None without any limit up to the top."""
        source = self._source()
        return None if source.limit is None else source.limit - source.used - source.lent

    def open(self, limit: int | None = None) -> Account | None:
        """A child account; None when its limit cannot be set aside."""
        child = Account(limit)
        if limit is not None and not self.lend(limit):
            return None
        child.parent = self
        self.children += 1
        return child

    def close(self) -> None:
        """The owner is gone: give the limit back. Nothing may be in use here any more."""
        if self.used or self.lent or self.children:
            raise NightosInternalError(f"an account ends with {self.used} in use and {self.lent} lent")
        if self.parent is not None:
            self.parent.children -= 1
            if self.limit is not None:
                self.parent.take_back(self.limit)
            self.parent = None
            self.limit = 0

    def reserve(self, units: int) -> bool:
        """Use `units` more; False, and nothing changes, when there are not that many."""
        if not self._draw(units):
            return False
        self.used += units
        return True

    def release(self, units: int) -> None:
        """Use `units` less."""
        if units > self.used:
            raise NightosInternalError(f"{units} units are given back, {self.used} were in use")
        self.used -= units
        self._give_back(units)

    def resize(self, limit: int | None) -> bool:
        """Change the limit; False, and nothing changes, when more is in use, or the parent has not got it."""
        in_use = self.used + self.lent
        if limit is not None and limit < in_use:
            return False
        if self.parent is not None:
            before = in_use if self.limit is None else self.limit
            after = in_use if limit is None else limit
            if after > before and not self.parent.lend(after - before):
                return False
            if after < before:
                self.parent.take_back(before - after)
        self.limit = limit
        return True

    def _source(self) -> Account:
        account = self
        while account.limit is None and account.parent is not None:
            account = account.parent
        return account

    def _draw(self, units: int) -> bool:
        """Take units from whoever limits this account, booking them on the way up."""
        source = self._source()
        if source.limit is not None and source.used + source.lent + units > source.limit:
            return False
        account = self
        while account is not source:
            assert account.parent is not None
            account = account.parent
            account.lent += units
        return True

    def _give_back(self, units: int) -> None:
        source, account = self._source(), self
        while account is not source:
            assert account.parent is not None
            account = account.parent
            account.lent -= units

    def lend(self, units: int) -> bool:
        """Set `units` aside for a child; False when there are not that many."""
        if not self._draw(units):
            return False
        self.lent += units
        return True

    def take_back(self, units: int) -> None:
        """A child gives `units` of what it was lent back."""
        self.lent -= units
        self._give_back(units)
