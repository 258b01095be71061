"""The registry is the one place where metrics are named, and the docs page is made from it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from actors.metrics import METRICS, CounterName, GaugeName, HistogramName, Metrics, registry_table

DOCS = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def test_every_named_metric_has_a_specification_of_its_kind() -> None:
    kinds = {"counter": CounterName, "gauge": GaugeName, "histogram": HistogramName}
    for kind, names in kinds.items():
        for name in get_args(names):
            assert METRICS[name].kind == kind
    assert set(METRICS) == {name for names in kinds.values() for name in get_args(names)}


def test_rendered_metrics_carry_the_prefix_and_the_labels() -> None:
    metrics = Metrics()
    metrics.count("ingest_records", 5)
    metrics.set("detector_lag_batches", 2, actor="detector-0")
    text = metrics.render().decode()
    assert "trustsoc_ingest_records_total 5.0" in text
    assert 'trustsoc_detector_lag_batches{actor="detector-0"} 2.0' in text


def test_a_name_outside_the_registry_is_refused() -> None:
    with pytest.raises(KeyError):
        Metrics().count("made_up")  # type: ignore[arg-type]


def test_the_docs_page_is_the_registry() -> None:
    assert registry_table() in DOCS.read_text(encoding="utf-8")
