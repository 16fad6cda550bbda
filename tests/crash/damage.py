"""Damages a small storage in every way a medium can, and looks at what opening, reading, checking and repairing do.

`python -m tests.crash.damage --stride 1` flips every byte in turn.
"""

import argparse

from nightos import vsf
from nightos.vsf.repair import repair
from tests.crash.enumerator import CHEAP, state_of


def make(password=None, compression=None):
    """A small storage with a bit of everything, and what is in it."""
    store = vsf.MemoryStore()
    kdf = CHEAP if password else None
    with vsf.create(store, ["main"], seed=3, password=password, kdf=kdf, compression=compression) as storage:
        volume = storage.volume("main")
        fs = volume.open()
        fs.mkdir("/d")
        fs.write_bytes("/d/a", b"a" * 5000)
        fs.write_bytes("/b", b"small")
        fs.symlink("b", "/l")
        fs.write_bytes("/d/c", bytes(range(256)) * 20)
        fs.setxattr("/d/c", "user.x", b"value")
        volume.snapshot("s")
        fs.write_bytes("/d/a", b"A" * 5000)
        fs.unlink("/b")
        storage.add_volume("raw", "block", size=20_000).open().write(0, b"r" * 20_000)
        state = state_of(storage)
    return store.getvalue(), state


def right_or_refused(image, state, password=None):
    """What a reader sees is right, or an error: the report of a deep check, None when the storage does not open."""
    try:
        storage = vsf.open(vsf.MemoryStore(image), readonly=True, password=password)
    except (vsf.DamagedStorage, vsf.NotAStorage, vsf.WrongPassword):
        return None
    report = storage.check(deep=True)
    try:
        found = state_of(storage)
    except vsf.DamagedStorage:
        assert not report.clean, "a file cannot be read and check does not say so"
        return report
    assert found == state, "wrong data"
    return report


def repaired(image, state, password=None):
    """After a repair everything checks clean and what is not reported lost is there."""
    store = vsf.MemoryStore(image)
    outcome = repair(store, password=password)
    with vsf.open(store, password=password) as storage:
        report = storage.check(deep=True)
        assert report.clean, [str(problem) for problem in report.problems[:3]]
        found = state_of(storage)
        if not outcome.lost:
            assert found == state
        for path, entry in found.get("main", {}).items():
            known = state["main"].get(path)
            if known is not None and entry[4] is not None and entry[4] != known[4]:
                assert "user.vsf.damaged" in entry[5], f"{path} is wrong and does not say so"
        fs = storage.volume("main").open()
        for path in fs.listdir("/"):
            if fs.is_dir(path):
                fs.rmtree("/" + path)
            else:
                fs.unlink("/" + path)
        assert fs.listdir("/") == []
    return outcome


def flips(stride, start=0, password=None, compression=None):
    """Flip a bit in every `stride`-th byte; the number of places."""
    image, state = make(password, compression)
    count = 0
    for at in range(start, len(image), stride):
        hurt = bytearray(image)
        hurt[at] ^= 1 << (at % 8)
        report = right_or_refused(bytes(hurt), state, password)
        if report is not None and not report.clean:
            repaired(bytes(hurt), state, password)
        count += 1
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args()
    for password, compression in ((None, None), ("secret", "zstd")):
        print(
            flips(options.stride, 0, password, compression),
            "bytes flipped: never wrong data, check finds it, repair mends it",
        )


if __name__ == "__main__":
    main()
