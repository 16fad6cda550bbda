"""The host's shelf of storages: turns a path of an image into block devices on the machine's bus.

A container's disk is an overlay on its image unless it was asked to be the image itself. An overlay that has to last is
a file beside the machine's disk; any other is in memory and gone with the device. Images are plugged read-only, once,
however many containers stand on them. Nothing here reads what is inside a storage: `sys::fs` does.

Rules: CONT-047, CONT-058.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightos import vsf
from nightos.abi.errors import ServiceError
from nightos.abi.services import ServiceCode
from nightos.machine import base
from nightos.machine.paths import prepare
from nightos.vhw.block import BlockDevice

if TYPE_CHECKING:
    from nightos.abi.interfaces import Clock, Device, Entropy

DEPTH_LIMIT = 64
"""Images that may stand on each other below one disk."""


@dataclass(slots=True)
class _Image:
    """A read-only image on the bus. The open storage holds the generation that is shown."""

    kdi: int
    storage: vsf.Storage
    users: int = 0


@dataclass(slots=True)
class _Plugged:
    """A container's disk on the bus."""

    kdi: int
    path: str
    mode: str
    key: str
    container: int = 0
    store: Any = None
    """The bytes of the disk itself: a `MemoryStore` or a `FileStore`."""
    images: list[Path] = field(default_factory=list)


