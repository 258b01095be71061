"""An edge of its own for every test, and logs kept in memory instead of drawn on the terminal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.contract.doors.edge import DoorsEdge


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """What was logged during the test."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
async def edge() -> AsyncIterator[DoorsEdge]:
    made = DoorsEdge()
    yield made
    await made.client.aclose()
