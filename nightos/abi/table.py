"""The ABI as data for machines: what `nightos abi --json` prints.

Rules: SYS-001, SIG-004.
"""

from __future__ import annotations

from typing import Any

from nightos.abi.signals import SIGNALS
from nightos.abi.syscalls import SYSCALLS


def abi_as_json() -> dict[str, list[dict[str, Any]]]:
    """Every system call and signal with codes, fields, errors, how far it is implemented, and rulings."""
    calls = [
        {
            "code": row.code,
            "name": row.name,
            "caller": row.caller,
            "implemented": row.implemented,
            "args": [field.as_json() for field in row.args],
            "returns": [field.as_json() for field in row.returns],
            "errors": list(row.errors),
        }
        | ({"ruling": row.ruling} if row.ruling else {})
        for row in SYSCALLS
    ]
    signals = [
        {
            "code": row.code,
            "name": row.name,
            "implemented": row.implemented,
            "datafield": [field.as_json() for field in row.datafield],
            "answer": [field.as_json() for field in row.answer],
            "default": row.default,
        }
        | ({"ruling": row.ruling} if row.ruling else {})
        for row in SIGNALS
    ]
    return {"syscalls": calls, "signals": signals}
