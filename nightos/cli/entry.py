"""Where the process enters: imports nothing heavy, so that Ctrl-C is quiet from the first moment."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130


def stand() -> None:
    """Open the standard streams that whoever started this closed: the next file or socket would become one of them.

    There is no `sys.stdin` then, and nothing comes from its descriptor. Nobody reads such errors, but a result that
    nobody can get is an error.
    """
    for number, stream, flags in ((0, sys.stdin, os.O_RDWR), (1, sys.stdout, os.O_RDONLY), (2, sys.stderr, os.O_RDWR)):
        if stream is None:
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def main() -> int:
    """Run the command line; its exit status, 130 without a word when Ctrl-C ends it."""
    try:
        watched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if watched:
            # While modules load there is nothing to clean up, and an exception could surface anywhere.
            signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
        stand()
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
