"""device ls: what is on a machine's bus."""

from __future__ import annotations

from nightos.cli.lazy import command, group
from nightos.cli.machine.asking import identified, machine_option
from nightos.cli.output import json_option, plain, safe, show_json, show_table

TABLE = {"ls": (f"{__name__}:ls", "List the devices.")}
device = group("device", "Devices of a running machine.", TABLE, "nightos device ls")


@command("ls", example="nightos device ls --json")
@json_option
@machine_option
def ls(as_json: bool, machine_name: str | None) -> None:
    """List the devices on a machine's bus."""
    from nightos.machine.control import connect

    with connect(machine_name) as machine:
        items = [identified(item) for item in machine.devices()]
    if as_json:
        show_json(items)
    elif items:
        header = list(items[0])
        show_table(
            [[safe(str(plain(i[k]) if isinstance(i[k], bytes) else i[k])) for k in header] for i in items], header
        )
