"""What holds for every property test."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Each run makes other examples, so many runs find what one does not; for a long look at once ask for more.
EXAMPLES = int(os.environ.get("TRUSTSOC_TEST_EXAMPLES") or 60)

# Both judge by the clock, which on a machine that has other work says nothing about the test or what it tests.
settings.register_profile("patient", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
