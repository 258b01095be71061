"""A Control API over a database of its own for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.contract.control.edge import ControlEdge, control_edge
from tests.postgres.fixtures import Database, database, database_template, postgres_server

__all__ = ["database", "database_template", "postgres_server"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.postgres)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """What was logged during the test."""
    with capture_logs() as entries:
        yield entries


@pytest_asyncio.fixture
async def edge(database: Database, tmp_path: Path) -> AsyncIterator[ControlEdge]:
    async with control_edge(database, tmp_path) as made:
        yield made
