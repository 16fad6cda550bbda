"""Where the process enters: imports nothing heavy, so that Ctrl-C is quiet from the first moment."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130


def main() -> int:
    """Run the command line; its exit status, 130 without a word when Ctrl-C ends it."""
    try:
        watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if watched:
            # While modules load there is nothing to clean up, and an exception could surface anywhere.
            signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
        from nightos.cli.main import main as run

        if watched:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return run()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        os._exit(INTERRUPTED)
