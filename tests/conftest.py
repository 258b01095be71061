"""What holds for every property test, and which tests share what they bring up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Each run makes other examples, so many runs find what one does not; for a long look at once ask for more.
EXAMPLES = int(os.environ.get("TRUSTSOC_TEST_EXAMPLES") or 60)

# Both judge by the clock, which on a machine that has other work says nothing about the test or what it tests.
settings.register_profile("patient", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# The tests of one of these folders share a server, a cluster or a model, which is brought up once.
_TOGETHER = ("contract/llm", "contract/vectors", "e2e/with_model", "e2e", "postgres", "ray/llm", "ray")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tells pytest-xdist what belongs together: a folder that shares something, else the tests of one file."""
    place = item.path.relative_to(Path(__file__).parent)
    group = next((name for name in _TOGETHER if place.is_relative_to(name)), str(place))
    item.add_marker(pytest.mark.xdist_group(group))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes go by the argument's name: those of gzip hold the time, and both processes must know a test by one name."""
    return argname if isinstance(val, bytes) else None
