"""The planner against a simulation and against a published one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apex_cli import app
from apex_cli.evaluation.power import Design, choices, factor
from apex_cli.evaluation.records import Report, Result, Score, Setting, Subject
from apex_cli.evaluation.statistics import correlation

GENEVAL = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
APEX_06B = {"single_object": 0.99, "two_object": 0.91, "counting": 0.75, "colors": 0.93, "position": 0.76,
            "color_attr": 0.69}  # fmt: skip


def test_standard_error_of_a_simulated_benchmark():
    """Prompts with a beta-distributed chance have the correlation 1 / (a + b + 1)."""
    rng = np.random.default_rng(0)
    tasks, n, q, r = {"a": 40, "b": 90}, 4, 0.7, 0.5
    size = 1 / r - 1
    runs = np.stack(
        [rng.binomial(n, rng.beta(q * size, (1 - q) * size, (4000, count))).mean(1) / n for count in tasks.values()]
    ).mean(0)
    assert Design(tasks, n, q, r).standard_error() == pytest.approx(runs.std(), rel=0.05)


def test_a_row_of_geneval():
    """The simulation of the paper's 0.6B row: 0.0114 over prompts and seeds; +0.02 seen in 22 %, +0.03 in 52 %."""
    design = Design(GENEVAL, 4, correlation=0.5, scores=APEX_06B)
    assert design.standard_error() == pytest.approx(0.0114, rel=0.05)
    assert design.power(0.02) == pytest.approx(0.22, abs=0.06)
    assert design.power(0.03) == pytest.approx(0.52, abs=0.06)


def test_tasks_weigh_what_the_benchmark_says():
    """By hand: half of the variance of a mean of 25 prompts, squared shares 9 / 16 and 1 / 16."""
    design = Design({"a": 25, "b": 25}, 1, 0.5, weights={"a": 3, "b": 1})
    assert design.standard_error() == pytest.approx((0.25 / 25 * 10 / 16) ** 0.5)


def test_power_and_detectable_agree():
    design = Design(GENEVAL, 4)
    assert design.power(design.detectable()) == pytest.approx(0.80, abs=1e-6)
    assert factor() == pytest.approx(2.80, abs=0.01)


def test_more_prompts_help_more_than_more_images():
    design = Design(GENEVAL, 4, correlation=0.6)
    more_images = Design(GENEVAL, 8, correlation=0.6)
    assert design.standard_error(2) < more_images.standard_error() < design.standard_error()


def test_choices_reach_the_wanted_difference_and_no_less_would():
    design = Design(GENEVAL, 4)
    for choice in choices(design, 0.02):
        copies = choice.prompts // 553
        assert choice.detectable <= 0.02
        assert choice.power >= 0.80
        assert copies == 1 or Design(GENEVAL, choice.n).detectable(copies - 1) > 0.02


def test_a_plan_like_percents_of_categories_is_of_the_overall(tmp_path, capsys):
    """A prompt of DPG-Bench counts in several categories, and its scores are in percent."""
    categories = {name: Score(score=90, prompts=100, images=400) for name in ("entity", "attribute")}
    overall = Score(score=80, prompts=100, images=400, correlation=0.5)
    dpg = Result(protocol="dpg@fixed", value=80, tasks=categories, overall=overall, scale=100)
    Report(
        subject=Subject(source="x"),
        setting=Setting(prompt_set="dpg", prompts=100, prompts_sha256="p", n=4, seed=0),
        found=400,
        expected=400,
        results={"dpg@fixed": dpg},
        versions={},
        hardware={},
    ).save(tmp_path)
    assert app.main(["eval", "plan", "0.02", "--like", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["design"]["prompts"] == {"dpg@fixed": 100}
    assert document["as_it_is"]["detectable"] == pytest.approx(Design({"": 100}, 4, 0.8, 0.5).detectable())


def test_correlation_of_images_within_prompts():
    rng = np.random.default_rng(1)
    chance = rng.beta(0.7, 0.3, 5000)  # correlation 1 / (0.7 + 0.3 + 1)
    assert correlation(rng.binomial(1, chance[:, None], (5000, 4)).tolist()) == pytest.approx(0.5, abs=0.02)
    assert correlation(rng.binomial(1, 0.6, (5000, 4)).tolist()) == pytest.approx(0, abs=0.02)
    assert correlation([[1, 1], [0, 0], [1, 1]]) == 1
    assert correlation([[1], [0]]) is None
    assert correlation([[1, 1], [1, 1]]) is None
