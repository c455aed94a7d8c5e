"""The Frechet distance against closed forms and against the libraries that everybody uses."""

from __future__ import annotations

import numpy as np
import pytest

from apex_cli.evaluation import frechet
from apex_cli.evaluation.frechet import Against, Gaussian, distance, gaussian, intercept
from apex_cli.evaluation.jackknife import blocks, interval, standard_error


def features(n: int, d: int = 24, seed: int = 0, apart: float = 0.0) -> np.ndarray:
    """Correlated, with a decaying spectrum, as of a network."""
    rng = np.random.default_rng([seed, n])
    return rng.normal(size=(n, d)) / (1 + np.arange(d)) @ np.random.default_rng(9).normal(size=(d, d)) + apart


def test_equal_statistics_are_at_zero():
    one = gaussian(features(200))
    assert distance(one, one) < 1e-6


def test_diagonal_gaussians_have_the_closed_form():
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(2, 12)), rng.uniform(0.1, 4, size=(2, 12))
    one, other = (Gaussian(mean, np.diag(v), None) for mean, v in zip(means, variances, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((variances[0] ** 0.5 - variances[1] ** 0.5) ** 2).sum()
    assert distance(one, other) == pytest.approx(expected, rel=1e-9)


def test_rotated_gaussians_that_commute_have_it_too():
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    a, b = np.linspace(0.1, 3, 8), np.linspace(2, 0.5, 8)
    one, other = (Gaussian(np.zeros(8), rotation @ np.diag(v) @ rotation.T, None) for v in (a, b))
    assert distance(one, other) == pytest.approx(((a**0.5 - b**0.5) ** 2).sum(), rel=1e-9)


def test_fewer_pictures_than_features_stay_real_and_symmetric():
    few, other = gaussian(features(7)), gaussian(features(9, seed=1, apart=0.1))
    assert np.linalg.matrix_rank(few.covariance) == 6
    assert distance(few, other) > 0
    assert distance(few, other) == pytest.approx(distance(other, few), rel=1e-6)


def test_it_is_the_distance_of_torch_fidelity():
    from apex_cli.torchvision_guard import import_torchvision

    import_torchvision()
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    one, other = gaussian(features(400)), gaussian(features(300, seed=1, apart=0.2))
    sides = [{"mu": side.mean, "sigma": side.covariance} for side in (one, other)]
    expected = fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]
    assert distance(one, other) == pytest.approx(expected, rel=1e-3)


def test_it_is_the_distance_of_torchmetrics():
    from apex_cli.torchvision_guard import import_torchvision

    import_torchvision()
    import torch
    from torch import nn
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Rows(nn.Module):
        """Features that are the values of the picture: 24 numbers of one row."""

        num_features = 24

        def forward(self, pictures):
            return pictures.flatten(1)

    metric = FrechetInceptionDistance(feature=Rows(), input_img_size=(3, 2, 4)).set_dtype(torch.float64)
    real, made = features(300, seed=1, apart=0.2), features(400)
    for rows, is_real in ((real, True), (made, False)):
        metric.update(torch.from_numpy(rows).view(-1, 3, 2, 4), real=is_real)
    assert distance(gaussian(made), gaussian(real)) == pytest.approx(float(metric.compute()), rel=1e-3)


def ids(count: int) -> list[str]:
    return [str(place) for place in range(count)]


@pytest.mark.parametrize("n", [205, 22])
def test_values_without_a_block_are_those_of_the_rest(n):
    made, reference = features(n), gaussian(features(300, seed=1))
    for rows, value in zip(blocks(ids(n)), Against(made, reference).without_blocks(ids(n)), strict=True):
        assert value == pytest.approx(distance(gaussian(np.delete(made, rows, axis=0)), reference), rel=1e-6)


def test_extrapolation_is_the_line_through_parts_of_a_random_order(monkeypatch):
    monkeypatch.setattr(frechet, "ROWS", 7)
    made, reference = features(61), gaussian(features(300, seed=1))
    order, sizes = np.random.default_rng(frechet.SEED).permutation(61), [30, 38, 45, 53, 61]
    values = [distance(gaussian(made[order[:size]]), reference) for size in sizes]
    assert Against(made, reference).extrapolated() == pytest.approx(intercept(sizes, values), rel=1e-6)


def test_mean_and_covariance_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(frechet, "ROWS", 7)
    made = features(30, apart=3).astype(np.float32)
    found = gaussian(made)
    np.testing.assert_allclose(found.mean, made.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(made.astype(float), rowvar=False), rtol=1e-10, atol=1e-12)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    without = [np.delete(values, rows).mean() for rows in blocks(ids(400), 400)]
    assert standard_error(without) == pytest.approx(values.std(ddof=1) / 20, rel=1e-9)
    low, high = interval(values.mean(), without)
    assert high - low == pytest.approx(2 * 1.96 * standard_error(without))


def test_blocks_take_every_picture_once():
    dealt = blocks(ids(103))
    assert sorted(np.concatenate(dealt).tolist()) == list(range(103))
    assert {len(block) for block in dealt} == {10, 11}


def test_blocks_take_prompts_whole():
    prompts = [name for name in ids(25) for _ in range(4)]
    dealt = blocks(prompts)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(100)) and len(dealt) == 10
    homes = [{prompts[row] for row in block} for block in dealt]
    assert sum(map(len, homes)) == 25, "no prompt lies in two"


def test_the_jackknife_knows_that_pictures_of_a_prompt_are_alike():
    """40 prompts of 4 equal pictures say as much as 40 pictures."""
    alone = np.random.default_rng(0).normal(size=40)
    prompts, values = np.repeat(ids(40), 4).tolist(), np.repeat(alone, 4)
    errors = [
        standard_error([np.delete(rows, block).mean() for block in blocks(names)])
        for names, rows in ((ids(40), alone), (prompts, values))
    ]
    assert errors[1] == pytest.approx(errors[0], rel=1e-9)


def test_extrapolation_removes_the_bias_of_few_pictures():
    reference = Gaussian(np.zeros(64), np.eye(64), None)
    rng = np.random.default_rng(0)
    raw, mended = zip(
        *(
            (distance(gaussian(x), reference), Against(x, reference).extrapolated())
            for x in rng.normal(size=(6, 600, 64))
        ),
        strict=True,
    )
    assert np.mean(raw) > 1.5 and abs(np.mean(mended)) < np.mean(raw) / 4  # the true distance is 0


def test_the_intercept_of_a_line_in_one_over_n():
    sizes = [100, 200, 400]
    assert intercept(sizes, [5 + 300 / size for size in sizes]) == pytest.approx(5)
