"""The system with its language model: here alone, because the engine takes a core from whatever runs beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.system import System, running_system
from cluster.llm_setup import llm_support


@pytest.fixture(scope="package")
def system() -> Iterator[System]:
    """With the model where this machine can run it, without it elsewhere."""
    with running_system("cpu" if llm_support().usable else "none") as running:
        yield running
