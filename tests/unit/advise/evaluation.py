"""The evaluation data beside the checkout, read in place; tests that need it skip when it is not there."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

ROOT = Path(os.environ.get("TRUSTSOC_TEST_DATA") or Path(__file__).resolve().parents[3] / "../shared/data").resolve()


def records(name: str) -> Iterator[dict[str, Any]]:
    """The JSON lines of ROOT/name."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"the evaluation data is missing: no {path}; set TRUSTSOC_TEST_DATA to its folder")
    with gzip.open(path, "rb") as lines:
        for line in lines:
            yield orjson.loads(line)
