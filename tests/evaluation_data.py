"""The evaluation data beside the checkout, read in place: tests that need it skip where it is not there."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import evaluation_records


def data_file(name: str) -> Path:
    """The file of that name."""
    path = evaluation_records.DATA / name
    if not path.exists():
        pytest.skip(f"the evaluation data is missing: no {path}; set TRUSTSOC_TEST_DATA to its folder")
    return path


def json_lines(name: str) -> Iterator[Any]:
    """The JSON lines of a file, which is compressed by gzip or xz."""
    path = data_file(name)
    with (lzma if path.suffix == ".xz" else gzip).open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def reader() -> Any:
    """The data's own reader."""
    data_file("load.py")
    return evaluation_records.reader()
