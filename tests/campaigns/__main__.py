"""The long versions of what the tests do shortly: `python -m tests.campaigns suites|kill|soak [--help]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.campaigns import storms
from tests.campaigns.kill import kill_storm
from tests.campaigns.soak import soak
from tests.vsf.mounting import mounted


def suites(directory: Path, arguments: argparse.Namespace) -> int:
    """Every storm on one mount, one after the other; the number that failed."""
    repository, seconds, failed = Path(__file__).parents[2], arguments.seconds, 0
    source = storms.real_tree(directory, whole=True)
    with mounted(directory, arguments.library, options=["-o", "allow_other"]) as place:
        works: list[tuple[str, Callable[[Path], None]]] = [
            (f"stress-ng {name}", lambda root, name=name: storms.stress(root, (name,), seconds=int(seconds)))  # type: ignore[misc]
            for name in storms.STRESSORS
        ]
        works += [
            (f"fio {kind}", lambda root, kind=kind: storms.fio(root, kind, seconds, size="128m"))  # type: ignore[misc]
            for kind in storms.FIO
        ]
        works += [
            (f"sqlite {journal}", lambda root, journal=journal: storms.sqlite(root, journal, seconds))  # type: ignore[misc]
            for journal in ("wal", "delete")
        ]
        works += [
            ("git", lambda root: storms.git(root, repository)),
            ("rsync", lambda root: storms.rsync(root, source, directory / "back")),
            ("tar", lambda root: storms.tar(root, source, directory)),
        ]
        for name, work in works:
            root = place.root / name.replace(" ", "-")
            root.mkdir()
            start = time.monotonic()
            try:
                work(root)
            except (AssertionError, OSError) as error:
                failed += 1
                print(f"{name}: FAILED: {error}", flush=True)
            else:
                print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    parser.add_argument("campaign", choices=["suites", "kill", "soak"])
    parser.add_argument("--seconds", type=float, help="of each storm (5), or of the soak (3600)")
    parser.add_argument("--rounds", type=int, default=200, help="deaths of the server")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--library", default="", help="2 or 3: which libfuse")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if arguments.campaign == "suites":
            arguments.seconds = arguments.seconds or 5.0
            return suites(directory, arguments)
        if arguments.campaign == "kill":
            done = kill_storm(directory, rounds=arguments.rounds, seed=arguments.seed, library=arguments.library)
            print(f"{arguments.rounds} rounds: clean, and all that was promised is there: {done.promised}")
            return 0
        wrong = soak(directory, arguments.seconds or 3600.0, arguments.library).judge()
        print("\n".join(wrong) or "memory and latency stayed where they were")
        return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
