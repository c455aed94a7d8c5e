"""The Frechet distance between two Gaussians, in float64 and without a matrix square root of a product.

    d^2 = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1^1/2 S_2 S_1^1/2)^1/2

The last trace is the sum of the roots of the eigenvalues of a symmetric matrix. So nothing becomes complex, and
covariances without full rank (fewer pictures than features) need no small number on the diagonal.
Heusel et al. 2017, arXiv:1706.08500; its bias in the number of pictures: Chong and Forsyth 2020, arXiv:1911.07023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from apex_cli.evaluation.jackknife import blocks

SIZES = 5
"""Numbers of pictures, from half of all to all, that the line in 1/N is laid through."""
SEED = 0


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean [d] and covariance [d, d] (divisor n - 1), float64, of `n` pictures; None where a file does not say."""

    mean: np.ndarray
    covariance: np.ndarray
    n: int | None

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T


@dataclass(eq=False)
class Moments:
    """Sums over features, so that a block of pictures can be taken out again."""

    n: int
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Of [n, d]."""
        rows = np.asarray(features, np.float64)
        return cls(len(rows), rows.sum(0), rows.T @ rows)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.first - other.first, self.second - other.second)

    def gaussian(self) -> Gaussian:
        mean = self.first / self.n
        return Gaussian(mean, (self.second - self.n * np.outer(mean, mean)) / (self.n - 1), self.n)


def gaussian(features: np.ndarray) -> Gaussian:
    """Of [n, d], n at least 2."""
    rows = np.asarray(features, np.float64)
    return Gaussian(rows.mean(0), np.cov(rows, rowvar=False), len(rows))


def distance(one: Gaussian, other: Gaussian) -> float:
    """d^2; never negative. Costs one eigenvalue problem of d x d, and another the first time for `other`."""
    inner = other.root @ one.covariance @ other.root
    trace = np.sqrt(np.linalg.eigvalsh(inner).clip(0)).sum()
    gap = one.mean - other.mean
    value = gap @ gap + np.trace(one.covariance) + np.trace(other.covariance) - 2 * trace
    return max(float(value), 0.0)


def without_blocks(features: np.ndarray, reference: Gaussian, prompts: Sequence[str]) -> list[float]:
    """The distance without each block of the pictures; `prompts` has the id of that of each."""
    total = Moments.of(features)
    parts = (Moments.of(features[rows]) for rows in blocks(prompts))
    return [distance((total - part).gaussian(), reference) for part in parts]


def extrapolated(features: np.ndarray, reference: Gaussian) -> float:
    """What infinitely many pictures would give: the intercept of a line in 1/N through `SIZES` sizes."""
    order = np.random.default_rng(SEED).permutation(len(features))
    sizes = np.linspace(len(features) / 2, len(features), SIZES).astype(int)
    values = [distance(gaussian(features[order[:size]]), reference) for size in sizes]
    return intercept(sizes, values)


def intercept(sizes: Sequence[int] | np.ndarray, values: Sequence[float]) -> float:
    """Of the least-squares line of `values` in 1 / `sizes`."""
    return float(np.polyfit(1 / np.asarray(sizes, float), values, 1)[1])
