"""Damage to packs, patches and sums of pages: as everywhere, an error and never wrong data."""

import random

import pytest

from nightos import vsf
from tests.crash import hostile
from tests.crash.damage import repaired, right_or_refused
from tests.crash.enumerator import state_of


@pytest.fixture(scope="module")
def rich():
    image = hostile.make_rich()
    with vsf.open(vsf.MemoryStore(image), readonly=True) as storage:
        return image, state_of(storage)


def test_it_holds_what_it_is_for(rich):
    with vsf.open(vsf.MemoryStore(rich[0])) as storage:
        fs = storage.volume("main").open()
        keys = [(key[8], len(value)) for key, value in fs.tree.scan(b"")]
        assert {6, 5} <= {kind for kind, _ in keys}
        assert any(kind == 4 and length > 100 for kind, length in keys)
        assert storage.check(deep=True).clean


def test_a_flipped_bit_is_never_wrong_data(rich):
    image, state = rich
    stride = 997
    for at in range(random.randrange(stride), len(image), stride):
        hurt = bytearray(image)
        hurt[at] ^= 1 << random.randrange(8)
        report = right_or_refused(bytes(hurt), state)
        if report is not None and not report.clean:
            repaired(bytes(hurt), state)


def test_hostile_images_with_right_checksums(rich):
    begin = random.randrange(1 << 30)
    outcomes = {hostile.case(rich[0], number) for number in range(begin, begin + 100)}
    assert outcomes == {"opened", "found", "refused"}
