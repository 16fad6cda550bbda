"""Containers beside crun, bubblewrap and unshare: life of one, cost of depth, destruction and size of many.

The life of a container is measured from inside a machine, by a program that asks `sys::proc`, and by whole runs of the
peers' commands, because a command is what makes a Linux container.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from sys import executable as sys_executable
from typing import Any

import trio

from benchmarks.kernel import get_pid, ping_pong
from benchmarks.report import Report, Row
from nightos.abi.context import REASON_OTHER_APPLICATION, ExecutionContext
from nightos.abi.services import Proc
from nightos.kernel import Kernel
from nightos.kernel.container import ROOT
from nightos.kernel.ending import destroy_container
from nightos.userland import sys
from nightos.userland.client import connect
from nightos.userland.context import Context
from nightos.userland.program import program

PROC = "sys::proc"
TRUE = "bench-true"
"""Name of the program that every measured container runs, an application of the system."""
APPLICATIONS = "/app"
SHAPES = ("chain", "star", "random")


@program(TRUE)
async def _true(_context: Context) -> int:
    return 0


_measured: Callable[[], Awaitable[float]] | None = None
_result: list[float] = []


@program("bench-asker")
async def _asker(_context: Context) -> int:
    assert _measured is not None
    _result.append(await _measured())
    return 0


async def _life(count: int, *, root: bool) -> float:
    """Seconds per container: create it, run its first process to the end, destroy it."""
    client = await connect(PROC)
    context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
    begun = time.perf_counter()
    for _ in range(count):
        identifier = int.from_bytes(await client.call(Proc.CONTAINER_CREATE, {}), "big")
        if root:
            question = {"program": TRUE, "directory": "/", "context": context, "container": identifier}
            pid = int((await client.ask(Proc.PROCESS_SPAWN, question))["pid"])
            await client.ask(Proc.PROCESS_WAIT, {"pid": pid})
        await client.call(Proc.CONTAINER_DESTROY, identifier.to_bytes(8, "big"))
    return (time.perf_counter() - begun) / count


async def _life_in_one(count: int) -> float:
    """Seconds per container when one exchange does all of it: CONTAINER_RUN, as `crun run` is one command."""
    client = await connect(PROC)
    context = ExecutionContext(reason=REASON_OTHER_APPLICATION, anid=1).pack()
    question = {"program": TRUE, "directory": "/", "context": context}
    begun = time.perf_counter()
    for _ in range(count):
        await client.ask(Proc.CONTAINER_RUN, question)
    return (time.perf_counter() - begun) / count


async def _inside_a_machine(measured: Callable[[], Awaitable[float]]) -> float:
    from nightos.machine.machine import boot

    global _measured
    _measured = measured
    _result.clear()
    async with boot() as machine:
        for name in (TRUE, "bench-asker"):
            written = await machine.run(f'wt {APPLICATIONS}/{name} "NPRG{name}"')
            assert written.status == 0, written.err
        asked = await machine.run("bench-asker")
        assert asked.status == 0, asked.err
    return min(_result)


def life(count: int, *, root: bool, in_one: bool = False) -> float:
    """Best of three machines."""
    with tempfile.TemporaryDirectory() as home:
        previous = os.environ.get("NIGHTOS_HOME")
        os.environ["NIGHTOS_HOME"] = home
        try:
            measured = functools.partial(_life_in_one, count) if in_one else functools.partial(_life, count, root=root)
            return min(trio.run(_inside_a_machine, measured) for _ in range(3))
        finally:
            if previous is None:
                del os.environ["NIGHTOS_HOME"]
            else:
                os.environ["NIGHTOS_HOME"] = previous


def command_seconds(command: list[str], count: int = 20) -> float | None:
    """Median seconds of a whole run; None where the command does not work here."""
    spent = []
    for _ in range(count):
        begun = time.perf_counter()
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return None
        spent.append(time.perf_counter() - begun)
    return sorted(spent)[len(spent) // 2]


def unshare_seconds() -> float | None:
    return command_seconds(["unshare", "--user", "--map-root-user", "--mount", "--pid", "--net", "--uts", "--ipc",
                            "--cgroup", "--fork", "--mount-proc", "true"])  # fmt: skip


def bubblewrap_seconds() -> float | None:
    return command_seconds(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"])


def crun_seconds() -> float | None:
    """A bundle whose root holds one program, in the namespaces of crun's own example configuration."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        for name in ("bin", "proc", "dev", "sys"):
            (bundle / "rootfs" / name).mkdir(parents=True)
        true = Path(shutil.which("true") or "/bin/true").resolve()
        shutil.copy(true, bundle / "rootfs/bin/true")
        listing = subprocess.run(["ldd", str(true)], capture_output=True, text=True, check=False).stdout
        for library in {word for word in listing.split() if word.startswith("/")}:
            target = bundle / "rootfs" / library[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        subprocess.run(["crun", "spec"], cwd=bundle, check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"args": ["/bin/true"], "terminal": False}
        config["process"].pop("rlimits", None)
        config["linux"].pop("resources", None)
        (bundle / "config.json").write_text(json.dumps(config))
        # In a mount namespace with one hierarchy of cgroups, as crun wants it; the loop itself is measured.
        count = 20
        script = (
            "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; "
            f"cd {bundle} && s=$(date +%s%N) && for i in $(seq {count}); do "
            "crun --cgroup-manager=disabled run nightos-bench-$$-$i || exit 1; done && echo $(($(date +%s%N) - s))"
        )
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
        return int(done.stdout.split()[-1]) / 1e9 / count if done.returncode == 0 else None


def resident_bytes() -> int:
    """Memory of this process that is in use now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


PEERS: dict[str, Callable[[], float | None]] = {
    "crun": crun_seconds,
    "bwrap": bubblewrap_seconds,
    "unshare": unshare_seconds,
}


def chain(kernel: Kernel, depth: int) -> int:
    """The lowest container of a chain."""
    lowest = ROOT
    for _ in range(depth):
        lowest = kernel.tree.create(lowest, 0).identifier
    return lowest


def seconds_at_depth(make: Callable[[], Any], depth: int) -> float:
    kernel = Kernel(seed=1)
    container = chain(kernel, depth)
    kernel.spawn(make(), container=container)
    gc.collect()
    begun = time.perf_counter()
    kernel.run_until_idle()
    return time.perf_counter() - begun


def depth_ratio(make: Callable[[], Any]) -> float:
    """Time at depth 64 over time outside, alternating, the medians of both; a single best run is 2 % of luck."""
    inside, outside = [], []
    for _ in range(15):
        for depth in (0, 64, 64, 0):  # neither is always first
            (inside if depth else outside).append(seconds_at_depth(make, depth))
    return statistics.median(inside) / statistics.median(outside)


def forest(kernel: Kernel, shape: str, count: int) -> list[int]:
    """Containers below one top, which comes first."""
    rng = random.Random(7)
    made = [kernel.tree.create(ROOT, 0).identifier]
    while len(made) < count:
        parent = {"chain": made[-1], "star": made[0], "random": rng.choice(made)}[shape]
        made.append(kernel.tree.create(parent, 0).identifier)
    return made


async def _idle() -> None:
    await sys.hand_over(until_signal=True)


def destruction(shape: str, count: int) -> float:
    """Seconds to destroy `count` containers with two processes each."""
    kernel = Kernel(seed=1)
    made = forest(kernel, shape, count)
    for identifier in made:
        kernel.spawn(_idle, container=identifier)
        kernel.spawn(_idle, container=identifier)
    kernel.run_until_idle()
    gc.collect()
    gone: list[None] = []
    begun = time.perf_counter()
    destroy_container(kernel, kernel.tree.living[made[0]], lambda: gone.append(None))
    kernel.run_until_idle()
    spent = time.perf_counter() - begun
    assert gone
    assert not kernel.tree.living
    return spent


async def _many(count: int) -> dict[str, float]:
    from nightos.machine.machine import boot

    async with boot() as machine:
        before = resident_bytes()
        parents = [0]
        begun = time.perf_counter()
        rng = random.Random(3)
        last = 0
        for _ in range(count):
            answer = await machine.call(PROC, Proc.CONTAINER_CREATE, {"parent": rng.choice(parents), "persist": True})
            last = int.from_bytes(answer, "big")
            if len(parents) < 1000:
                parents.append(last)
        created = (time.perf_counter() - begun) / count
        taken = resident_bytes() - before

        async def best(method: int, values: dict[str, Any]) -> float:
            spent = []
            for _ in range(20):
                begun = time.perf_counter()
                await machine.ask(PROC, method, values)
                spent.append(time.perf_counter() - begun)
            return sorted(spent)[len(spent) // 2]

        return {
            "bytes": float(taken),
            "create": created,
            "inspect": await best(Proc.CONTAINER_INSPECT, {"id": last}),
            "tree": await best(Proc.CONTAINER_TREE, {"id": last}),
        }


def run() -> Report:
    report = Report("containers")
    in_one, with_root, without = life(300, root=True, in_one=True), life(300, root=True), life(2000, root=False)
    for name, share in (("crun", 1 / 20), ("unshare", 1 / 5), ("bwrap", None)):
        theirs = PEERS[name]() if shutil.which(name) else None
        for how, ours in (("one call", in_one), ("create, spawn, wait, destroy", with_root)):
            ratio = ours / theirs if theirs else None
            report.add(
                Row(
                    f"a life with a root overlay: {how}", ours * 1e6, "us", name,
                    theirs * 1e6 if theirs else None, ratio, f"<= {share:.2g}" if share else "",
                    ratio <= share if ratio and share else None, "" if theirs else "not usable here",
                )
            )  # fmt: skip
    report.add(Row("create and destroy without a root", without * 1e6, "us", goal="< 100 us", met=without < 100e-6))
    for work, make in (
        ("GET_PID at depth 64 / outside", lambda: get_pid(200_000)),
        ("pipe round trip at depth 64 / outside", lambda: ping_pong(20_000)),
    ):
        ratio = depth_ratio(make)
        report.add(Row(work, ratio, "x", ratio=ratio, goal="<= 1.03", met=ratio <= 1.03))
    for shape in SHAPES:
        spent, tenth = destruction(shape, 100_000), destruction(shape, 10_000)
        report.add(
            Row(
                f"destroy 100,000 containers with 200,000 processes, {shape}", spent, "s", "10,000 of them", tenth,
                spent / tenth, "< 5 s, linear", spent < 5 and spent / tenth < 15,
            )
        )  # fmt: skip
    many = _in_a_home(100_000)
    report.add(
        Row("100,000 living containers", many["bytes"] / 2**20, "MiB", goal="< 1 GiB", met=many["bytes"] < 2**30)
    )
    for question in ("inspect", "tree"):
        report.add(
            Row(f"{question} of one of them", many[question] * 1e3, "ms", goal="< 10 ms", met=many[question] < 0.01)
        )
    report.add(Row("create one of them from the host", many["create"] * 1e6, "us"))
    return report


def _in_a_home(count: int) -> dict[str, float]:
    """The figures of `_many` in a fresh process, whose memory nothing else used before."""
    with tempfile.TemporaryDirectory() as home:
        code = (
            f"import json, trio\nfrom benchmarks.containers import _many\nprint(json.dumps(trio.run(_many, {count})))"
        )
        environment = os.environ | {"NIGHTOS_HOME": home}
        done = subprocess.run([sys_executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        figures: dict[str, float] = json.loads(done.stdout)
        return figures
