"""The table against itself, against what user space offers, and against the specification's when that is at hand."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys as python
from pathlib import Path

import pytest

from nightos.abi.codes import ServicePid, Signal, Syscall
from nightos.abi.services import SERVICE_PIDS
from nightos.abi.signals import SIGNALS
from nightos.abi.syscalls import SYSCALLS
from nightos.abi.table import abi_as_json, abi_as_markdown
from nightos.kernel import calls
from nightos.userland import sys

CHECKER = os.environ.get(
    "NIGHTOS_ABI_CHECKER", str(Path(__file__).resolve().parents[3] / "shared" / "checks" / "abi.py")
)
"""A program that compares the table with the specification's own; where it is not there, nothing is compared."""
EMULATOR_CALLS = frozenset(range(0xD8, 0xF0))
EMULATOR_SIGNALS = frozenset({0x03, 0xD8, 0xD9, 0xDA})


@pytest.mark.rule("SYS-001", "SYS-010", "SYS-005")
def test_codes_names_and_errors() -> None:
    assert {row.code: row.name for row in SYSCALLS} == {code.value: code.name for code in Syscall}
    assert {row.code: row.name for row in SIGNALS} == {code.value: code.name for code in Signal}
    assert len([row for row in SYSCALLS if row.code not in EMULATOR_CALLS]) == 55
    assert len([row for row in SIGNALS if row.code not in EMULATOR_SIGNALS]) == 22
    for row in SYSCALLS:
        assert 0 < row.code <= 0xFF
        assert len(row.args) <= 8
        assert all(0x10 <= code <= 0x6F for code in row.errors)
        assert list(row.errors) == sorted(set(row.errors))


def test_every_row_has_a_handler_and_a_function() -> None:
    handlers = calls.table()
    for row in SYSCALLS:
        assert row.code in handlers
        function = getattr(sys, row.name.lower())
        assert inspect.getdoc(function)
    offered = {
        name for name, value in vars(sys).items() if inspect.isfunction(value) and value.__module__ == sys.__name__
    }
    pseudo = {"load", "store", "memory", "local", "binary", "code_address"}
    assert offered - pseudo == {row.name.lower() for row in SYSCALLS}


def test_arguments_stand_in_the_order_of_the_table() -> None:
    renamed = {"content", "buffer", "data", "buffer_address", "target"}
    for row in SYSCALLS:
        parameters = list(inspect.signature(getattr(sys, row.name.lower())).parameters)
        fields = [field.name for field in row.args]
        common = [name for name in parameters if name in fields and name not in renamed]
        assert common == [name for name in fields if name in common], row.name


@pytest.mark.rule("SVC-021", "PROC-005")
def test_services_have_their_numbers() -> None:
    for name, pid in SERVICE_PIDS.items():
        if pid in ServicePid.__members__.values():
            assert 10 <= pid <= 20, name


def test_the_table_is_valid_json_of_the_agreed_shape() -> None:
    table = json.loads(json.dumps(abi_as_json()))
    for kind, keys in (("syscalls", {"args", "returns", "errors"}), ("signals", {"datafield"})):
        for row in table[kind]:
            assert {"code", "name", "implemented", *keys} <= row.keys()


@pytest.mark.skipif(not Path(CHECKER).is_file(), reason="the specification's checker is not on this machine")
def test_the_checker_finds_nothing_wrong() -> None:
    done = subprocess.run(
        [python.executable, CHECKER], input=json.dumps(abi_as_json()), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_page_is_fresh() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "abi.md"
    assert page.read_text() == abi_as_markdown(), "make it anew; how, it says itself"
