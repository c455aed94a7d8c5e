"""The suite: the same requests always, a ceiling of 1 for perfect pictures, and no credit for others' pictures."""

from __future__ import annotations

import numpy as np
import pytest

from apex_cli.errors import UsageError
from apex_cli.evaluation.run import evaluate
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.evaluation.shapes import ShapesSuite, spread
from apex_cli.generation import SampleConfig, generate


def test_requests_are_a_pure_function_of_the_settings(config):
    first, again = ShapesSuite(config), ShapesSuite(config)
    assert first.requests == again.requests
    assert first.setting == again.setting
    assert len(first.requests) == 24
    assert len({(r.seed, r.index) for r in first.requests}) == 24


def test_a_limited_split_keeps_the_seeds_of_the_whole(suite, config):
    whole = {r.index: r for r in ShapesSuite(config.model_copy(update={"prompts": None})).requests}
    assert len(whole) == 520
    assert all(whole[r.index] == r for r in suite.requests)
    assert suite.setting.prompts_sha256 != ShapesSuite(EvalConfig()).setting.prompts_sha256


def test_aliases_reach_the_model_in_its_own_words():
    suite = ShapesSuite(EvalConfig(split="alias", prompts=12))
    assert all("disc" not in r.prompt and "crimson" not in r.prompt for r in suite.requests)


def test_spread_is_even_over_tags():
    tags = ["a", *"bbbb", *"ccc"]
    assert spread(tags, None) == spread(tags, 99) == list(range(8))
    assert spread(tags, 3) == [0, 1, 5]
    assert spread(tags, 5) == [0, 1, 3, 5, 6]
    assert spread(tags, 1) == [0]


def test_unknown_split():
    with pytest.raises(UsageError, match="no split"):
        ShapesSuite(EvalConfig.model_construct(split="nope", images=1, prompts=None, seed=0))


def test_truth_is_fresh_but_fixed(suite, oracle):
    records = [suite.score(sample) for sample in generate(oracle().backbone, SampleConfig(), suite.requests[:3])]
    images = suite.truth(records)
    assert images.shape == (3, 64, 64, 3)
    assert images.dtype == np.uint8
    assert (images == suite.truth(records)).all()
    assert (images[0] != images[1]).any()


def test_oracle_reaches_the_ceiling(oracle, tmp_path):
    config = EvalConfig(prompts=120, images=1)
    *_, report = evaluate(oracle(), ShapesSuite(config), config, tmp_path / "out")
    assert report.overall.score >= 0.995
    assert report.overall.geneval >= report.overall.score
    assert set(report.tasks) == {"single_object", "two_object", "counting", "colors", "position", "color_attr"}
    assert report.nfe_counted == 1
    assert report.kernel_distance < 30


def test_certificate():
    certificate = ShapesSuite(EvalConfig(prompts=120)).certify()
    assert certificate.ceiling >= 0.995
    assert certificate.floor <= 0.10
