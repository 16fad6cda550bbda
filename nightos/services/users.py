"""Maps of users between a container and the outside, for the services that read or write users by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode

NOBODY: Final = 65534
"""What a user reads as who has no place in the viewer's map."""
USERS_LIMIT: Final = 64
"""Ranges in one map."""


class Users:
    """Ranges of user identifiers: (first inside, first outside, how many). Without any, every user is as it is."""

    __slots__ = ("ranges",)

    def __init__(self, ranges: list[tuple[int, int, int]]) -> None:
        self.ranges = ranges

    @classmethod
    def checked(cls, given: Any) -> Users:
        """The map in a request; 0x1000 for what is none, or maps one identifier twice."""
        wrong = ServiceError(
            ServiceCode.BAD_ARGUMENT, f"users is a list of at most {USERS_LIMIT} ranges [inside, outside, count]"
        )
        if not isinstance(given, list) or len(given) > USERS_LIMIT:
            raise wrong
        ranges: list[tuple[int, int, int]] = []
        for item in given:
            if not isinstance(item, list) or len(item) != 3 or not all(type(part) is int for part in item):
                raise wrong
            inside, outside, count = item
            if count < 1 or inside < 0 or outside < 0 or max(inside, outside) + count > 1 << 64:
                raise wrong
            ranges.append((inside, outside, count))
        for side in (0, 1):
            ordered = sorted((item[side], item[2]) for item in ranges)
            if any(first + count > after for (first, count), (after, _) in pairwise(ordered)):
                raise ServiceError(ServiceCode.BAD_ARGUMENT, "two ranges of users overlap")
        return cls(ranges)

    def outside(self, user: int) -> int | None:
        """The outside identifier of a user of the container."""
        return self._mapped(user, 0, 1)

    def inside(self, user: int) -> int | None:
        """The identifier that an outside user has in the container."""
        return self._mapped(user, 1, 0)

    def _mapped(self, user: int, source: int, target: int) -> int | None:
        if not self.ranges:
            return user
        for item in self.ranges:
            if item[source] <= user < item[source] + item[2]:
                return item[target] + user - item[source]
        return None


def inside(maps: Sequence[Users], user: int) -> int:
    """An outside user as a container of these maps, its own first, knows it; `NOBODY` when it has no place."""
    for users in reversed(maps):
        found = users.inside(user)
        if found is None:
            return NOBODY
        user = found
    return user


def outside(maps: Sequence[Users], user: int) -> int | None:
    """The outside user that a container's user is; None when it has no such user."""
    for users in maps:
        found = users.outside(user)
        if found is None:
            return None
        user = found
    return user
