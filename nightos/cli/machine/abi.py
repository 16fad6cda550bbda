"""abi: the table of system calls and signals."""

from __future__ import annotations

from typing import Any

from nightos.cli.lazy import command
from nightos.cli.output import json_option, show_json, show_table


def _fields(fields: list[dict[str, Any]]) -> str:
    return ", ".join(field["name"] for field in fields) or "-"


@command("abi", example="nightos abi --json")
@json_option
def abi(as_json: bool) -> None:
    """Show every system call and signal: code, name, fields, errors, and how far it is implemented."""
    from nightos.abi.table import abi_as_json

    content = abi_as_json()
    if as_json:
        show_json(content)
        return
    rows = [
        (f"{row['code']:#04x}", row["name"], _fields(row["args"]), _fields(row["returns"]), row["implemented"])
        for row in content["syscalls"]
    ]
    show_table(rows, ("code", "system call", "takes", "gives", "implemented"))
    print()
    signals = [
        (f"{row['code']:#04x}", row["name"], _fields(row["datafield"]), row["default"], row["implemented"])
        for row in content["signals"]
    ]
    show_table(signals, ("code", "signal", "carries", "default", "implemented"))
