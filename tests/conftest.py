"""What holds for every property test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Both judge by the clock, which on a machine that has other work says nothing about the test or what it tests.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
