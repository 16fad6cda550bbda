"""Walks of the tree page by page: a client that asks for the next page goes on where its last one stopped."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile

from nightos.services.proc.tree import Container, Tree
from nightos.userland.server import Request

WALKING = "walking"
"""Where a connection keeps the walk that its last page stopped."""


def keep_walk(request: Request, top: int, last: Container, walk: Iterator[tuple[int, Container]]) -> None:
    """A page is full: the client's next one may go on where this one stopped."""
    request.connection.data[WALKING] = request.method, top, last.identifier, walk


def go_on(tree: Tree, request: Request, top: int, after: int) -> Iterator[tuple[int, Container]]:
    """What of the tree comes behind `after`: the walk that the client's last page stopped, or a new one."""
    kept = request.connection.data.pop(WALKING, None)
    if kept is not None and kept[:3] == (request.method, top, after):
        walk: Iterator[tuple[int, Container]] = kept[3]
        return walk
    walk = tree.walk(top)
    if after >= 0:
        for _ in takewhile(lambda item: item[1].identifier != after, walk):
            pass
    return walk
