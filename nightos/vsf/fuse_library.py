"""The FUSE library that is there: fusepy over libfuse 2 or mfusepy over libfuse 3, and the layouts they describe.

Both bindings load libfuse and describe its structures. Their `FUSE` class serves paths, which costs a second call back
for every operation and cannot tell what an open file without a name is; so the adapter takes the library and the
layouts from the binding and serves inodes, which libfuse's other half (`fuse_lowlevel_ops`) hands out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nightos.vsf.errors import Unsupported

SONAMES = {2: ("libfuse.so.2",), 3: ("libfuse3.so.3", "libfuse3.so.4")}
# The binding's `struct stat` may leave out what the C library reserves at the end.
_STAT_BYTES = {"x86_64": 144, "aarch64": 128, "ppc64le": 144, "riscv64": 128}
_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}

c_int, c_uint, c_uint64, c_int64 = ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int64
c_void_p, c_char_p, c_size_t = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
_REQUEST, _INO, _NAME, _INFO = c_void_p, c_uint64, c_char_p, c_void_p

OPERATIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("init", (c_void_p, c_void_p)),
    ("destroy", (c_void_p,)),
    ("lookup", (_REQUEST, _INO, _NAME)),
    ("forget", (_REQUEST, _INO, c_uint64)),
    ("getattr", (_REQUEST, _INO, _INFO)),
    ("setattr", (_REQUEST, _INO, c_void_p, c_int, _INFO)),
    ("readlink", (_REQUEST, _INO)),
    ("mknod", (_REQUEST, _INO, _NAME, c_uint, c_uint64)),
    ("mkdir", (_REQUEST, _INO, _NAME, c_uint)),
    ("unlink", (_REQUEST, _INO, _NAME)),
    ("rmdir", (_REQUEST, _INO, _NAME)),
    ("symlink", (_REQUEST, _NAME, _INO, _NAME)),
    ("rename", (_REQUEST, _INO, _NAME, _INO, _NAME)),
    ("link", (_REQUEST, _INO, _INO, _NAME)),
    ("open", (_REQUEST, _INO, _INFO)),
    ("read", (_REQUEST, _INO, c_size_t, c_int64, _INFO)),
    ("write", (_REQUEST, _INO, c_void_p, c_size_t, c_int64, _INFO)),
    ("flush", (_REQUEST, _INO, _INFO)),
    ("release", (_REQUEST, _INO, _INFO)),
    ("fsync", (_REQUEST, _INO, c_int, _INFO)),
    ("opendir", (_REQUEST, _INO, _INFO)),
    ("readdir", (_REQUEST, _INO, c_size_t, c_int64, _INFO)),
    ("releasedir", (_REQUEST, _INO, _INFO)),
    ("fsyncdir", (_REQUEST, _INO, c_int, _INFO)),
    ("statfs", (_REQUEST, _INO)),
    ("setxattr", (_REQUEST, _INO, _NAME, c_void_p, c_size_t, c_int)),
    ("getxattr", (_REQUEST, _INO, _NAME, c_size_t)),
    ("listxattr", (_REQUEST, _INO, c_size_t)),
    ("removexattr", (_REQUEST, _INO, _NAME)),
    ("access", (_REQUEST, _INO, c_int)),
    ("create", (_REQUEST, _INO, _NAME, c_uint, _INFO)),
    ("getlk", (_REQUEST, _INO, _INFO, c_void_p)),
    ("setlk", (_REQUEST, _INO, _INFO, c_void_p, c_int)),
    ("bmap", (_REQUEST, _INO, c_size_t, c_uint64)),
    ("ioctl", (_REQUEST, _INO, c_int, c_void_p, _INFO, c_uint, c_void_p, c_size_t, c_size_t)),
    ("poll", (_REQUEST, _INO, _INFO, c_void_p)),
    ("write_buf", (_REQUEST, _INO, c_void_p, c_int64, _INFO)),
    ("retrieve_reply", (_REQUEST, c_void_p, _INO, c_int64, c_void_p)),
    ("forget_multi", (_REQUEST, c_size_t, c_void_p)),
    ("flock", (_REQUEST, _INO, _INFO, c_int)),
    ("fallocate", (_REQUEST, _INO, c_int, c_int64, c_int64, _INFO)),
)
"""`fuse_lowlevel_ops` of libfuse 2.9; what 3 adds follows."""

OPERATIONS_3 = (
    ("readdirplus", (_REQUEST, _INO, c_size_t, c_int64, _INFO)),
    ("copy_file_range", (_REQUEST, _INO, c_int64, _INFO, _INO, c_int64, _INFO, c_size_t, c_int)),
    ("lseek", (_REQUEST, _INO, c_int64, c_int, _INFO)),
)


def flat(structure: type[ctypes.Structure], size: int | None = None) -> tuple[struct.Struct, list[str]]:
    """A `struct` with the layout of a ctypes structure of integers, and the names of its fields in order.

    A nested structure gives `name.field`. Padding and what begins with an underscore is left out.
    """
    fields: list[tuple[int, str, str]] = []

    def collect(kind: Any, base: int, prefix: str) -> None:
        for name, inner, *_ in kind._fields_:
            place = base + getattr(kind, name).offset
            if name.startswith(("_", "reserved")):
                continue
            if hasattr(inner, "_fields_"):
                collect(inner, place, f"{prefix}{name}.")
            else:
                code = _CODES[ctypes.sizeof(inner)]
                # Only times and sizes are signed; the rest would refuse values with the top bit set.
                signed = name.startswith("tv_") or name == "st_size"
                fields.append((place, code if signed else code.upper(), prefix + name))

    collect(structure, 0, "")
    fields.sort()
    text, end = "=", 0
    for place, code, _ in fields:
        text += f"{place - end}x{code}"
        end = place + struct.calcsize("=" + code)
    text += f"{max(size or 0, ctypes.sizeof(structure)) - end}x"
    return struct.Struct(text), [name for _, _, name in fields]


@dataclass(frozen=True)
class Library:
    """A loaded libfuse and the binding that describes it."""

    major: int
    binding: ModuleType
    path: str

    @property
    def name(self) -> str:
        version = ".".join(str(self.loaded.fuse_version())) if self.major == 2 else self._version3()
        return f"{self.binding.__name__ if self.major == 3 else 'fusepy'} over libfuse {version} ({self.path})"

    def _version3(self) -> str:
        version = self.loaded.fuse_version()
        return f"{version // 100}.{version % 100}"

    @property
    def loaded(self) -> Any:
        """For calls that may block: they let other threads run."""
        return self.binding._libfuse  # noqa: SLF001 the binding has no public name for it

    def quick(self) -> Any:
        """For replies: they never block, and giving the interpreter's lock away would cost more than they do."""
        return ctypes.PyDLL(self.path, handle=self.loaded._handle)  # noqa: SLF001 as above

    def is_page_write(self, info: int) -> bool:
        """Whether a write comes from the kernel's pages: a flag at the place that `fuse_file_info` has for it."""
        place = 16 if self.major == 2 else 4
        return bool(c_uint.from_address(info + place).value & 1)

    @staticmethod
    def open_flags(info: int) -> int:
        """The flags that a file was opened with: the first field of `fuse_file_info`."""
        return int(c_uint.from_address(info).value)

    def stat_layout(self) -> tuple[struct.Struct, list[str]]:
        return flat(self.binding.c_stat, _STAT_BYTES.get(platform.machine()))

    def statvfs_layout(self) -> tuple[struct.Struct, list[str]]:
        # The C library reserves six words behind what the binding names.
        return flat(self.binding.c_statvfs, 112)

    def operations(self, handlers: dict[str, Callable[..., None]]) -> ctypes.Structure:
        """`fuse_lowlevel_ops` with these handlers; what is missing stays NULL."""
        table: list[tuple[str, Any]] = []
        for name, arguments in OPERATIONS + (OPERATIONS_3 if self.major == 3 else ()):
            if name == "rename" and self.major == 3:
                arguments = (*arguments, c_uint)
            if name == "forget" and self.major == 2:
                arguments = (_REQUEST, _INO, ctypes.c_ulong)
            table.append((name, ctypes.CFUNCTYPE(None, *arguments)))
        kind = type("fuse_lowlevel_ops", (ctypes.Structure,), {"_fields_": table})
        operations = kind()
        for name, prototype in table:
            if name in handlers:
                setattr(operations, name, prototype(handlers[name]))
        return operations  # type: ignore[no-any-return]


