"""The evaluation data beside the checkout, read in place: tests that need it skip where it is not there."""

from __future__ import annotations

import gzip
import importlib.util
import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("TRUSTSOC_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def data_file(name: str) -> Path:
    """DATA/name."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"the evaluation data is missing: no {path}; set TRUSTSOC_TEST_DATA to its folder")
    return path


def json_lines(name: str) -> Iterator[Any]:
    """The JSON lines of DATA/name, which is compressed by gzip or xz."""
    path = data_file(name)
    with (lzma if path.suffix == ".xz" else gzip).open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def reader() -> Any:
    """The data's own reader."""
    spec = importlib.util.spec_from_file_location("evaluation_data", data_file("load.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Data()
