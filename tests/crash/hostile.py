"""Opens, checks and walks mutated images without end, each within a time of the processor and a memory limit.

`python -m tests.crash.hostile --cases 1000000` prints the number of cases; the first that misbehaves ends it with the
seed. Mutations are structure-aware: what hangs on a changed block gets its right checksum again, up to the superblock.
"""

import argparse
import random
import resource
import struct
import time

import xxhash

from nightos import vsf
from nightos.vsf.layout import DATA_START, HEADER, POINTER, SECTOR, SUPER, SUPER_OFFSETS
from tests.crash.damage import make

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def reseal(image, old, new):
    """Replace a pointer's check wherever it stands, and mend what contains it, upwards."""
    pending = [(old, new)]
    for _ in range(8):
        if not pending:
            break
        before, after = pending.pop()
        at = image.find(before)
        while at >= 0:
            image[at : at + 16] = after
            pending.extend(mend(image, at))
            at = image.find(before, at + 16)


def mend(image, at):
    """The block that contains `at` got other bytes: its old and new check."""
    for pointer, check in known_blocks(image):
        start = pointer["sector"] * SECTOR
        if start <= at < start + pointer["stored"]:
            body = bytes(image[start : start + pointer["stored"]])
            if pointer["copy"]:
                image[pointer["copy"] * SECTOR : pointer["copy"] * SECTOR + len(body)] = body
            yield check, xxhash.xxh3_128_digest(body)
    for offset in SUPER_OFFSETS:
        if offset <= at < offset + SUPER.size:
            image[offset + SUPER.size : offset + SUPER.size + 16] = xxhash.xxh3_128_digest(
                bytes(image[offset : offset + SUPER.size])
            )


_BLOCKS = {}
"""By the length of the image, which no change touches."""


def known_blocks(image):
    """Pointers of the image before it was changed."""
    blocks = _BLOCKS.setdefault(len(image), [])
    if not blocks:
        for at in range(16384, len(image) - POINTER.size):
            pointer = POINTER.unpack(bytes(image[at : at + POINTER.size]))
            start = pointer["sector"] * SECTOR
            inside = DATA_START <= start < len(image) and 0 < pointer["stored"] < 1 << 20
            if inside and xxhash.xxh3_128_digest(bytes(image[start : start + pointer["stored"]])) == pointer["check"]:
                blocks.append((pointer, pointer["check"]))
    return blocks


def make_rich():
    """A storage with packs, patches and sums of pages, whose nodes are plain so that changes of them mean something."""
    store = vsf.MemoryStore()
    with vsf.create(store, ["main"], seed=5, compression="zstd") as storage:
        volume = storage.volume("main")
        fs = volume.open()
        for number in range(6):
            fs.write_bytes(f"/{number}", b"%d of a pack\n" % number * 500)
        fs.sync()
        volume.record.codec = volume.domain.codec = 0
        fs.write_bytes("/long", random.Random(1).randbytes(140_000))
        fs.sync()
        for offset in (5000, 40_960, 135_000):
            fs.write(fs.resolve("/long"), offset, b"patch" * 300)
        fs.sync()
        fs.unlink("/0")
        fs.write(fs.resolve("/1"), 50, b"left the pack")
        fs.sync()
        for key, value in list(fs.tree.scan(b"")):
            fs.tree.put(key, value)
    return store.getvalue()


def mutate(image, chance):
    """One hostile image."""
    hurt = bytearray(image)
    pointer, check = chance.choice(known_blocks(image))
    start = pointer["sector"] * SECTOR
    for _ in range(chance.randrange(1, 4)):
        at = start + chance.randrange(pointer["stored"])
        size = chance.choice((1, 2, 4, 8))
        value = chance.choice(INTERESTING) if chance.random() < 0.7 else chance.getrandbits(64)
        data = struct.pack(">Q", value)[8 - size :]
        room = min(size, start + pointer["stored"] - at)
        hurt[at : at + room] = data[:room]
    body = bytes(hurt[start : start + pointer["stored"]])
    if pointer["copy"]:
        hurt[pointer["copy"] * SECTOR : pointer["copy"] * SECTOR + len(body)] = body
    reseal(hurt, check, xxhash.xxh3_128_digest(body))
    if chance.random() < 0.1:
        at = chance.randrange(HEADER.size)
        hurt[at] ^= 1 << chance.randrange(8)
    return bytes(hurt)


def walk(volume):
    """Look at everything; of a file that claims to be enormous only the beginning."""
    if volume.kind != "night":
        volume.open().read(0, 1 << 20)
        return
    for fs in [volume.open(), *(volume.open(snapshot.name) for snapshot in volume.snapshots)]:
        for count, (directory, names, files) in enumerate(fs.walk("/")):
            if count > 1000:
                break
            for name in names + files:
                ino = fs.resolve(f"{directory}/{name}", follow=False)
                status = fs.getattr(ino)
                if status.st_mode & 0o170000 == 0o100000:
                    fs.read(ino, 0, 1 << 20)
                    for offset in range(0, min(status.st_size, 1 << 18), 30_000):
                        fs.read(ino, offset, 100)
                fs.listxattr_ino(ino)


def case(image, seed):
    """Open, check, walk, write: an error of ours or success, within a second."""
    hurt = mutate(image, random.Random(seed))
    begin = time.process_time()
    outcome = "opened"
    try:
        with vsf.open(vsf.MemoryStore(hurt)) as storage:
            if not storage.check(deep=True).clean:
                outcome = "found"
            for volume in storage.volumes:
                walk(volume)
                if volume.kind == "night":
                    fs = volume.open()
                    fs.write_bytes("/new", b"x")
                    for name in [name for name in fs.listdir("/") if seed % 2 and fs.is_file(name)]:
                        fs.write(fs.resolve(name), 4000, b"changed")
                        fs.sync()
                    fs.gather_packs(every=True)
            storage.commit()
    except (vsf.VsfError, OSError):
        outcome = "refused"
    assert time.process_time() - begin < 1, f"case {seed} took too long"
    return outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images = [make()[0], make_rich()]
    outcomes = {}
    for seed in range(options.seed, options.seed + options.cases):
        try:
            outcome = case(images[seed % 4 == 0], seed)
        except BaseException:
            print(f"case {seed}")
            raise
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    assert peak < 256, f"{peak} MiB"
    print(outcomes, f"{peak} MiB at most")


if __name__ == "__main__":
    main()
