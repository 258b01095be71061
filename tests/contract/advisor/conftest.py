"""The advisory stores under test, and logs kept in memory instead of drawn on the terminal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.postgres.fixtures import database, database_template, postgres_server

__all__ = ["database", "database_template", "postgres_server"]


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """What was logged during the test."""
    with capture_logs() as entries:
        yield entries
