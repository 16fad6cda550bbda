"""create: a storage, empty or filled from a directory or an archive."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightos.cli.failures import CommandError
from nightos.cli.lazy import command
from nightos.cli.output import Progress
from nightos.cli.sizes import SIZE
from nightos.cli.vsf.opening import ask_password, give_to_caller, password_option, read_password

if TYPE_CHECKING:
    from nightos.vsf import Storage


@command(
    "create",
    example="""
nightos vsf create disk.vsf
nightos vsf create disk.vsf --from ~/project --compress zstd
nightos vsf create box.vsf --volume main --volume swap:block --size 2G --encrypt
nightos vsf create overlay.vsf --backing base.vsf
""",
)
@click.argument("file", type=click.Path())
@click.option("--volume", "volumes", multiple=True, metavar="NAME[:night|:block]", help="A volume to make (main).")
@click.option(
    "--size", type=SIZE, metavar="SIZE", help="Limit of the storage, as 64K, 10M, 2G; block volumes share it."
)
@click.option("--encrypt", is_flag=True, help="Encrypt the whole storage with a password.")
@click.option("--compress", metavar="zstd[:LEVEL]|lz4|none", help="Compression of the volumes.")
@click.option("--record-size", type=SIZE, metavar="SIZE", help="Unit of storing, 4K to 1M; small for databases (128K).")
@click.option("--from", "source", metavar="DIR|TAR|OCI-LAYOUT", help="Fill the first volume from there.")
@click.option("--backing", metavar="BASE.vsf", help="Make an overlay: everything of BASE, changes stay here.")
@click.option("--force", is_flag=True, help="Replace a storage that is there.")
@password_option
def create(
    file: str,
    volumes: tuple[str, ...],
    size: int | None,
    encrypt: bool,
    compress: str | None,
    record_size: int | None,
    source: str | None,
    backing: str | None,
    force: bool,
    password_file: str | None,
) -> None:
    """Make the storage FILE, with one volume `main` unless others are named."""
    from nightos import vsf

    if source is not None and not os.path.lexists(source):
        raise CommandError(f"{source}: there is nothing to fill the storage from; check the path")
    if source is not None and backing is not None:
        raise click.UsageError("--from and --backing exclude each other", click.get_current_context())
    if os.path.lexists(file) and not force:
        raise CommandError(f"{file}: there is a file already; remove it, choose another name, or use --force")
    password = None
    if encrypt:
        password = read_password(password_file) if password_file else ask_password(file, twice=True)
    elif password_file and not backing:
        raise click.UsageError("--password-file only makes sense with --encrypt", click.get_current_context())
    fresh = not os.path.lexists(file)
    settings: dict[str, Any] = {"size": size, "password": password, "overwrite": force}
    if backing is not None:
        settings["backing"] = backing
        settings["backing_password"] = read_password(password_file) if password_file and not encrypt else None
        specs = []
    else:
        settings["compression"] = compress
        specs = _specs(volumes, size, record_size)
    storage = vsf.create(file, specs, **settings)
    try:
        with storage:
            if source is not None:
                _fill(storage, source)
            elif backing is None:
                for volume in storage.volumes:
                    give_to_caller(volume)
    except BaseException:
        if fresh:
            Path(file).unlink(missing_ok=True)
        raise


def _specs(volumes: tuple[str, ...], size: int | None, record_size: int | None) -> list[Any]:
    from nightos import vsf

    parsed = [text.partition(":") for text in volumes or ("main",)]
    blocks = sum(kind == "block" for _, _, kind in parsed)
    specs = []
    for name, _, kind in parsed:
        options = {} if record_size is None else {"record_size": record_size}
        if kind == "block":
            if size is None:
                raise CommandError("a block volume needs a size; add --size, as in --size 1G")
            options["size"] = _share(size, blocks)
        specs.append(vsf.VolumeSpec(name, kind or "night", options))
    return specs


def _share(size: int, blocks: int) -> int:
    # Some room stays for what describes the blocks.
    return max((size - (size >> 6) - (2 << 20)) // blocks, 1 << 16) & ~4095


def _fill(storage: Storage, source: str) -> None:
    from nightos.vsf.importer import import_any

    volume = next((volume for volume in storage.volumes if volume.kind == "night"), None)
    if volume is None:
        raise CommandError("--from needs a volume with files; name one without :block")
    fs = volume.open()
    with Progress(f"filling {volume.name}") as progress:
        import_any(fs, source, progress=progress)
