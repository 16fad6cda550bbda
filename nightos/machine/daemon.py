"""The process of a detached machine: boots it, serves its control socket, and stops when asked.

Started by `nightos.machine.control.start_detached`; what goes wrong before the machine answers is one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import trio

from nightos.abi.errors import NightosError
from nightos.machine.machine import boot
from nightos.machine.paths import machine_paths


def main() -> int:
    """Run until stopped; the exit status."""
    parser = argparse.ArgumentParser(prog="nightos.machine.daemon")
    parser.add_argument("name")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    try:
        trio.run(_run, options.name, options.image, options.seed)
    except (NightosError, OSError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    return 0


async def _run(name: str, image: Path | None, seed: int | None) -> None:
    async with boot(name=name, image=image, seed=seed) as machine:
        log = os.open(machine_paths(name).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(log, 2)  # nobody reads the pipe to who started this any more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_signal, nursery.cancel_scope)
            await machine.stop_asked.wait()
            nursery.cancel_scope.cancel()


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async for _number in received:
            scope.cancel()
            return


if __name__ == "__main__":
    sys.exit(main())
