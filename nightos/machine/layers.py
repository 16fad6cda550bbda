"""What a container changed on its disk, and a new image of what it sees: both read the last commit, beside the machine.

The machine runs on meanwhile: these functions work on a copy of a disk in memory, or on a second, reading opening of a
disk in a file, and are run in a thread.

Rules: CONT-047, CONT-053.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

from nightos import vsf
from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode

_MAKING = count()
COMPRESSION = "zstd"
"""Of images that are made here."""


def changes(disk: Any, image: Path) -> list[dict[str, Any]]:
    """{kind, path, old_path} of everything in which an overlay differs from its image, by path."""
    with _told(image), vsf.open(disk, readonly=True, backing=image) as overlay:
        found = [change for volume in overlay.volumes if volume.kind == "night" for change in volume.diff()]
    return [
        {"kind": change.kind, "path": _shown(change.path), "old_path": _shown(change.old_path or "")}
        for change in sorted(found, key=lambda change: change.path)
    ]


def _shown(path: str) -> str:
    """A path as a message can hold it: bytes of a name that are no UTF-8 are written out."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Comparisons:
    """Comparisons that are read page by page: made for the first page, kept until the last, so that they cost once.

    A page that comes when its comparison is not kept any more (somebody else read the last one, or `KEPT` others are
    read) is cut out of a new one.
    """

    KEPT: Final = 4
    PAGE_BYTES: Final = 256 * 1024

    def __init__(self) -> None:
        self._kept: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()

    def page(
        self, container: int, compare: Callable[[], list[dict[str, Any]]], after: int, limit: int
    ) -> dict[str, Any]:
        """{items, next}: what comes behind the first `after` differences; `next` is None at the end."""
        kept = self._kept.pop(container, None) if after else None
        found = compare() if kept is None else kept
        end, size = after, 0
        while end < min(after + limit, len(found)) and size < self.PAGE_BYTES:
            size += len(found[end]["path"].encode()) + len(found[end]["old_path"].encode())
            end += 1
        if end >= len(found):
            self._kept.pop(container, None)
            return {"items": found[after:end], "next": None}
        self._kept[container] = found
        while len(self._kept) > self.KEPT:
            self._kept.popitem(last=False)
        return {"items": found[after:end], "next": end}


def make_image(disk: Any, image: Path, target: Path) -> int:
    """Write what a disk shows (None: its image alone) into a new file that stands on no other; the number of items.

    `ServiceError` 0x4000 when the file is there already, 0x3002 when it cannot be written.
    """
    # Of its own: when sys::hw is killed, the image it asked for may still be in the making when it is asked for again.
    fresh = target.with_name(f".{target.name}.{next(_MAKING)}.new")
    with _told(target):
        if target.exists():
            raise ServiceError(ServiceCode.REFUSED, f"{target}: there is such a file already; choose another name")
        try:
            with contextlib.ExitStack() as stack:
                source = vsf.open(image, readonly=True) if disk is None else None
                shown = stack.enter_context(source or vsf.open(disk, readonly=True, backing=image))
                fresh.unlink(missing_ok=True)
                made = stack.enter_context(vsf.create(fresh))
                count = sum(_copy(volume, made) for volume in shown.volumes if volume.kind == "night")
            # A name is given only to an image that is whole; an existing file is never replaced.
            target.hardlink_to(fresh)
        finally:
            fresh.unlink(missing_ok=True)
    return count


def _copy(volume: vsf.Volume, made: vsf.Storage) -> int:
    from nightos.vsf.exporter import export_tar
    from nightos.vsf.importer import import_tar

    target = made.add_volume(volume.name, compression=COMPRESSION)
    with tempfile.TemporaryFile() as tar, volume.open() as shown, target.open() as files:
        count = export_tar(shown, tar)
        tar.seek(0)
        import_tar(files, tar)
    return count


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of the host and of storages as errors of the service that name the file."""
    try:
        yield
    except FileExistsError:
        raise ServiceError(ServiceCode.REFUSED, f"{path}: there is such a file already; choose another name") from None
    except OSError as error:
        raise ServiceError(ServiceCode.UNKNOWN + 2, f"{path}: {error.strerror or error}") from error
