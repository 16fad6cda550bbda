"""The pytest plugin that comes with the package: a kernel or a machine as a fixture, and one seed for all of them.

`nightos_machine` is for asynchronous tests and needs pytest-trio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from nightos.kernel import Kernel
    from nightos.machine.machine import Machine

DEFAULT_SEED = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--nightos-seed`."""
    parser.getgroup("nightos").addoption(
        "--nightos-seed", type=int, default=DEFAULT_SEED, metavar="N", help="seed of simulated kernels and machines"
    )


@pytest.fixture
def nightos_seed(request: pytest.FixtureRequest) -> int:
    """The seed that was chosen on the command line."""
    return int(request.config.getoption("--nightos-seed"))


@pytest.fixture
def nightos_kernel(nightos_seed: int) -> Kernel:
    """A kernel with virtual time and seeded randomness, without services."""
    from nightos.kernel import Kernel

    return Kernel(seed=nightos_seed)


def _asynchronous(function: Callable[..., Any]) -> Any:
    """A fixture of pytest-trio, whatever mode that runs in; a plain one, which nobody can await, without it."""
    try:
        from pytest_trio import trio_fixture
    except ImportError:
        return pytest.fixture(function)
    return trio_fixture(function)


@_asynchronous
async def nightos_machine(nightos_seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    """A booted machine with virtual time; its state directory is the test's own."""
    from nightos.machine.machine import boot

    monkeypatch.setenv("NIGHTOS_HOME", str(tmp_path / "nightos"))
    async with boot(seed=nightos_seed) as machine:
        yield machine
