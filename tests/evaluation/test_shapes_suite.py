"""The shapes protocol: the same prompts always, a ceiling of 1 for perfect pictures, no credit for others' pictures."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from apex_cli.evaluation.jobs import spread
from apex_cli.evaluation.run import evaluate
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.evaluation.shapes import Shapes, ShapesConfig


def test_requests_are_a_pure_function_of_the_settings(job, oracle, config, tmp_path):
    def requests(asked: EvalConfig):
        from apex_cli.evaluation.run import _drawings

        return [drawing.request for drawing in _drawings(job(oracle(), asked, tmp_path))]

    first = requests(config)
    assert first == requests(config)
    assert len({(r.seed, r.index) for r in first}) == 24
    whole = {r.index: r for r in requests(config.model_copy(update={"prompts": None}))}
    assert len(whole) == 520
    assert all(whole[r.index] == r for r in first)


def test_settings_tell_prompts_apart(job, oracle, config, tmp_path):
    few = job(oracle(), config, tmp_path).setting
    assert few.prompts_sha256 != job(oracle(), EvalConfig(), tmp_path).setting.prompts_sha256
    assert (few.prompts, few.n, few.seed) == (12, 2, 0)
    assert job(oracle(), EvalConfig(), tmp_path).setting.n == 4


def test_aliases_reach_the_model_in_its_own_words():
    items = Shapes(ShapesConfig(split="alias")).prompts.items
    assert any("disc" in item.prompt or "crimson" in item.prompt for item in items)
    assert all("disc" not in item.text and "crimson" not in item.text for item in items)


def test_spread_is_even_over_tags():
    tags = ["a", *"bbbb", *"ccc"]
    assert spread(tags, None) == spread(tags, 99) == list(range(8))
    assert spread(tags, 3) == [0, 1, 5]
    assert spread(tags, 5) == [0, 1, 3, 5, 6]
    assert spread(tags, 1) == [0]


def test_unknown_split():
    with pytest.raises(ValidationError, match="split"):
        ShapesConfig.model_validate({"split": "nope"})


@pytest.fixture(scope="module")
def finished(job, oracle, tmp_path_factory):
    """120 prompts drawn by a perfect model, with the certificate."""
    work = job(oracle(), EvalConfig(prompts=120, n=1), tmp_path_factory.mktemp("out"), certify=True)
    *_, report = evaluate(work)
    return report


def test_oracle_reaches_the_ceiling(finished):
    result = finished.results["shapes"]
    assert result.overall.score >= 0.995
    assert result.facts["overall, GenEval rule"] >= result.overall.score
    assert set(result.tasks) == {"single_object", "two_object", "counting", "colors", "position", "color_attr"}
    assert finished.nfe_counted == 1
    assert result.facts["kernel distance"] < 30


def test_certificate(finished):
    certificate = finished.results["shapes"].certificate
    assert certificate.ceiling >= 0.995
    assert certificate.floor <= 0.10


def test_failures_are_named_by_kind(shapes):
    from apex_cli.worlds.shapes.detector import Detection
    from apex_cli.worlds.shapes.scoring import judge

    colors = next(p for p in shapes.grammar if p.tag == "colors")
    asked = colors.include[0]
    other = "red" if asked["color"] != "red" else "blue"
    right = Detection(asked["class"], asked["color"], (0, 0, 9, 9), 0.9, 1.0)
    wrong = Detection(asked["class"], other, (0, 0, 9, 9), 0.9, 1.0)
    more = Detection("sphere" if asked["class"] != "sphere" else "cube", other, (20, 20, 29, 29), 0.8, 1.0)
    assert [judge(colors, seen).failure for seen in ([right], [], [wrong], [right, more])] == [
        "",
        "missing",
        "color",
        "extra",
    ]


def test_truth_is_fresh_but_fixed(shapes, job, oracle, config, tmp_path):
    from apex_cli.evaluation.base import Picture

    first, second = (Picture(shapes.prompts.items[0], k, tmp_path, "", (64, 64)) for k in (0, 1))
    assert shapes.truth(first).shape == (64, 64, 3)
    assert shapes.truth(first).dtype == np.uint8
    assert (shapes.truth(first) == shapes.truth(first)).all()
    assert (shapes.truth(first) != shapes.truth(second)).any()
