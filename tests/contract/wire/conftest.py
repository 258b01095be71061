"""One edge per test, and every way into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from tests.contract.wire.edge import Edge, running_edge
from tests.contract.wire.lanes import LANES, Lane


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running_edge() as running:
        yield running


@pytest.fixture(params=LANES, ids=lambda lane: lane.name)
def lane(request: pytest.FixtureRequest) -> Lane:
    chosen: Lane = request.param
    return chosen


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A defect that a test makes is logged with its whole traceback, which takes seconds to draw."""
    with capture_logs():
        yield
