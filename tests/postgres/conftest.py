from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres.fixtures import database, database_template, postgres_server

__all__ = ["database", "database_template", "postgres_server"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.postgres)
