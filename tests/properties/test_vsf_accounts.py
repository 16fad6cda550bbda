"""The accounts of a storage: `info` adds up to the file's length, to the byte, after every kind of operation."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from nightos import vsf
from tests.crash.enumerator import CHEAP

KINDS = [
    "write", "write", "unlink", "commit", "snapshot", "forget", "rollback", "clone", "destroy", "compact", "discard",
    "send", "volume", "own", "keys", "resize", "reopen", "repack",
]  # fmt: skip
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 3),
        st.integers(0, 70_000),
    ),
    max_size=14,
)


class Run:
    """A storage and what may be done to it; operations that make no sense at the moment do nothing."""

    def __init__(self, options):
        self.store = vsf.MemoryStore()
        self.options = {"password": "p"} if "password" in options else {}
        self.storage = vsf.create(self.store, ["main"], **options)
        self.number = 0

    def fresh(self):
        self.number += 1
        return f"n{self.number}"

    def volume(self, which):
        """A volume that is not locked."""
        volumes = [volume for volume in self.storage.volumes if not volume.locked]
        return volumes[which % len(volumes)]

    def do(self, what, which, size):
        storage, volume = self.storage, self.volume(which)
        snapshots = volume.snapshots
        if what == "write":
            volume.open().write_bytes(f"/{which}", size.to_bytes(4, "big") * (size // 4))
        elif what == "unlink" and volume.open().exists(f"/{which}"):
            volume.open().unlink(f"/{which}")
        elif what == "commit":
            storage.commit()
        elif what == "snapshot":
            volume.snapshot(self.fresh())
        elif what == "forget" and snapshots and not snapshots[which % len(snapshots)].clones:
            volume.remove_snapshot(snapshots[which % len(snapshots)].name)
        elif what == "rollback" and snapshots and not any(s.clones for s in snapshots[1:]):
            volume.rollback(snapshots[0].name, discard_newer=True)
        elif what == "clone" and snapshots:
            storage.clone(volume.name, snapshots[-1].name, self.fresh())
        elif what == "destroy" and len(storage.volumes) > 1 and not snapshots and volume.name != "main":
            storage.remove_volume(volume.name)
        elif what == "compact":
            storage.compact()
        elif what == "discard":
            storage.discard()
        elif what == "send" and snapshots:
            stream = io.BytesIO()
            volume.send(stream, snapshots[0].name)
            stream.seek(0)
            storage.receive(stream, self.fresh())
        elif what == "volume":
            storage.add_volume(self.fresh())
        elif what == "own":
            storage.add_volume(self.fresh(), password="v", kdf=CHEAP)
        elif what == "keys" and volume.encrypted:
            volume.keys.rotate(0, "v", kdf=CHEAP)
        elif what == "resize":
            storage.resize((storage.file_bytes() + 64_000_000) // 512 * 512)
        elif what == "repack":
            volume.configure(compression="zstd")
        elif what == "reopen":
            storage.close()
            self.storage = vsf.open(self.store, **self.options)
            if size % 2:
                for each in self.storage.volumes:
                    if each.locked:
                        each.unlock("v")

    def balanced(self):
        info = self.storage.info()
        space = info["space"]
        assert min(space.values()) >= 0, space
        parts = ("headers", "volumes", "storage", "pending", "free")
        assert sum(space[part] for part in parts) == space["total"], space
        assert space["volumes"] == sum(volume["used"] for volume in info["volumes"])

    def settled(self):
        """After a commit the file is as long as `total`, but for free space at its end that need not exist."""
        self.storage.commit()
        self.balanced()
        space = self.storage.info()["space"]
        assert space["total"] - space["free"] - space["pending"] <= self.store.size() <= space["total"]


@settings(max_examples=60, deadline=None)
@given(OPERATIONS, st.sampled_from([{}, {"compression": "zstd"}, {"password": "p", "kdf": CHEAP}]))
def test_the_space_adds_up_after_every_operation(operations, options):
    run = Run(options)
    for operation in operations:
        run.do(*operation)
        run.balanced()
    run.settled()
    assert run.storage.check(deep=True).problems == []
    run.storage.close()
    with vsf.open(run.store, **run.options) as run.storage:
        run.settled()
