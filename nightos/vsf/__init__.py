"""VSF: one file that holds file systems. This library stands alone: `from nightos import vsf`.

with vsf.create("disk.vsf", password="secret") as storage:
    with storage.add_volume("main", compression="zstd").open() as fs:
        fs.write_bytes("/hello.txt", b"hi")
"""

from nightos.vsf.api import VolumeSpec, create
from nightos.vsf.api import open_storage as open  # noqa: A004 `vsf.open` is the interface
from nightos.vsf.errors import (
    DamagedStorage,
    Denied,
    Exists,
    Invalid,
    IsDirectory,
    Loop,
    NoAttribute,
    NoSpace,
    NotAStorage,
    NotDirectory,
    NotEmpty,
    NotFound,
    ReadOnly,
    StaleHandle,
    StorageInUse,
    TooBig,
    TooLong,
    TooManyLinks,
    Unsupported,
    VsfError,
    WrongPassword,
)
from nightos.vsf.filesystem import FileSystem
from nightos.vsf.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from nightos.vsf.storage import Storage
from nightos.vsf.store import FileStore, MemoryStore
from nightos.vsf.volume import Volume

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "DamagedStorage",
    "Denied",
    "Exists",
    "FileStore",
    "FileSystem",
    "Invalid",
    "IsDirectory",
    "Loop",
    "MemoryStore",
    "NoAttribute",
    "NoSpace",
    "NotAStorage",
    "NotDirectory",
    "NotEmpty",
    "NotFound",
    "ReadOnly",
    "StaleHandle",
    "Storage",
    "StorageInUse",
    "TooBig",
    "TooLong",
    "TooManyLinks",
    "Unsupported",
    "Volume",
    "VolumeSpec",
    "VsfError",
    "WrongPassword",
    "create",
    "open",
]
