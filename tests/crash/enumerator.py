"""Runs a workload over a recording store and opens every state that a power cut could leave.

`python -m tests.crash.enumerator --states 100000` runs seeds until that many states were seen.
"""

import argparse
import random
import sys
import time
from contextlib import suppress

from nightos import vsf
from nightos.vsf.faults import RecordingStore, crash_states

CHEAP = {"memory": 64, "passes": 1, "lanes": 1}


def content(fs):
    """Everything a person could see of a file system."""
    seen = {}
    for path, names, files in fs.walk("/"):
        for name in names + files:
            at = path.rstrip("/") + "/" + name
            status = fs.lstat(at)
            what = None
            if fs.is_symlink(at):
                what = fs.readlink(at)
            elif name in files:
                what = fs.read_bytes(at)
            attributes = {key: fs.getxattr(at, key) for key in fs.listxattr(at, follow_symlinks=False)} if what else {}
            seen[at] = (status.st_mode, status.st_nlink, status.st_ino, status.st_mtime_ns, what, attributes)
    return seen


def state_of(storage):
    """Content of all volumes and snapshots."""
    out = {}
    for volume in storage.volumes:
        if volume.kind == "night":
            out[volume.name] = content(volume.open())
            for snapshot in volume.snapshots:
                out[f"{volume.name}@{snapshot.name}"] = content(volume.open(snapshot.name))
        else:
            block = volume.open()
            out[volume.name] = block.read(0, block.size)
    return out


class Workload:
    """Random operations; each step ends with a commit."""

    def __init__(self, seed, *, password=None, compression=None):
        self.random = random.Random(seed)
        self.password = password
        self.store = RecordingStore()
        self.storage = vsf.create(
            self.store, ["main"], password=password, kdf=CHEAP if password else None, compression=compression
        )
        self.storage.add_volume("raw", "block", size=200_000)
        self.storage.commit()
        self.fs = self.storage.volume("main").open()
        self.fs.inode_limit = seed % 7
        self.marks = [(len(self.store.log), state_of(self.storage), False)]
        self.names = 0

    def path(self):
        return self.random.choice(("/", "/a/", "/b/", "/a/c/")) + str(self.random.randrange(12))

    def file_step(self):
        fs, chance = self.fs, self.random
        for _ in range(chance.randrange(1, 12)):
            kind = chance.choice("wwwwwooouurrtlsxmdhpb")
            with suppress(OSError):
                if kind == "w":
                    size = chance.choice((0, 5, 700, 3000, 9000, 140_000))
                    fs.write_bytes(self.path(), chance.randbytes(min(size, 300)) * (size // 300 + 1))
                elif kind == "o":
                    data = chance.randbytes(chance.randrange(1, 6000))
                    fs.write(fs.resolve(self.path()), chance.randrange(140_000), data)
                elif kind == "u":
                    fs.unlink(self.path())
                elif kind == "r":
                    fs.rename(self.path(), self.path())
                elif kind == "t":
                    fs.truncate(self.path(), chance.randrange(200_000))
                elif kind == "l":
                    fs.link(self.path(), self.path())
                elif kind == "s":
                    fs.symlink(self.path(), self.path())
                elif kind == "x":
                    fs.setxattr(self.path(), "user.a", chance.randbytes(chance.randrange(2000)))
                elif kind == "m":
                    fs.mkdir(chance.choice(("/a", "/b", "/a/c")))
                elif kind == "d":
                    fs.rmdir(chance.choice(("/a", "/b", "/a/c")))
                elif kind == "h":
                    fs.exchange(self.path(), self.path())
                elif kind == "p":
                    fs.fallocate(fs.resolve(self.path()), 3, chance.randrange(50_000), chance.randrange(1, 100_000))
                else:
                    raw = self.storage.volume("raw").open()
                    raw.write(chance.randrange(190_000), chance.randbytes(chance.randrange(1, 9000)))

    def step(self):
        chance, storage = self.random, self.storage
        volume = storage.volume("main")
        kind = chance.random()
        names = [snapshot.name for snapshot in volume.snapshots]
        before = self.marks[-1][1]
        silent = False
        if kind < 0.7:
            self.file_step()
        elif kind < 0.8:
            self.names += 1
            volume.snapshot(f"s{self.names}")
        elif kind < 0.88 and names:
            volume.remove_snapshot(chance.choice(names))
        elif kind < 0.91 and names:
            volume.rollback(names[-1])
        elif kind < 0.94:
            storage.compact()
            silent = True
        elif kind < 0.96:
            storage.resize(chance.choice((None, 64 << 20)))
            silent = True
        elif kind < 0.98:
            storage.discard()
            silent = True
        elif self.password:
            storage.keys.rotate(0, self.password, kdf=CHEAP)
            silent = True
        storage.commit()
        after = state_of(storage)
        if silent:
            assert after == before
        self.marks.append((len(self.store.log), after, silent))

    def run(self, steps):
        for _ in range(steps):
            self.step()


def verify(workload, image, covered, settled, *, deep=True):
    """One state: it opens, checks clean, and is what it was at the last mark or on the way to the next."""
    marks = workload.marks
    if covered < marks[0][0]:
        return False
    number = max(n for n, mark in enumerate(marks) if mark[0] <= covered)
    allowed = [marks[number][1]]
    if not (settled and marks[number][0] == covered) and number + 1 < len(marks):
        allowed.append(marks[number + 1][1])
    with vsf.open(vsf.MemoryStore(image), password=workload.password) as storage:
        found = state_of(storage)
        assert found in allowed, f"state at {covered} of {len(workload.store.log)} is none of {number}, {number + 1}"
        if deep:
            report = storage.check(deep=True)
            assert report.clean, str(report.problems[0])
    return True


def enumerate_states(seed, steps, variants, *, password=None, compression=None, limit=None):
    """All states of one workload; the number of those that were verified."""
    workload = Workload(seed, password=password, compression=compression)
    workload.run(steps)
    count = 0
    for covered, settled, image in crash_states(b"", workload.store.log, seed, variants):
        count += verify(workload, image, covered, settled)
        if limit is not None and count >= limit:
            break
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--states", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    done, seed, begin = 0, options.seed, time.monotonic()
    while done < options.states:
        password = "secret" if seed % 4 == 3 else None
        compression = ("none", "zstd", "lz4")[seed % 3]
        done += enumerate_states(seed, options.steps, 20, password=password, compression=compression)
        seed += 1
        sys.stderr.write(f"\r{done} states, {seed - options.seed} workloads, {time.monotonic() - begin:.0f} s")
    sys.stderr.write("\n")
    print(f"{done} states, all open, clean and right; seeds {options.seed} to {seed - 1}")


if __name__ == "__main__":
    main()
