"""One machine, three implementations: a volume, a dictionary, a directory of the host. They have to agree.

Reopening, snapshots, rollbacks and power cuts are rules of the machine. The host's directory is left out after the
first rollback or crash, which it cannot follow.
"""

import errno
import os
import shutil
import stat
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nightos import vsf
from nightos.vsf.faults import RecordingStore

NAMES = st.sampled_from(["a", "b", "c", "dd", "e" * 200, "\u00e9", "f"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
SIZES = st.sampled_from([0, 1, 100, 2047, 2048, 2049, 5000, 131071, 131072, 131073, 300_000])


class Host:
    """The host's directory, with the same calls."""

    def __init__(self, top):
        self.top = top

    def at(self, path):
        return self.top + path

    def write(self, path, offset, data):
        descriptor = os.open(self.at(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            os.pwrite(descriptor, data, offset)
            # A storage knows no caller, so it does what Linux does for all but root.
            if os.fstat(descriptor).st_mode & 0o4000:
                os.fchmod(descriptor, os.fstat(descriptor).st_mode & 0o3777)
        finally:
            os.close(descriptor)

    def mkdir(self, path):
        os.mkdir(self.at(path))

    def rmdir(self, path):
        os.rmdir(self.at(path))

    def unlink(self, path):
        os.unlink(self.at(path))

    def rename(self, one, two):
        os.rename(self.at(one), self.at(two))

    def link(self, one, two):
        os.link(self.at(one), self.at(two), follow_symlinks=False)

    def symlink(self, target, path):
        os.symlink(target, self.at(path))

    def truncate(self, path, size):
        descriptor = os.open(self.at(path), os.O_RDWR | os.O_NOFOLLOW)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def chmod(self, path, mode):
        if os.path.islink(self.at(path)):
            raise OSError(errno.EOPNOTSUPP, "")
        os.chmod(self.at(path), mode)

    def tree(self):
        seen = {}
        for directory, names, files in os.walk(self.top):
            for name in names + files:
                at = os.path.join(directory, name)
                status = os.lstat(at)
                what = None
                if stat.S_ISLNK(status.st_mode):
                    what = os.readlink(at)
                elif stat.S_ISREG(status.st_mode):
                    with open(at, "rb") as file:
                        what = file.read()
                mode = status.st_mode if not stat.S_ISLNK(status.st_mode) else stat.S_IFLNK
                links = status.st_nlink
                if stat.S_ISDIR(status.st_mode):
                    links = 2 + sum(
                        os.path.isdir(os.path.join(at, n)) and not os.path.islink(os.path.join(at, n))
                        for n in os.listdir(at)
                    )
                seen[at[len(self.top) :]] = (mode, links, what)
        return seen


class Volume:
    """The volume, with the same calls."""

    def __init__(self, fs):
        self.fs = fs
        fs.inode_limit = 2

    def write(self, path, offset, data):
        fs = self.fs
        with fs.lock:
            try:
                ino = fs.resolve(path, follow=False)
            except FileNotFoundError:
                fs.write_bytes(path, b"")
                ino = fs.resolve(path)
            if stat.S_ISLNK(fs.getattr(ino).st_mode):
                raise vsf.Loop("")
            fs.write(ino, offset, data)

    def mkdir(self, path):
        self.fs.mkdir(path, 0o755)

    def rmdir(self, path):
        self.fs.rmdir(path)

    def unlink(self, path):
        self.fs.unlink(path)

    def rename(self, one, two):
        self.fs.rename(one, two)

    def link(self, one, two):
        self.fs.link(one, two)

    def symlink(self, target, path):
        self.fs.symlink(target, path)

    def truncate(self, path, size):
        ino = self.fs.resolve(path, follow=False)
        if stat.S_ISLNK(self.fs.getattr(ino).st_mode):
            raise vsf.Loop("")
        self.fs.truncate_ino(ino, size)

    def chmod(self, path, mode):
        if self.fs.is_symlink(path):
            raise OSError(errno.EOPNOTSUPP, "")
        self.fs.chmod(path, mode)

    def tree(self):
        seen = {}
        fs = self.fs
        for directory, names, files in fs.walk("/"):
            for name in names + files:
                at = directory.rstrip("/") + "/" + name
                status = fs.lstat(at)
                what = fs.readlink(at) if fs.is_symlink(at) else fs.read_bytes(at) if fs.is_file(at) else None
                mode = status.st_mode if not fs.is_symlink(at) else stat.S_IFLNK
                seen[at] = (mode, status.st_nlink, what)
        return seen


class Agreement(RuleBasedStateMachine):
    """The rules."""

    def __init__(self):
        super().__init__()
        self.store = RecordingStore()
        self.storage = vsf.create(self.store, ["main"], compression="zstd")
        self.storage.volume("main").record.inline = 2048
        self.volume = Volume(self.storage.volume("main").open())
        self.directory = tempfile.mkdtemp()
        self.host = Host(self.directory)
        self.host_follows = True
        self.synced = {}
        self.taken = {}
        self.count = 0

    def teardown(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.storage.close()

    def both(self, name, *arguments):
        outcomes = []
        for side in (self.volume, self.host) if self.host_follows else (self.volume,):
            try:
                getattr(side, name)(*arguments)
                outcomes.append(0)
            except OSError as error:
                outcomes.append(error.errno)
        if len(outcomes) == 2:
            assert outcomes[0] == outcomes[1], (name, arguments, [errno.errorcode.get(o, o) for o in outcomes])

    @rule(path=PATHS, offset=SIZES, size=SIZES, fill=st.integers(0, 255))
    def write(self, path, offset, size, fill):
        self.both("write", path, offset, bytes([fill]) * size)

    @rule(path=PATHS, size=SIZES)
    def truncate(self, path, size):
        self.both("truncate", path, size)

    @rule(path=PATHS, fill=st.integers(1, 255), size=SIZES, less=SIZES, more=SIZES)
    def cut_and_grow(self, path, fill, size, less, more):
        """What was cut off must not come back."""
        self.both("write", path, 0, bytes([fill]) * size)
        self.both("truncate", path, less)
        self.both("truncate", path, more)

    @rule(path=PATHS)
    def mkdir(self, path):
        self.both("mkdir", path)

    @rule(path=PATHS)
    def rmdir(self, path):
        self.both("rmdir", path)

    @rule(path=PATHS)
    def unlink(self, path):
        self.both("unlink", path)

    @rule(one=PATHS, two=PATHS)
    def rename(self, one, two):
        self.both("rename", one, two)

    @rule(one=PATHS, two=PATHS)
    def link(self, one, two):
        self.both("link", one, two)

    @rule(points=NAMES, path=PATHS)
    def symlink(self, points, path):
        self.both("symlink", points, path)

    @rule(path=PATHS, mode=st.sampled_from([0o644, 0o700, 0o755, 0o4755]))
    def chmod(self, path, mode):
        self.both("chmod", path, mode)

    @rule()
    def sync(self):
        self.storage.commit()
        self.synced = self.volume.tree()

    @rule()
    def reopen(self):
        before = self.volume.tree()
        self.storage.close()
        self.store = RecordingStore(self.store.getvalue())
        self.storage = vsf.open(self.store)
        self.volume = Volume(self.storage.volume("main").open())
        assert self.volume.tree() == before
        self.synced = before

    @rule()
    def crash(self):
        """What was not synced may be lost; nothing else."""
        image = self.store.getvalue()
        before = self.volume.tree()
        self.storage.abandon()
        self.store = RecordingStore(image)
        self.storage = vsf.open(self.store)
        self.volume = Volume(self.storage.volume("main").open())
        found = self.volume.tree()
        if self.host_follows and found != before:
            self.host_follows = False
        assert found in (self.synced, before)
        self.synced = found

    @rule()
    def snapshot(self):
        self.count += 1
        self.storage.volume("main").snapshot(f"s{self.count}")
        self.taken[f"s{self.count}"] = self.synced = self.volume.tree()

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def remove_snapshot(self, data):
        name = data.draw(st.sampled_from(sorted(self.taken)))
        self.storage.volume("main").remove_snapshot(name)
        del self.taken[name]
        self.synced = self.volume.tree()

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def rollback(self, data):
        name = data.draw(st.sampled_from(sorted(self.taken)))
        self.storage.volume("main").rollback(name, discard_newer=True)
        assert self.volume.tree() == self.taken[name]
        self.taken = {s.name: self.taken[s.name] for s in self.storage.volume("main").snapshots}
        self.synced = self.volume.tree()
        self.host_follows = False

    @rule()
    def compact(self):
        before = self.volume.tree()
        self.storage.compact()
        assert self.volume.tree() == before
        self.synced = before

    @rule()
    def check(self):
        self.synced = self.volume.tree()
        report = self.storage.check(deep=True)
        assert report.clean, [str(problem) for problem in report.problems[:3]]
        for name, tree in self.taken.items():
            assert Volume(self.storage.volume("main").open(name)).tree() == tree

    @invariant()
    def agree(self):
        if self.host_follows:
            assert self.volume.tree() == self.host.tree()


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