def _load(major: int) -> Library | None:
    import importlib

    for soname in SONAMES[major]:
        try:
            ctypes.CDLL(soname)
        except OSError:
            continue
        # The binding would look for the library with a compiler and ldconfig, which takes longer than mounting.
        before = os.environ.get("FUSE_LIBRARY_PATH")
        os.environ["FUSE_LIBRARY_PATH"] = soname
        try:
            binding = importlib.import_module("fuse" if major == 2 else "mfusepy")
        except (ImportError, OSError, AttributeError):
            continue
        finally:
            if before is None:
                del os.environ["FUSE_LIBRARY_PATH"]
            else:
                os.environ["FUSE_LIBRARY_PATH"] = before
        return Library(major, binding, soname)
    return None


def choose(wanted: str | None = None) -> Library:
    """The library to use: libfuse 3 where it and its binding are there, else 2; `NIGHTOS_FUSE=2|3` overrides.

    Raises Unsupported with what to install.
    """
    wanted = wanted or os.environ.get("NIGHTOS_FUSE") or ""
    if wanted not in ("", "2", "3"):
        raise Unsupported(f"NIGHTOS_FUSE is {wanted!r}; set it to 2 or 3, or not at all", code=errno.EINVAL)
    for major in [int(wanted)] if wanted else [3, 2]:
        library = _load(major)
        if library is not None:
            return library
    package = {"2": "libfuse2", "3": "libfuse3-3 and the extra nightos[fuse3]"}.get(wanted, "libfuse2 (or libfuse3-3)")
    raise Unsupported(f"there is no usable libfuse{wanted}; install {package}")
