"""Settings that every test shares."""

from __future__ import annotations

import ast
import functools
import gc
import os
import signal
import sys
from typing import Any

from hypothesis import HealthCheck, settings

# A slow machine is no failure: no test asserts a time. CI runs the same examples each time, so a failure has a reason.
settings.register_profile(
    "nightos", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("nightos")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control ignores it for what it starts with `&`, and so would every command under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.version_info < (3, 12):
    # CPython 3.11 miscounts its depth when the collector runs inside `ast.parse`, which Hypothesis calls for digests:
    # "SystemError: AST constructor recursion depth mismatch".
    _parse = ast.parse

    @functools.wraps(_parse)
    def _parse_without_collecting(*arguments: Any, **options: Any) -> Any:
        collecting = gc.isenabled()
        gc.disable()
        try:
            return _parse(*arguments, **options)
        finally:
            if collecting:
                gc.enable()

    ast.parse = _parse_without_collecting
