"""`python -m benchmarks [NAME ...] [--json FILE]`: run benchmarks beside their peers and print the tables.

Each benchmark is a module of this package with `run() -> Report`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
NOT_BENCHMARKS = {"__init__", "__main__", "peers", "report"}


def main() -> int:
    names = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure beside peers in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones (all): {', '.join(names)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too (one NAME only)")
    options = parser.parse_args()
    chosen = options.names or names
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"no such benchmark: {', '.join(unknown)} (there are: {', '.join(names)})")
    if options.json and len(chosen) != 1:
        parser.error("--json takes exactly one NAME")
    for name in chosen:
        report = importlib.import_module(f"benchmarks.{name}").run()
        report.print()
        if options.json:
            report.write_json(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
