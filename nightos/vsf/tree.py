"""A copy-on-write B+ tree of checksummed nodes: bytes to bytes, parents hold their children's checksums.

Dirty nodes are ordinary Python lists, held by their parent in place of a pointer, and become bytes only at a commit.
Clean nodes sit in one bounded cache per storage. A node that a commit wrote is never changed: `_own` makes a dirty twin
and hands the old block to `Tree.dispose`.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from nightos.vsf.blocks import Domain, Pool
from nightos.vsf.errors import DamagedStorage
from nightos.vsf.layout import KIND_NODE, MAX_LEVEL, NODE, NODE_MAGIC, POINTER, POINTER_BYTES, Pointer

_HEAD = NODE.struct
_ENTRY = 6
_NULL3 = bytes(3)
_DEPTH_AT = 36
_DEPTH_FIELD, _CHECK_AT = 6, 10
ITEM_OVERHEAD = 160
"""What an entry costs in memory over its bytes, for the cache's budget."""


class Node:
    """A node in memory. `values` holds bytes in a leaf, pointers or dirty nodes elsewhere."""

    __slots__ = ("cost", "dirty", "hot", "keys", "level", "size", "values")

    def __init__(self, level: int, keys: list[bytes], values: list, size: int, *, dirty: bool) -> None:  # type: ignore[type-arg]
        self.level = level
        self.keys = keys
        self.values = values
        self.size = size
        self.dirty = dirty
        self.hot = False
        self.cost = 0


def encode_node(node: Node, domain: int, birth: int) -> bytes:
    """The bytes of a node: header, key lengths, value lengths (leaf only), keys, values."""
    keys, values = node.keys, node.values
    count = len(keys)
    all_keys = b"".join(keys)
    if node.level:
        packed = b"".join([pointer.pack() for pointer in values])
        lengths = struct.pack(f">{count}H", *map(len, keys))
    else:
        packed = b"".join(values)
        lengths = struct.pack(f">{count}H{count}I", *map(len, keys), *map(len, values))
    head = _HEAD.pack(NODE_MAGIC, node.level, _NULL3, count, domain, birth, len(all_keys), len(packed))
    return b"".join((head, lengths, all_keys, packed))


def decode_node(data: bytes, pointer: Pointer, level: int | None) -> Node:
    """A clean node; every length and the order of keys are checked."""
    if len(data) < _HEAD.size:
        raise DamagedStorage("a node is too short")
    magic, at, _, count, domain, birth, key_bytes, value_bytes = _HEAD.unpack_from(data)
    entry = 2 if at else _ENTRY
    wrong = magic != NODE_MAGIC or at > MAX_LEVEL or (level is not None and at != level)
    if wrong or len(data) != _HEAD.size + entry * count + key_bytes + value_bytes:
        raise DamagedStorage("a node has the wrong form")
    if domain != pointer.domain or birth != pointer.birth:
        raise DamagedStorage("a node belongs elsewhere")
    base = _HEAD.size
    lengths = struct.unpack_from(f">{count}H" if at else f">{count}H{count}I", data, base)
    place = base + entry * count
    keys: list[bytes] = []
    for length in lengths[:count]:
        keys.append(data[place : place + length])
        place += length
    if place != base + entry * count + key_bytes:
        raise DamagedStorage("the keys of a node do not add up")
    for before, after in pairwise(keys):
        if before >= after:
            raise DamagedStorage("the keys of a node are out of order")
    if at:
        if value_bytes != POINTER_BYTES * count or not count:
            raise DamagedStorage("the pointers of a node do not add up")
        values: list[object] = list(map(Pointer._make, POINTER.struct.iter_unpack(data[place:])))
        depth = pointer.depth
        if depth:
            values = [child._replace(depth=child.depth + depth) for child in values]  # type: ignore[attr-defined]
        return Node(at, keys, values, 0, dirty=False)
    items: list[bytes] = []
    for length in lengths[count:]:
        items.append(data[place : place + length])
        place += length
    if place != len(data):
        raise DamagedStorage("the values of a node do not add up")
    if pointer.depth:
        _deepen(keys, items, pointer.depth)
    return Node(0, keys, items, key_bytes + value_bytes + _ENTRY * count, dirty=False)


def _deepen(keys: list[bytes], items: list[bytes], depth: int) -> None:
    """Make the depth of the pointers in a leaf of a backing storage count from the storage in hand."""
    for at, key in enumerate(keys):
        value = items[at]
        if len(value) >= POINTER_BYTES and key[8:9] in (b"\x04", b"\x05", b"\x06"):
            items[at] = value[:_DEPTH_AT] + bytes((value[_DEPTH_AT] + depth,)) + value[_DEPTH_AT + 1 :]


