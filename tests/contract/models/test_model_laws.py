"""The laws that every model obeys. Models are found by looking: a new module in models/ is tested without being named.

A model is a class of the package `models` with `score_one` and `learn_one`, made without arguments.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models.contract import LARGEST_VALUE, AnomalyModel


def found_models() -> list[type]:
    found = []
    for module in pkgutil.walk_packages(models.__path__, "models."):
        for _, member in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            own = member.__module__ == module.name and not getattr(member, "_is_protocol", False)
            if own and hasattr(member, "score_one") and hasattr(member, "learn_one"):
                found.append(member)
    return found


every_model = pytest.mark.parametrize("new_model", found_models(), ids=lambda model: model.__name__)
vectors = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(min_value=-1e9, max_value=1e9), max_size=3), max_size=60
)
NewModel = Callable[[], AnomalyModel]


def trained(new_model: NewModel, rows: list[dict[str, float]]) -> AnomalyModel:
    model = new_model()
    for phase, row in enumerate(rows):
        model.learn_one(row, phase)
    return model


def noise(count: int) -> list[dict[str, float]]:
    source = random.Random(11)  # noqa: S311 - a seeded series, no secret
    return [{"a": source.gauss(100, 5), "b": source.gauss(10, 1)} for _ in range(count)]


def test_there_are_models() -> None:
    assert [model.__name__ for model in found_models()] == sorted(model.__name__ for model in found_models()) != []


@every_model
@given(rows=vectors, probe=vectors)
@settings(max_examples=30)
def test_scores_lie_between_0_and_1_and_name_their_features(
    new_model: NewModel, rows: list[dict[str, float]], probe: list[dict[str, float]]
) -> None:
    model = trained(new_model, rows)
    for row in probe:
        verdict = model.score_one(row)
        assert 0 <= verdict.score <= 1
        assert all(0 <= found.score <= 1 and math.isfinite(found.deviation) for found in verdict.deviations)
        if not verdict.learning:
            assert {found.feature for found in verdict.deviations} >= set(row)
            assert verdict.score == max((found.score for found in verdict.deviations), default=0.0)


@every_model
@given(rows=vectors)
@settings(max_examples=30)
def test_the_same_vectors_give_the_same_state_whatever_the_order_of_their_features(
    new_model: NewModel, rows: list[dict[str, float]]
) -> None:
    backwards = [dict(reversed(row.items())) for row in rows]
    assert trained(new_model, rows).snapshot() == trained(new_model, backwards).snapshot()


@every_model
@given(rows=vectors, more=vectors)
@settings(max_examples=30)
def test_a_restored_model_goes_on_as_the_original(
    new_model: NewModel, rows: list[dict[str, float]], more: list[dict[str, float]]
) -> None:
    original, restored = trained(new_model, rows), new_model()
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(original.snapshot())))
    for row in more:
        assert restored.score_one(row) == original.score_one(row)
        original.learn_one(row)
        restored.learn_one(row)
    assert msgspec.json.encode(restored.snapshot()) == msgspec.json.encode(original.snapshot())


@every_model
def test_scoring_does_not_learn(new_model: NewModel) -> None:
    model = trained(new_model, noise(100))
    before = model.snapshot()
    model.score_one({"a": 1e6, "z": 5.0})
    assert model.snapshot() == before


@every_model
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, LARGEST_VALUE * 10])
def test_what_is_no_finite_number_is_refused_and_not_learned(new_model: NewModel, wrong: float) -> None:
    model = trained(new_model, noise(100))
    before = model.snapshot()
    for call in (model.score_one, model.learn_one):
        with pytest.raises(ValueError, match="'b'"):
            call({"a": 1.0, "b": wrong})
    assert model.snapshot() == before


@every_model
@given(value=st.floats(min_value=-1e12, max_value=1e12))
@settings(max_examples=30)
def test_a_constant_series_is_never_unusual(new_model: NewModel, value: float) -> None:
    model = new_model()
    for phase in range(300):
        assert model.score_one({"a": value}, phase).score == 0
        model.learn_one({"a": value}, phase)


@every_model
def test_a_fresh_model_is_learning_and_judges_nothing(new_model: NewModel) -> None:
    model = new_model()
    assert model.learning
    assert model.score_one({"a": 1e9}) == (0.0, True, ())


@every_model
def test_an_obvious_spike_scores_high_after_probation_and_usual_values_low(new_model: NewModel) -> None:
    model = trained(new_model, noise(500))
    assert not model.learning
    assert model.score_one({"a": 2000.0, "b": 10.0}).score > 0.9
    assert model.score_one({"a": 101.0, "b": 10.0}).score < 0.3


@every_model
@given(factor=st.floats(min_value=1e-6, max_value=1e6))
@settings(max_examples=30)
def test_the_unit_does_not_matter_to_models_that_say_so(new_model: NewModel, factor: float) -> None:
    if not getattr(new_model, "scale_invariant", False):
        pytest.skip("this model does not promise it")
    rows = noise(200)
    scaled = [{name: value * factor for name, value in row.items()} for row in rows]
    plain = trained(new_model, rows).score_one({"a": 130.0, "b": 10.0}).score
    assert trained(new_model, scaled).score_one({"a": 130.0 * factor, "b": 10.0 * factor}).score == pytest.approx(plain)
