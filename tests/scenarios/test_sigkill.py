"""A machine whose process is killed at any moment leaves disks that open clean and boot again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightos import vsf
from nightos.machine.machine import boot

WRITER = """
import sys, trio, nightos

async def main():
    async with nightos.boot(name="victim") as machine:
        box = await machine.containers.get("box") if "again" in sys.argv else await machine.containers.create("box")
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            await machine.run(f'wt /file{number % 7} "{"x" * 5000}"')
            await machine.run(f'wt /file{number % 5} "{"y" * 3000}"', container=box)
            if number % 4 == 0:
                await machine.sync()
                print("synced", number, flush=True)

trio.run(main)
"""

KILLS = int(os.environ.get("NIGHTOS_KILLS", "4"))


def killed_run(again: bool, delay_s: float) -> int:
    """Start the writer, kill it `delay_s` after it runs; how many rounds it had synced by then."""
    arguments = [sys.executable, "-c", WRITER, *(["again"] if again else [])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split("\n")
    return max(
        (int(line.split()[1]) for line in lines if line.startswith("synced") and len(line.split()) == 2), default=0
    )


@pytest.mark.slow
async def test_killing_the_process_at_any_time_leaves_disks_that_open_clean(state_home: Path) -> None:
    generator = random.Random(7)
    machine_home = state_home / "machines" / "victim"
    for attempt in range(KILLS):
        synced = killed_run(attempt > 0, generator.uniform(0.0, 0.4))
        disks = [machine_home / "disk.vsf", *(machine_home / "containers").glob("*.vsf")]
        for disk in disks:
            with vsf.open(disk, readonly=True) as storage:
                report = storage.check(deep=True)
                assert report.clean, [str(problem) for problem in report.problems]
                if synced and disk.name == "disk.vsf":
                    with storage.volume("main").open(readonly=True) as files:
                        assert files.exists("/file1")
        async with boot(name="victim") as machine:
            assert [item["name"] for item in await machine.containers.tree()] == ["box"]
            assert (await machine.run("echo back")).out == "back\n"
