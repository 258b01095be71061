"""All records of the evaluation data in a fixed order, as the normaliser gives them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from detect.normalize import default_normalizer
from detect.record import LogRecord, NormalizedRecord, RecordRef

DATA = Path(os.environ.get("TRUSTSOC_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SETS = ("evtx_attack", "mordor", "loghub", "access_log", "hostile_web")


class DataMissing(FileNotFoundError):
    """There is no evaluation data; the text says where it was looked for."""


def reader() -> Any:
    """The data's own reader. Raises DataMissing."""
    path = DATA / "load.py"
    spec = importlib.util.spec_from_file_location("evaluation_data", path)
    if not path.exists() or spec is None or spec.loader is None:
        raise DataMissing(f"the evaluation data is missing: no {path}; set TRUSTSOC_TEST_DATA to its folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Data()


def bodies(data: Any, name: str) -> Iterator[Any]:
    """What the set of that name holds: event objects, or lines."""
    match name:
        case "evtx_attack":
            return chain.from_iterable(case["events"] for case in data.evtx_attack())
        case "mordor":
            labels = sorted(data.mordor(), key=lambda label: str(label["dataset"]))
            events = chain.from_iterable(label["events"] for label in labels)
            return (event.get("_raw", event) for event in events)
        case _:
            return (entry["line"] for entry in getattr(data, name)())


def normalized(found: Iterable[Any]) -> Iterator[NormalizedRecord]:
    """The records with these bodies."""
    normalizer = default_normalizer()
    for place, body in enumerate(found):
        yield normalizer.normalize(LogRecord(RecordRef(1, place), 1, 1, 1, 1, 9, "", body, {}, {}))


def sampled(data: Any, every: dict[str, int]) -> Iterator[NormalizedRecord]:
    """Of each set that is named, one record in so many."""
    for name, step in every.items():
        yield from normalized(islice(bodies(data, name), 0, None, step))
