"""What the exponentially weighted model promises beyond the laws of all models."""

from __future__ import annotations

import random

import pytest

from models.ewma import EwmaModel


def learned(model: EwmaModel, values: list[float], feature: str = "x") -> EwmaModel:
    for value in values:
        model.learn_one({feature: value})
    return model


def noise(count: int, level: float = 100.0, spread: float = 5.0) -> list[float]:
    source = random.Random(7)  # noqa: S311 - a seeded series, no secret
    return [source.gauss(level, spread) for _ in range(count)]


def test_it_says_learning_until_probation_is_over() -> None:
    model = EwmaModel(probation=5)
    assert learned(model, [1.0] * 4).score_one({"x": 1000.0}) == (0.0, True, ())
    assert not learned(model, [1.0]).score_one({"x": 1000.0}).learning


def test_the_deviation_is_explained_with_baseline_and_scale() -> None:
    verdict = learned(EwmaModel(), noise(500)).score_one({"x": 160.0})
    (found,) = verdict.deviations
    assert found.feature == "x"
    assert found.observed == 160.0
    assert found.baseline == pytest.approx(100, abs=3)
    assert found.scale == pytest.approx(5, rel=0.4)
    assert found.deviation == pytest.approx((160 - found.baseline) / found.scale)
    assert verdict.score == found.score > 0.5


def test_the_half_score_is_where_it_was_put() -> None:
    model = learned(EwmaModel(half_score_at=6.0), noise(500))
    at = model.score_one({"x": 100.0}).deviations[0]
    assert model.score_one({"x": at.baseline + 6 * at.scale}).score == pytest.approx(0.5)


def test_upward_models_ignore_a_fall_and_two_sided_ones_do_not() -> None:
    assert learned(EwmaModel(direction="up"), noise(100)).score_one({"x": 0.0}).score == 0
    assert learned(EwmaModel(direction="both"), noise(100)).score_one({"x": 0.0}).score > 0.8


def test_one_attack_hardly_widens_the_band() -> None:
    model = learned(EwmaModel(), noise(200))
    before = model.score_one({"x": 1000.0}).deviations[0]
    learned(model, [1000.0])
    after = model.score_one({"x": 1000.0}).deviations[0]
    assert after.baseline - before.baseline <= 0.05 * 4 * before.scale + 1e-9
    assert after.scale <= 1.3 * before.scale


def test_a_feature_first_seen_late_counts_as_zero_before() -> None:
    model = learned(EwmaModel(), [5.0] * 50)
    assert model.score_one({"x": 5.0, "y": 3.0}).deviations[0].feature == "y"
    assert model.score_one({"x": 5.0, "y": 3.0}).score > 0.9


def test_the_strongest_feature_comes_first() -> None:
    model = EwmaModel()
    for value in noise(100):
        model.learn_one({"a": value, "b": value, "c": value})
    verdict = model.score_one({"a": 110.0, "b": 300.0, "c": 140.0})
    assert [found.feature for found in verdict.deviations] == ["b", "c", "a"]


def test_a_season_makes_a_regular_burst_usual() -> None:
    def score(phases: int) -> float:
        model = EwmaModel(phases=phases, phase_probation=10)
        for step in range(24 * 30):
            model.learn_one({"x": 500.0 if step % 24 == 3 else 10.0}, step % 24)
        return model.score_one({"x": 500.0}, 3).score

    assert score(phases=1) > 0.5
    assert score(phases=24) < 0.1


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 1.0}, {"probation": 1}, {"phases": 0}, {"clip": 0.0}])
def test_parameters_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        EwmaModel(**wrong)


def test_a_snapshot_of_another_model_is_refused() -> None:
    state = EwmaModel().snapshot()
    with pytest.raises(ValueError, match="ewma-0"):
        EwmaModel().restore(["ewma-0", *state[1:]])