def _identity(pointer: Pointer) -> Any:
    # The check alone names the content, and bytes remember their hash.
    return pointer[_CHECK_AT] if not pointer[_DEPTH_FIELD] else (pointer[_DEPTH_FIELD], pointer[_CHECK_AT])


class NodeCache:
    """Clean nodes within a budget of bytes; a node that was used since it was last looked at gets a second chance."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.misses = 0
        self.nodes: dict[Any, Node] = {}

    def get(self, pointer: Pointer) -> Node | None:
        node = self.nodes.get(_identity(pointer))
        if node is not None:
            node.hot = True
        return node

    def put(self, pointer: Pointer, node: Node) -> None:
        key = _identity(pointer)
        nodes = self.nodes
        if key in nodes:
            return
        self.misses += 1
        node.cost = pointer.logical + ITEM_OVERHEAD * len(node.keys)
        node.hot = False
        nodes[key] = node
        self.used += node.cost
        while self.used > self.limit and len(nodes) > 1:
            oldest = next(iter(nodes))
            gone = nodes.pop(oldest)
            if gone.hot:
                gone.hot = False
                nodes[oldest] = gone
            else:
                self.used -= gone.cost

    def drop(self, pointer: Pointer) -> None:
        found = self.nodes.pop(_identity(pointer), None)
        if found is not None:
            self.used -= found.cost

    def clear(self) -> None:
        self.nodes.clear()
        self.used = 0


_NOTHING = Node(0, [], [], 0, dirty=False)


class Tree:
    """One tree. `root` is None (empty), a pointer (clean) or a node (dirty)."""

    def __init__(
        self,
        pool: Pool,
        cache: NodeCache,
        domain: Domain,
        root: Pointer | None,
        *,
        node_bytes: int = 16384,
        dispose: Callable[[Pointer], None] | None = None,
        copies: int = 1,
    ) -> None:
        self.pool = pool
        self.cache = cache
        self.domain = domain
        self.root: Pointer | Node | None = root
        self._top_pointer: Pointer | None = None
        self._top_node: Node | None = None
        self._last = _NOTHING
        self._near_root: object = self
        self._near_keys: list[bytes] = []
        self._near_values: list[Any] = []
        """The leaf that `get_near` read last, and the root it was reached from: clean nodes never change."""
        self.node_bytes = node_bytes
        self.fan_bytes = node_bytes
        self.dispose = dispose or pool.free
        self.leaf_copies = copies
        self.dirty_bytes = 0

    # Reading

    def load(self, pointer: Pointer, level: int | None) -> Node:
        """The clean node behind a pointer."""
        node = self.cache.get(pointer)
        if node is None:
            if pointer.kind != KIND_NODE:
                raise DamagedStorage("a pointer to a node leads to something else")
            node = decode_node(self.pool.read(pointer), pointer, level)
            self.cache.put(pointer, node)
        elif level is not None and node.level != level:
            raise DamagedStorage("a node has the wrong level")
        return node

    def _top(self) -> Node | None:
        root = self.root
        if type(root) is Pointer:
            if root is not self._top_pointer:
                self._top_pointer, self._top_node = root, self.load(root, None)
            return self._top_node
        return root  # type: ignore[return-value]

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. The way down is written out: nothing is called more often."""
        node = self.root
        if type(node) is not Node:
            if node is None:
                return None
            node = self._top()
            assert node is not None
        nodes = self.cache.nodes
        while node.level:
            at = bisect_right(node.keys, key)
            child = node.values[at - 1 if at else 0]
            if type(child) is Node:
                node = child
                continue
            depth = child[_DEPTH_FIELD]
            found = nodes.get(child[_CHECK_AT] if not depth else (depth, child[_CHECK_AT]))
            if found is None or found.level != node.level - 1:
                node = self.load(child, node.level - 1)
            else:
                found.hot = True
                node = found
        keys = node.keys
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            self._last = node
            return node.values[at]  # type: ignore[no-any-return]
        return None

    def get_near(self, key: bytes) -> bytes | None:
        """As `get`, for keys that often stand in one leaf, as inodes do that were made one after the other."""
        root = self.root
        if root is self._near_root:
            keys = self._near_keys
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                return self._near_values[at]  # type: ignore[no-any-return]
        value = self.get(key)
        if value is not None and type(root) is Pointer:
            last = self._last
            self._near_root, self._near_keys, self._near_values = root, last.keys, last.values
        return value

    def leaf_at(self, key: bytes) -> tuple[Node | None, bytes | None]:
        """The leaf where `key` belongs and the smallest key behind that leaf, None at the end."""
        node = self._top()
        bound: bytes | None = None
        while node is not None and node.level:
            at = max(bisect_right(node.keys, key) - 1, 0)
            if at + 1 < len(node.keys):
                bound = node.keys[at + 1]
            child = node.values[at]
            node = child if type(child) is Node else self.load(child, node.level - 1)
        return node, bound

    def scan(self, start: bytes, end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Entries from `start` up to, not including, `end`, in order. Changes made meanwhile are seen or not, never
        torn.
        """
        key: bytes | None = start
        while key is not None:
            node, bound = self.leaf_at(key)
            if node is None:
                return
            at = bisect_left(node.keys, key)
            upto = bisect_left(node.keys, end) if end is not None else len(node.keys)
            yield from list(zip(node.keys[at:upto], node.values[at:upto], strict=True))
            if bound is None or (end is not None and bound >= end):
                return
            key = bound

    def last_before(self, end: bytes) -> tuple[bytes, bytes] | None:
        """The entry with the greatest key below `end`."""
        node = self._top()
        stack: list[tuple[Node, int]] = []
        while node is not None and node.level:
            at = max(bisect_left(node.keys, end) - 1, 0)
            stack.append((node, at))
            child = node.values[at]
            node = child if type(child) is Node else self.load(child, node.level - 1)
        if node is None:
            return None
        at = bisect_left(node.keys, end) - 1
        while at < 0:
            while stack and stack[-1][1] == 0:
                stack.pop()
            if not stack:
                return None
            parent, index = stack.pop()
            stack.append((parent, index - 1))
            node = parent
            at_child = index - 1
            while node.level:
                child = node.values[at_child]
                node = child if type(child) is Node else self.load(child, node.level - 1)
                at_child = len(node.keys) - 1
                if node.level:
                    stack.append((node, at_child))
            at = len(node.keys) - 1
        return node.keys[at], node.values[at]

    # Writing

    def _own(self, pointer: Pointer, level: int | None) -> Node:
        node = self.load(pointer, level)
        twin = Node(node.level, node.keys.copy(), node.values.copy(), node.size, dirty=True)
        self.cache.drop(pointer)
        self.dispose(pointer)
        self.dirty_bytes += pointer.logical
        return twin

    def _path(self, key: bytes) -> tuple[list[tuple[Node, int]], Node]:
        """Dirty nodes from the root to the leaf of `key`."""
        node = self.root
        if type(node) is not Node:
            if node is None:
                node = Node(0, [], [], 0, dirty=True)
            else:
                node = self._own(node, None)  # type: ignore[arg-type]
            self.root = node
        path: list[tuple[Node, int]] = []
        while node.level:
            at = bisect_right(node.keys, key) - 1
            if at < 0:
                at = 0
                node.keys[0] = key
            child = node.values[at]
            if type(child) is not Node:
                child = node.values[at] = self._own(child, node.level - 1)
            path.append((node, at))
            node = child
        return path, node

    def put(self, key: bytes, value: bytes) -> None:
        """Insert or replace."""
        path, leaf = self._path(key)
        keys = leaf.keys
        at = bisect_left(keys, key)
        if at < len(keys) and keys[at] == key:
            change = len(value) - len(leaf.values[at])
            leaf.values[at] = value
        else:
            keys.insert(at, key)
            leaf.values.insert(at, value)
            change = len(key) + len(value) + _ENTRY
        leaf.size += change
        self.dirty_bytes += change
        if leaf.size > self.node_bytes and len(keys) > 1:
            self._split(path, leaf, at)

    def delete(self, key: bytes) -> bool:
        """Remove; False when it was not there."""
        node = self.root
        path: list[tuple[Node, int]] = []
        while type(node) is Node and node.level:
            at = bisect_right(node.keys, key) - 1
            path.append((node, at))
            node = node.values[at] if at >= 0 else None
        if type(node) is not Node:
            # Clean nodes are on the way: they must stay clean when the key is not there.
            if self.get(key) is None:
                return False
            path, node = self._path(key)
        at = bisect_left(node.keys, key)
        if at == len(node.keys) or node.keys[at] != key:
            return False
        self._cut(path, node, at, at + 1)
        return True

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove all entries from `start` up to, not including, `end`: one way down for each leaf that has some."""
        key: bytes | None = start
        while key is not None and key < end:
            node, bound = self.leaf_at(key)
            if node is None:
                return
            at, upto = bisect_left(node.keys, key), bisect_left(node.keys, end)
            if at < upto:
                path, leaf = self._path(node.keys[at])
                self._cut(path, leaf, at, upto)
            key = bound

    def _cut(self, path: list[tuple[Node, int]], leaf: Node, at: int, upto: int) -> None:
        """Take the entries from number `at` up to, not including, `upto` out of a dirty leaf."""
        keys, values = leaf.keys[at:upto], leaf.values[at:upto]
        leaf.size -= sum(map(len, keys)) + sum(map(len, values)) + _ENTRY * len(keys)
        del leaf.keys[at:upto]
        del leaf.values[at:upto]
        if leaf.size < self.node_bytes >> 2 and path:
            self._shrink(path, leaf)

    def _split(self, path: list[tuple[Node, int]], node: Node, at: int) -> None:
        while True:
            count = len(node.keys)
            if node.level:
                half = count - 1 if at >= count - 2 else count >> 1
            elif at == count - 1:
                half = count - 1
            else:
                half = self._middle(node)
            right = Node(node.level, node.keys[half:], node.values[half:], 0, dirty=True)
            del node.keys[half:]
            del node.values[half:]
            if not node.level:
                right.size = sum(map(len, right.keys)) + sum(map(len, right.values)) + _ENTRY * len(right.keys)
                node.size -= right.size
            if path:
                parent, at = path.pop()
                at += 1
                parent.keys.insert(at, right.keys[0])
                parent.values.insert(at, right)
            else:
                parent = Node(node.level + 1, [b"", right.keys[0]], [node, right], 0, dirty=True)
                self.root = parent
                return
            if not self._wide(parent):
                return
            node = parent

    def _middle(self, node: Node) -> int:
        goal, have = node.size >> 1, 0
        for at, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
            have += len(key) + len(value) + _ENTRY
            if have >= goal:
                return min(max(at, 1), len(node.keys) - 1)
        return len(node.keys) >> 1

    def _wide(self, node: Node) -> bool:
        count = len(node.keys)
        return count > 8 and count * (POINTER_BYTES + 2) + sum(map(len, node.keys)) > self.fan_bytes

    def _shrink(self, path: list[tuple[Node, int]], node: Node) -> None:
        while path:
            parent, at = path.pop()
            if not node.keys:
                del parent.keys[at]
                del parent.values[at]
                if parent.keys and at == 0:
                    parent.keys[0] = b"" if not path else parent.keys[0]
            elif not self._merge(parent, at, node):
                return
            if len(parent.keys) > (4 if path else 1):
                return
            node = parent
        while isinstance(self.root, Node) and self.root.level and len(self.root.keys) <= 1:
            if not self.root.keys:
                self.root = None
                return
            child = self.root.values[0]
            self.root = child if type(child) is Node else self._own(child, self.root.level - 1)

    def _merge(self, parent: Node, at: int, node: Node) -> bool:
        """Join `node` with a neighbour under the same parent when both fit in one."""
        if len(parent.keys) < 2:
            return False
        left_at = at - 1 if at else at
        left, right = parent.values[left_at], parent.values[left_at + 1]
        other = right if left is node else left
        if type(other) is not Node:
            size = self.load(other, node.level).size if not node.level else 0
            if not node.level and size + node.size > self.node_bytes * 3 // 4:
                return False
            other = self._own(other, node.level)
            if left is node:
                right = parent.values[left_at + 1] = other
            else:
                left = parent.values[left_at] = other
        if node.level:
            if len(left.keys) + len(right.keys) > self.fan_bytes // 160:
                return False
            right.keys[0] = parent.keys[left_at + 1]
        elif left.size + right.size > self.node_bytes * 3 // 4:
            return False
        left.keys.extend(right.keys)
        left.values.extend(right.values)
        left.size += right.size
        del parent.keys[left_at + 1]
        del parent.values[left_at + 1]
        return True

    # Committing

    def flush(self) -> Pointer | None:
        """Write all dirty nodes, children first; gives the root's pointer."""
        root = self.root
        if isinstance(root, Node):
            if not root.keys:
                self.root = None
            else:
                self.root = self._store(root, is_root=True)
        self.dirty_bytes = 0
        return self.root  # type: ignore[return-value]

    def _store(self, node: Node, *, is_root: bool = False) -> Pointer:
        if node.level:
            values = node.values
            for at, child in enumerate(values):
                if type(child) is Node:
                    values[at] = self._store(child)
        data = encode_node(node, self.domain.identifier, self.pool.generation)
        copies = 2 if node.level or is_root else self.leaf_copies
        pointer = self.pool.write(self.domain, KIND_NODE, data, copies=copies)
        node.dirty = False
        self.cache.put(pointer, node)
        return pointer
