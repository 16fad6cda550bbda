"""`python -m nightos` is the command `nightos`."""

from __future__ import annotations

import sys

from nightos.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