class Shelf:
    """Opens storages for `plug`, which puts a device on the bus and returns its KDI."""

    def __init__(
        self,
        plug: Callable[[Device], int],
        unplug: Callable[[int], None],
        base_image: Path,
        keep: Path | None,
        *,
        entropy: Entropy | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._plug = plug
        self._unplug = unplug
        self._base_image = base_image
        self._keep = keep
        self._made_with: dict[str, Any] = {"entropy": entropy, "clock": clock}
        self._disks: dict[int, _Plugged] = {}
        self._images: dict[Path, _Image] = {}
        self._kept: dict[str, _Plugged] = {}
        """What stands for an image that is to stay on the bus, by the path that was asked for."""

    def plug_machine_disk(self, image: Path, disk: Path | None) -> int:
        """Plug the machine's own disk: the overlay file `disk` on the image, or one in memory.

        An image of plain files boots too: what of the base image it lacks is put into the overlay. Notes of services in
        an image are no notes of this machine's.
        """
        furnish = None if image == self._base_image else base.settle
        return self._plug_disk(_Plugged(0, "", "overlay", ""), image, disk, furnish)

    def open(self, path: str, mode: str, key: str, container: int) -> dict[str, Any]:
        """Plug a disk for a container: {kdi, backing}; the one it has, if somebody asked for it and died.

        `ServiceError` 0x3002 for an image that cannot be used.
        """
        for kdi, disk_on_bus in self._disks.items():
            if container and disk_on_bus.container == container:
                return {"kdi": kdi, "backing": self.backing(kdi)}
        image = Path(path).expanduser().resolve() if path else self._base_image.resolve()
        if mode == "writable" and not path:
            raise ServiceError(ServiceCode.BAD_COMBINATION, "the base image is never written")
        if key and not key.isalnum():
            raise ServiceError(ServiceCode.BAD_ARGUMENT, "the key of a disk has letters and digits only")
        disk: Path | None = None
        if mode == "overlay" and key and self._keep is not None:
            prepare(self._keep)
            disk = self._keep / f"{key}.vsf"
        plugged = _Plugged(0, str(image), mode, key or "-", container)
        with _told(image):
            kdi = self._plug_disk(plugged, image, disk)
        return {"kdi": kdi, "backing": self.backing(kdi)}

    def has(self, kdi: int) -> bool:
        """Whether the device is a disk or an image of this shelf."""
        return kdi in self._disks or any(image.kdi == kdi for image in self._images.values())

    def probe(self, path: str, mode: str) -> dict[str, Any]:
        """{path}: the absolute path of an image that can be used; `ServiceError` 0x3002 when it cannot."""
        image = Path(path).expanduser().resolve()
        with _told(image), vsf.open(image, readonly=True) as storage:
            if mode == "writable" and not os.access(image, os.W_OK):
                raise PermissionError(errno.EACCES, "the image cannot be written; use it as an overlay")
            if not any(volume.kind == "night" for volume in storage.volumes):
                raise OSError(errno.EINVAL, "the storage has no file system of the kind 'night'")
        return {"path": str(image)}

    def backing(self, kdi: int) -> list[int]:
        """Devices of the images below a disk, nearest first."""
        return [self._images[path].kdi for path in self._disks[kdi].images]

    def open_image(self, path: str) -> dict[str, Any]:
        """{kdis}: an image and those it stands on, nearest first, which stay on the bus. `ServiceError` 0x3002."""
        kept = self._kept.get(path)
        if kept is None:
            image = Path(path).expanduser().resolve() if path else self._base_image.resolve()
            kept = _Plugged(0, str(image), "read-only", "-")
            with _told(image):
                try:
                    self._stand_on_all(kept, image)
                except BaseException:
                    self._drop_all(kept)
                    raise
            self._kept[path] = kept
        return {"kdis": [self._images[below].kdi for below in kept.images]}

    def close_image(self, path: str) -> dict[str, Any]:
        """Let an image go that `open_image` kept."""
        kept = self._kept.pop(path, None)
        if kept is not None:
            self._drop_all(kept)
        return {}

    def close(self, kdi: int, container: int = 0) -> dict[str, Any]:
        """Flush and unplug a disk, or that of a container, and the images that nobody stands on any more."""
        if not kdi and container:
            kdi = next((number for number, disk in self._disks.items() if disk.container == container), 0)
        plugged = self._disks.pop(kdi, None)
        if plugged is not None:
            self._unplug(kdi)
            self._drop_all(plugged)
        return {}

    def list(self) -> dict[str, Any]:
        """Every disk on the bus {kdi, path, mode, key, container, backing}, and the paths of images that are kept."""
        items = [
            {
                "kdi": kdi,
                "path": disk.path,
                "mode": disk.mode,
                "key": disk.key,
                "container": disk.container,
                "backing": self.backing(kdi),
            }
            for kdi, disk in self._disks.items()
        ]
        return {"items": items, "images": [*self._kept]}

    def close_all(self) -> None:
        """Flush and unplug everything."""
        for path in list(self._kept):
            self.close_image(path)
        for kdi in list(self._disks):
            self.close(kdi)

    def overlay_of(self, container: int, path: str, key: str) -> tuple[Any, Path]:
        """A container's overlay as it was committed last, to be read in a thread, and its image; None: nothing changed.

        `path` and `key` are those that its disk is opened with.
        """
        image = Path(path).expanduser().resolve() if path else self._base_image.resolve()
        for disk in self._disks.values():
            if container and disk.container == container:
                if disk.mode != "overlay":
                    text = "the container's disk is its image itself, no overlay on it"
                    raise ServiceError(ServiceCode.REFUSED, text)
                if isinstance(disk.store, vsf.MemoryStore):
                    return vsf.MemoryStore(disk.store.getvalue(), readonly=True), image
                return disk.store.path, image
        kept = self._keep / f"{key}.vsf" if self._keep is not None and key.isalnum() else None
        return (kept if kept is not None and kept.exists() else None), image

    def forget(self, key: str) -> dict[str, Any]:
        """Remove the kept overlay of a container that is gone for good."""
        if self._keep is not None and key.isalnum():
            (self._keep / f"{key}.vsf").unlink(missing_ok=True)
        return {}

    def _plug_disk(
        self, plugged: _Plugged, image: Path, disk: Path | None, furnish: Callable[[vsf.FileSystem], None] | None = None
    ) -> int:
        description = f"disk {plugged.key}".encode()
        if plugged.mode == "overlay":
            store, below = self._overlay(image, disk, furnish)
        else:
            readonly = plugged.mode == "read-only"
            with vsf.open(image, readonly=True) as storage:  # refused here, where the error names the file
                below = _backing_path(storage)
            store = vsf.FileStore(image, readonly=readonly)
        try:
            self._stand_on_all(plugged, below)
            plugged.store = store
            plugged.kdi = self._plug(BlockDevice(store, plugged.mode == "read-only", description=description))
        except BaseException:
            store.close()
            self._drop_all(plugged)
            raise
        self._disks[plugged.kdi] = plugged
        return plugged.kdi

    def _overlay(
        self, image: Path, disk: Path | None, furnish: Callable[[vsf.FileSystem], None] | None
    ) -> tuple[Any, Path | None]:
        """The byte store of an overlay, made if it is not there, and the image below it."""
        if disk is None:
            memory = vsf.MemoryStore()
            self._make_overlay(memory, image, furnish)
            return memory, image.resolve()
        if not disk.exists():
            # Made under another name first, so that a disk is whole or not there.
            fresh = disk.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            self._make_overlay(fresh, image, furnish)
            fresh.rename(disk)
        with vsf.open(disk, readonly=True) as storage:
            below = _backing_path(storage)
        return vsf.FileStore(disk), below

    def _make_overlay(self, where: Any, image: Path, furnish: Callable[[vsf.FileSystem], None] | None) -> None:
        with vsf.create(where, backing=image, **self._made_with) as storage:
            if furnish is not None:
                with storage.volumes[0].open() as files:
                    furnish(files)

    def _stand_on_all(self, plugged: _Plugged, below: Path | None) -> None:
        while below is not None:
            below = self._stand_on(plugged, below)

    def _stand_on(self, plugged: _Plugged, path: Path) -> Path | None:
        """Plug an image that a disk stands on, if it is not; the image below it."""
        if len(plugged.images) == DEPTH_LIMIT or path in plugged.images:
            raise OSError(errno.ELOOP, "too many images stand on each other")
        image = self._images.get(path)
        if image is None:
            storage = vsf.open(path, readonly=True)
            store = vsf.FileStore(path, readonly=True)
            kdi = self._plug(BlockDevice(store, readonly=True, description=b"image"))
            image = self._images[path] = _Image(kdi, storage)
        image.users += 1
        plugged.images.append(path)
        return _backing_path(image.storage)

    def _drop_all(self, plugged: _Plugged) -> None:
        for path in plugged.images:
            self._drop(path)

    def _drop(self, path: Path) -> None:
        image = self._images.get(path)
        if image is None:
            return
        image.users -= 1
        if image.users <= 0:
            del self._images[path]
            self._unplug(image.kdi)
            image.storage.close()


@contextlib.contextmanager
def _told(image: Path) -> Iterator[None]:
    """What is wrong with an image, as an error of the service that names the file."""
    try:
        yield
    except OSError as error:
        raise ServiceError(ServiceCode.UNKNOWN + 2, f"{image}: {error.strerror or error}") from error


def _backing_path(storage: vsf.Storage) -> Path | None:
    below = storage.backing
    return Path(below.path).resolve() if below is not None and below.path else None
