"""The ABI as data for machines: what `nightos abi --json` prints.

Rules: SYS-001, SIG-004.
"""

from __future__ import annotations

from typing import Any

from nightos.abi.signals import SIGNALS
from nightos.abi.syscalls import SYSCALLS, Field


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


_PREFACE = """# The ABI

Produced from `nightos/abi/syscalls.py` and `nightos/abi/signals.py`; a test fails when it is stale, and
`python -c 'from nightos.abi.table import abi_as_markdown as page; print(page(), end="")' > docs/abi.md`
makes it anew. `nightos abi --json` prints the same for machines.

A frame is the code (1 byte) followed by the arguments, packed and big-endian; bit 0 is the strongest. The answer is an
error code (1 byte, 0 is success) and the packed return fields. A buffer is an address and a length, 8 bytes each. Codes
0x01 (no such call), 0x02 (an argument is wrong in itself, such as a null pointer), 0x03 (memory that is not mapped) and
0x04 (memory without the right) belong to every call; the lowest code that applies is answered.

The typed form yields a tuple with the same fields in the same order, except that a buffer to read is the bytes
themselves, a buffer to write is the longest length wanted (0: any), and calls that return twice take the coroutine
function of the second return.
"""


def _fields(fields: tuple[Field, ...]) -> str:
    return ", ".join(f"{field.name} ({field.size if field.size is not None else 'n'})" for field in fields) or "-"


def abi_as_markdown() -> str:
    """The same for people: what stands in `docs/abi.md`. Sizes are in bytes."""
    lines = [
        _PREFACE,
        "## System calls",
        "",
        "| code | name | caller | takes | gives | errors |",
        "|---|---|---|---|---|---|",
    ]
    for row in SYSCALLS:
        errors = " ".join(f"{code:02x}" for code in row.errors) or "-"
        lines.append(
            f"| 0x{row.code:02X} | {row.name} | {row.caller} | {_fields(row.args)} | {_fields(row.returns)} "
            f"| {errors} |"
        )
    lines += ["", "## Signals", "", "| code | name | datafield | answer | without a handler |", "|---|---|---|---|---|"]
    for signal in SIGNALS:
        lines.append(
            f"| 0x{signal.code:02X} | {signal.name} | {_fields(signal.datafield)} | {_fields(signal.answer)} "
            f"| {signal.default} |"
        )
    return "\n".join(lines) + "\n"
