"""What holds for every property test, and which tests share what they bring up."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# Each run makes other examples, so many runs find what one does not; for a long look at once ask for more.
EXAMPLES = int(os.environ.get("TRUSTSOC_TEST_EXAMPLES") or 60)

# Both judge by the clock, which on a machine that has other work says nothing about the test or what it tests.
settings.register_profile("patient", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# What a shell starts in the background ignores SIGINT, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests of one of these folders share a server, a cluster or a model, which is brought up once.
_TOGETHER = ("contract/llm", "contract/vectors", "e2e/with_model", "e2e", "postgres", "ray/llm", "ray")


class _Together(LoadScopeScheduling):
    """Hands out the tests of one file together, and those of a folder that shares something."""

    def _split_scope(self, nodeid: str) -> str:
        place = nodeid.partition("::")[0].removeprefix("tests/")
        return next((name for name in _TOGETHER if place.startswith(f"{name}/")), place)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """How tests are spread over processes, where there are several (pytest-xdist, "Making a custom scheduler")."""
    return _Together(config, log)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes go by the argument's name: those of gzip hold the time, and both processes must know a test by one name."""
    return argname if isinstance(val, bytes) else None
