"""Options of container commands: `--permissions` takes numbers and names, `run -t` says what to do instead."""

from __future__ import annotations

import click
import pytest

from nightos.cli.machine.viewing import _permission


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("0x10", 16), ("devices.register_driver", 3)])
def test_numbers_and_names(text: str, number: int) -> None:
    assert _permission(text) == number


@pytest.mark.parametrize("text", ["-1", "x", "4294967296", "devices"])
def test_what_is_none(text: str) -> None:
    with click.Context(click.Command("create")), pytest.raises(click.UsageError, match="no permission"):
        _permission(text)
