"""The kernel distances against a double loop, and against themselves without a block."""

from __future__ import annotations

import numpy as np
import pytest

from apex_cli.evaluation import mmd
from apex_cli.evaluation.jackknife import blocks
from apex_cli.evaluation.mmd import squared_mmd


def sets(n: int, m: int, d: int = 6, apart: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.normal(apart, 1, (n, d)), rng.normal(0, 1, (m, d))


def double_loop(x: np.ndarray, y: np.ndarray, unbiased: bool, kernel) -> float:
    n, m = len(x), len(y)
    if unbiased:
        own = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        truth = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    else:
        own = sum(kernel(a, b) for a in x for b in x) / n**2
        truth = sum(kernel(a, b) for a in y for b in y) / m**2
    return own + truth - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def test_the_unbiased_cubic_distance_is_the_double_loop():
    x, y = sets(37, 23)
    expected = double_loop(x, y, True, lambda a, b: (a @ b / 6 + 1) ** 3)
    assert squared_mmd(x, y).value == pytest.approx(expected, rel=1e-12)


def test_the_biased_gaussian_distance_is_the_double_loop():
    x, y = sets(37, 23)
    expected = double_loop(x, y, False, lambda a, b: np.exp(-((a - b) ** 2).sum() / 200))
    assert squared_mmd(x, y, mmd.gaussian, unbiased=False).value == pytest.approx(expected, rel=1e-9)


def test_it_is_the_kid_of_torchmetrics():
    from apex_cli.torchvision_guard import import_torchvision

    import_torchvision()
    import torch
    from torchmetrics.image.kid import poly_mmd

    x, y = (torch.from_numpy(side) for side in sets(60, 60))
    assert squared_mmd(x.numpy(), y.numpy()).value == pytest.approx(float(poly_mmd(x, y)), rel=1e-9)


def test_chunks_do_not_matter(monkeypatch):
    x, y = sets(130, 70)
    whole = squared_mmd(x, y)
    monkeypatch.setattr(mmd, "ROWS", 7)
    assert squared_mmd(x, y).value == pytest.approx(whole.value, rel=1e-12)


def test_values_without_a_block_are_those_of_the_rest():
    x, y = sets(45, 31)
    found = squared_mmd(x, y)
    for rows, value in zip(blocks([str(i) for i in range(len(x))]), found.without, strict=True):
        rest = np.delete(x, rows, axis=0)
        assert value == pytest.approx(squared_mmd(rest, y).value, rel=1e-9)


def test_the_estimate_is_unbiased():
    rng = np.random.default_rng(0)
    estimates = [squared_mmd(rng.normal(size=(20, 8)), rng.normal(size=(20, 8))).value for _ in range(200)]
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / 200**0.5
    assert squared_mmd(rng.normal(1, 1, (50, 8)), rng.normal(0, 1, (50, 8))).value > 1


def test_few_pictures_have_no_interval():
    x, y = sets(12, 12)
    assert squared_mmd(x, y).without == ()
    x, _ = sets(48, 12)
    assert squared_mmd(x, y, prompts=[str(i // 4) for i in range(48)]).without == (), "12 prompts"
