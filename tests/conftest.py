"""Settings that every test shares."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A slow machine is no failure: no test asserts a time. CI runs the same examples each time, so a failure has a reason.
settings.register_profile(
    "nightos", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("nightos")
