"""Fresh truth is at zero; what a person sees as worse is clearly above."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from apex_cli.evaluation.kernel_distance import features, kernel_distance
from apex_cli.worlds.shapes.grammar import prompts, scene_for
from apex_cli.worlds.shapes.renderer import render

KEPT = ("sphere", "cube", "cone", "star")


def renders(seed: int, kinds: tuple[str, ...] | None = None) -> np.ndarray:
    asked = [p for p in prompts("iid") if kinds is None or all(item["class"] in kinds for item in p.include)]
    return np.stack([render(scene_for(asked[i % len(asked)], np.random.default_rng([seed, i]))) for i in range(260)])


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return renders(1)


@pytest.fixture(scope="module")
def fresh() -> np.ndarray:
    return renders(2)


def as_bytes(images: np.ndarray) -> np.ndarray:
    return np.clip(np.round(images), 0, 255).astype(np.uint8)


DAMAGES = {
    "blur 1 px": lambda x: gaussian_filter(x, (0, 1, 1, 0)),
    "blur 2 px": lambda x: gaussian_filter(x, (0, 2, 2, 0)),
    "noise": lambda x: x + np.random.default_rng(0).normal(0, 16, x.shape),
    "greyscale": lambda x: x.mean(-1, keepdims=True) + 0 * x,
    "mean of two": lambda x: (x + np.roll(x, 1, 0)) / 2,
}


def test_fresh_truth_is_at_zero_or_below(truth, fresh):
    # Both sets share their prompts and the lattice repeats whole scenes, so the unbiased estimate tends below 0.
    assert -30 < kernel_distance(fresh, truth) < 10


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_seen(name, truth, fresh):
    assert kernel_distance(as_bytes(DAMAGES[name](fresh.astype(float))), truth) > 15


def test_missing_shapes_are_seen(truth):
    assert kernel_distance(renders(3, KEPT), truth) > 12


def test_more_blur_is_worse(truth, fresh):
    one, two = (kernel_distance(as_bytes(DAMAGES[name](fresh.astype(float))), truth) for name in list(DAMAGES)[:2])
    assert two > 2 * one


def test_features_do_not_depend_on_the_batch(fresh):
    assert np.allclose(features(fresh[:70]), np.concatenate([features(fresh[:3]), features(fresh[3:70])]), atol=1e-4)
