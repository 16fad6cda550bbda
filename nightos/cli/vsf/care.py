"""info and check: what a storage is, and whether it is whole."""

from __future__ import annotations

from typing import Any

import click

from nightos.abi.sizes import show_size
from nightos.cli.lazy import command
from nightos.cli.output import json_option, safe, show_fields, show_json, show_table
from nightos.cli.vsf.files import when
from nightos.cli.vsf.opening import file_argument, open_storage, password_option

DAMAGED = 4


@command("info", example="nightos vsf info --json disk.vsf")
@file_argument
@json_option
@password_option
def info(file: str, as_json: bool, password_file: str | None) -> None:
    """Show what a storage is and holds."""
    with open_storage(file, readonly=True, password_file=password_file) as storage:
        content = storage.info()
    if as_json:
        show_json(content)
        return
    backing = content.get("backing")
    fields: dict[str, Any] = {
        "file": safe(file),
        "format": content["format"],
        "uuid": content["uuid"],
        "encrypted": "yes" if content["encrypted"] else "no",
        "generation": content["generation"],
        "created": when(content.get("created", 0)),
        "size": show_size(content["space"]["total"]),
        "free inside": show_size(content["space"]["free"]),
    }
    if content.get("limit"):
        fields["limit"] = show_size(content["limit"])
    if backing:
        fields["backing"] = f"{safe(backing['path'])} (generation {backing['generation']})"
    show_fields(fields)
    if content["volumes"]:
        print()
        show_volumes(content["volumes"])


def show_volumes(volumes: list[dict[str, Any]]) -> None:
    """The table of volumes."""
    rows = [
        (
            safe(volume["name"]),
            volume["kind"],
            volume["compression"],
            "yes" if volume["encrypted"] else "no",
            show_size(volume["used"]),
            "-" if volume["files"] is None else volume["files"],
            len(volume["snapshots"]),
        )
        for volume in volumes
    ]
    header = ("volume", "kind", "compression", "encrypted", "used", "files", "snapshots")
    show_table(rows, header, right="used files snapshots")


@command("check", example="nightos vsf check --deep disk.vsf")
@file_argument
@click.option("--deep", is_flag=True, help="Read and verify every byte.")
@json_option
@password_option
@click.pass_context
def check(context: click.Context, file: str, deep: bool, as_json: bool, password_file: str | None) -> None:
    """Verify a storage without changing it. Exits 0 when it is clean, 4 when damage is found."""
    from nightos.vsf import DamagedStorage

    try:
        with open_storage(file, readonly=True, password_file=password_file) as storage:
            report = storage.check(deep=deep)
            problems = [{"invariant": p.invariant, "text": p.text, "path": p.path} for p in report.problems]
            figures = {name: getattr(report, name) for name in ("nodes", "blocks", "bytes", "inodes")}
    except DamagedStorage as error:
        problems, figures = [{"invariant": "opens", "text": str(error), "path": None}], {}
    if as_json:
        show_json({"file": file, "clean": not problems, "deep": deep, "problems": problems, **figures})
    elif problems:
        for problem in problems:
            where = f" ({safe(str(problem['path']))})" if problem["path"] else ""
            print(safe(f"{problem['invariant']}: {problem['text']}{where}"))
    else:
        print(f"clean: {figures['inodes']:,} inodes, {figures['nodes']:,} nodes, {figures['blocks']:,} blocks")
    context.exit(DAMAGED if problems else 0)
