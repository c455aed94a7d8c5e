"""Intervals cover, paired tests keep their level, and the overall is a mean of means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_cli import bootstrap
from apex_cli.evaluation import statistics

SIZES = {"small": 20, "large": 80}


def drawn(rng: np.random.Generator, shift: float = 0.0) -> dict[str, list[float]]:
    """Prompts of different difficulty, four images each."""
    return {
        tag: (rng.binomial(4, np.clip(rng.normal(0.6, 0.2, size) + shift, 0, 1)) / 4).tolist()
        for tag, size in SIZES.items()
    }


def test_overall_is_the_mean_of_task_means():
    assert statistics.overall({"a": [1.0], "b": [0.0] * 9}) == 0.5
    assert statistics.mean_of_means([1, 0, 0, 0], ["a", "b", "b", "b"]) == 0.5


def test_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = np.mean([statistics.overall(drawn(rng)) for _ in range(2000)])
    hits = 0
    for seed in range(200):
        low, high = statistics.interval(drawn(np.random.default_rng(1000 + seed)))
        hits += low <= truth <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_interval_is_a_function_of_its_data():
    data = drawn(np.random.default_rng(1))
    assert statistics.interval(data) == statistics.interval(data)


def test_draws_that_are_all_alike_are_no_interval():
    varied = drawn(np.random.default_rng(1))["small"]
    for data in ({"a": [0.75]}, {"a": varied, "b": [0.75]}, {"a": [0.5] * 9}):
        assert statistics.interval(data) is None
        assert statistics.share_interval(data) is None
        assert statistics.detectable(data) is None
    ties = {"a": [0.0] * 80, "b": [0.5, -0.5, 1.0]}
    assert statistics.interval(ties) is not None, "a task without differences is no reason to say nothing of the rest"
    assert statistics.detectable({"a": [0.0] * 80}) is None


def test_what_is_all_right_has_wilsons_interval():
    assert statistics.share_interval({"a": [1.0] * 80}) == pytest.approx((80 / (80 + 1.96**2), 1), abs=1e-4)
    assert statistics.share_interval({"a": [0.0] * 80}) == pytest.approx((0, 1.96**2 / (80 + 1.96**2)), abs=1e-4)
    assert statistics.share_interval({"a": [1.0]}) is None
    assert statistics.share_interval({"a": [1.0] * 80, "b": [1.0] * 80}) == statistics.share_interval({"": [1.0] * 160})
    assert statistics.share_interval({"a": [1.0] * 80, "b": [0.0] * 80}) is None
    for data in (
        drawn(np.random.default_rng(1)),
        {"sure": [1.0] * 10, "small": drawn(np.random.default_rng(1))["small"]},
    ):
        assert statistics.share_interval(data) == statistics.interval(data)


def test_the_interval_covers_scores_near_the_end():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        scores = {tag: rng.binomial(1, 0.99, 60).astype(float) for tag in "abc"}
        low, high = statistics.share_interval(scores)
        hits += low <= 0.99 <= high
    assert hits / 200 >= 0.9


def test_tasks_weigh_what_they_are_told():
    data = {"a": [1.0, 0.0], "b": [0.0, 0.0]}
    assert statistics.overall(data) == 0.25
    assert statistics.overall(data, {"a": 3, "b": 1}) == 0.375
    assert statistics.overall(data, {"a": 3, "b": 1, "absent": 9}) == 0.375
    assert statistics.resampled(data, {"a": 3, "b": 1}).max() == 0.75


def test_paired_interval_is_narrower_than_the_unpaired():
    rng = np.random.default_rng(2)
    first = {tag: rng.normal(0.6, 0.25, size) for tag, size in SIZES.items()}
    differences = {tag: 0.03 + rng.normal(0, 0.05, len(values)) for tag, values in first.items()}
    low, high = statistics.interval(differences)
    own_low, own_high = statistics.interval(first)
    assert 0 < low < 0.03 < high
    assert high - low < (own_high - own_low) / 2
    assert statistics.sign_flip_p(differences) < 0.01


def test_sign_flip_keeps_its_level():
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        wrong += statistics.sign_flip_p({tag: rng.normal(0, 1, size) for tag, size in SIZES.items()}) <= 0.05
    assert wrong <= 12
    assert statistics.sign_flip_p({"a": [0.0] * 5}) == 1


def test_draws_at_once_do_not_matter(monkeypatch):
    rng = np.random.default_rng(4)
    differences = {tag: rng.normal(0.02, 0.1, size) for tag, size in SIZES.items()}
    draws, p = statistics.resampled(differences), statistics.sign_flip_p(differences)
    for module in (bootstrap, statistics):
        monkeypatch.setattr(module, "AT_ONCE", bootstrap.RESAMPLES)
    assert np.array_equal(draws, statistics.resampled(differences))
    assert p == statistics.sign_flip_p(differences) and len(draws) == bootstrap.RESAMPLES


def test_detectable_difference_shrinks_with_prompts():
    rng = np.random.default_rng(3)
    few, many = ({"a": rng.normal(0, 1, size)} for size in (50, 800))
    assert statistics.detectable(few) == pytest.approx(4 * statistics.detectable(many), rel=0.3)
    assert statistics.detectable(many) == pytest.approx(statistics.DETECTABLE / 800**0.5, rel=0.15)


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_holm_is_between_the_raw_p_and_bonferroni(p):
    corrected = statistics.holm(p)
    assert corrected[int(np.argmin(p))] == pytest.approx(min(1, min(p) * len(p)))
    assert all(new >= raw for raw, new in zip(p, corrected, strict=True))
