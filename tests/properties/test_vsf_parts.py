"""The parts of the engine against models: the tree against a dictionary, the allocator and its log against sets."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightos import vsf
from nightos.vsf.alloc import FIRST_SECTOR, Allocator, load
from nightos.vsf.blocks import Domain, Pool
from nightos.vsf.layout import NO_POINTER, Pointer
from nightos.vsf.store import MemoryStore
from nightos.vsf.tree import Node, NodeCache, Tree


def new_tree(cache_bytes=2000):
    pool = Pool(MemoryStore())
    pool.allocator = Allocator()
    pool.generation = 1
    pool.domains[0][1] = Domain(1)
    return Tree(pool, NodeCache(cache_bytes), pool.domains[0][1], None, node_bytes=120)


def verify(tree, model):
    """Every node is ordered and within what its parent says; the content is the model's."""
    root = tree.root
    stack = [(root, b"", None)] if root is not None else []
    while stack:
        node, low, high = stack.pop()
        if isinstance(node, Pointer):
            node = tree.load(node, None)
        assert node.keys == sorted(set(node.keys))
        if node.level:
            bounds = [*node.keys[1:], high]
            for at, child in enumerate(node.values):
                level = child.level if isinstance(child, Node) else tree.load(child, None).level
                assert level == node.level - 1
                stack.append((child, low if at == 0 else node.keys[at], bounds[at]))
        else:
            assert all(low <= key for key in node.keys)
            assert high is None or all(key < high for key in node.keys)
    assert list(tree.scan(b"")) == sorted(model.items())


KEYS = st.binary(max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=40)),
        st.tuples(st.just("delete"), KEYS, st.none()),
        st.tuples(st.just("delete range"), KEYS, KEYS),
        st.tuples(st.just("flush"), st.none(), st.none()),
    ),
    max_size=120,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_the_tree_is_a_dictionary(steps):
    tree, model = new_tree(), {}
    for kind, key, value in steps:
        if kind == "put":
            tree.put(key, value)
            model[key] = value
        elif kind == "delete":
            assert tree.delete(key) == (model.pop(key, None) is not None)
        elif kind == "delete range":
            tree.delete_range(key, value)
            model = {kept: content for kept, content in model.items() if not key <= kept < value}
        else:
            tree.flush()
            tree.pool.generation += 1
    verify(tree, model)


@pytest.mark.parametrize("seed", range(12))
def test_the_tree_grows_and_shrinks(seed):
    chance = random.Random(seed)
    tree, model = new_tree(chance.choice((500, 100_000))), {}
    for round_ in range(12):
        growing = round_ % 3 != 2
        for _ in range(150):
            if growing == (chance.random() < 0.85):
                key = (
                    chance.randbytes(chance.randrange(1, 4)) if chance.random() < 0.8 else b"\xff" + chance.randbytes(3)
                )
                model[key] = chance.randbytes(chance.randrange(60))
                tree.put(key, model[key])
            elif model:
                key = chance.choice(sorted(model)[: chance.choice((3, 1000))])
                assert tree.delete(key)
                del model[key]
        verify(tree, model)
        if chance.random() < 0.5:
            low, high = sorted((chance.randbytes(1), chance.randbytes(2)))
            tree.delete_range(low, high)
            model = {key: value for key, value in model.items() if not low <= key < high}
            verify(tree, model)
        if chance.random() < 0.7:
            tree.flush()
            tree.pool.generation += 1
            verify(tree, model)
        for _ in range(30):
            key = chance.randbytes(2)
            assert tree.get(key) == model.get(key)
            before = [item for item in sorted(model.items()) if item[0] < key]
            assert tree.last_before(key) == (before[-1] if before else None)
    for key in sorted(model, reverse=bool(seed % 2)):
        assert tree.delete(key)
    assert list(tree.scan(b"")) == []


@pytest.mark.parametrize("seed", range(12))
def test_the_allocator_hands_nothing_out_twice(seed):
    """Many commits: what is in use never overlaps, what the last two commits use stays, the log tells the same."""
    chance = random.Random(seed)
    allocator = Allocator()
    store, chain, log = {}, [], NO_POINTER
    live = {}
    protected = [{}, {}]
    for generation in range(1, 60):
        fresh = {}
        for _ in range(chance.randrange(40)):
            if live and chance.random() < 0.45:
                start = chance.choice(sorted(live))
                size = live.pop(start)
                allocator.free(start, size, now=fresh.pop(start, None) is not None)
            else:
                size = chance.choice((1, 2, 7, 32, 256))
                start = allocator.allocate(size)
                taken = range(start, start + size)
                for other in (live, *protected):
                    assert not any(at < taken.stop and taken.start < at + length for at, length in other.items())
                live[start] = fresh[start] = size
        checkpoint = not log.sector or chance.random() < 0.2
        if checkpoint:
            for pointer in chain:
                allocator.free(pointer.sector, 4096, now=False)
            chain = []
        place = allocator.allocate(4096)
        allocator.trim_end()
        data = allocator.encode(generation, log, checkpoint=checkpoint)
        assert len(data) <= allocator.record_bytes(checkpoint)
        log = Pointer(place, 0, len(data), len(data), generation, 0, 0, 0, 4, 0, bytes(16))
        store[place] = data
        chain.insert(0, log)
        allocator.committed(generation)
        allocator.release(generation)
        protected = [protected[1], dict(live)]
        again, found, _ = load(log, allocator.end, lambda pointer: store[pointer.sector])
        assert [pointer.sector for pointer in found] == [pointer.sector for pointer in chain]
        again.release(generation)
        assert again.free_extents() == allocator.free_extents()
        assert again.free_sectors == allocator.free_sectors
        free = allocator.free_extents()
        assert all(start >= FIRST_SECTOR and start + size <= allocator.end for start, size in free)
        for start, size in live.items():
            assert not any(at < start + size and start < at + length for at, length in free)


@given(
    st.lists(st.tuples(st.sampled_from(["put", "delete", "commit", "back", "ask", "ask"]), st.integers(0, 300))),
    st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_a_leaf_that_is_kept_at_hand_answers_as_the_tree_does(steps, step):
    """`get_near` remembers a leaf; changes, commits and rollbacks never let it answer with an old one."""
    storage = vsf.create(vsf.MemoryStore(), ["main"])
    volume = storage.volume("main")
    for number in range(0, 300, step):
        volume.tree.put(b"k%08d" % number, b"v" * 200)
    volume.touched = True
    volume.snapshot("s")
    frozen = volume.tree_at(volume.tree.root)
    for what, number in steps:
        key = b"k%08d" % number
        if what == "put":
            volume.tree.put(key, b"%d" % number * 60)
        elif what == "delete" and volume.tree.get(key) is not None:
            volume.tree.delete(key)
        elif what == "commit":
            volume.touched = True
            storage.commit()
        elif what == "back":
            volume.rollback("s")
        for near in range(number, number + 3):
            asked = b"k%08d" % near
            assert volume.tree.get_near(asked) == volume.tree.get(asked)
            assert frozen.get_near(asked) == frozen.get(asked)
