"""The Frechet distance between two Gaussians, in float64 and without a matrix square root of a product.

    d^2 = |mu_1 - mu_2|^2 + tr S_1 + tr S_2 - 2 tr (S_1^1/2 S_2 S_1^1/2)^1/2

The last trace is the sum of the roots of the eigenvalues of a symmetric matrix. So nothing becomes complex, and
covariances without full rank (fewer pictures than features) need no small number on the diagonal.
Heusel et al. 2017, arXiv:1706.08500; its bias in the number of pictures: Chong and Forsyth 2020, arXiv:1911.07023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import accumulate
from operator import add

import numpy as np

from apex_cli.evaluation.jackknife import blocks

SIZES = 5
"""Numbers of pictures, from half of all to all, that the line in 1/N is laid through."""
SEED = 0
ROWS = 4096
"""Pictures whose features are held in float64 at once."""


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


def gaussian(features: np.ndarray) -> Gaussian:
    """Of [n, d], n at least 2."""
    mean = features.mean(0, dtype=np.float64)
    product = np.zeros((len(mean), len(mean)))
    for i in range(0, len(features), ROWS):
        rows = features[i : i + ROWS] - mean
        product += rows.T @ rows
    return Gaussian(mean, product / (len(features) - 1), len(features))


def distance(one: Gaussian, other: Gaussian) -> float:
    """d^2; never negative. Costs one eigenvalue problem of d x d, and another the first time for `other`."""
    inner = other.root @ one.covariance @ other.root
    return _distance(one.mean - other.mean, np.trace(one.covariance) + np.trace(other.covariance), inner)


def _distance(gap: np.ndarray, traces: float, inner: np.ndarray) -> float:
    """Of the difference of the means, tr S_1 + tr S_2 and S_1^1/2 S_2 S_1^1/2, or what has the same eigenvalues."""
    return max(float(gap @ gap + traces - 2 * np.sqrt(np.linalg.eigvalsh(inner).clip(0)).sum()), 0.0)


@dataclass(eq=False)
class Sums:
    """Over n pictures with features x, against a reference of mean mu and covariance S: of z = x - mu [d], |z|^2,
    y = S^1/2 z [r] and y y^T [r, r]. Their distance is made of nothing else, and pictures are added and taken out."""

    n: int
    z: np.ndarray
    square: float
    y: np.ndarray
    product: np.ndarray

    def __add__(self, more: Sums) -> Sums:
        return Sums(
            self.n + more.n,
            self.z + more.z,
            self.square + more.square,
            self.y + more.y,
            self.product + more.product,
        )

    def __sub__(self, part: Sums) -> Sums:
        return self + Sums(-part.n, -part.z, -part.square, -part.y, -part.product)


class Against:
    """Pictures by their features [n, d] against a reference: the distances of many parts of them."""

    def __init__(self, features: np.ndarray, reference: Gaussian):
        self.features, self.reference = features, reference
        self.turned = np.empty(features.shape)
        for first in range(0, len(features), ROWS):
            rows = slice(first, first + ROWS)
            self.turned[rows] = self._apart(rows) @ reference.root
        if len(features) < features.shape[1]:  # n numbers of each keep all lengths and angles
            self.turned = np.linalg.qr(self.turned.T, mode="r").T

    def _apart(self, rows: slice | np.ndarray) -> np.ndarray:
        return self.features[rows] - self.reference.mean

    def sums(self, rows: np.ndarray) -> Sums:
        z, y = self._apart(rows), self.turned[rows]
        return Sums(len(rows), z.sum(0), float((z**2).sum()), y.sum(0), y.T @ y)

    def distance(self, sums: Sums) -> float:
        """One eigenvalue problem of min(n, d)."""
        mean, turned = sums.z / sums.n, sums.y / sums.n
        inner = (sums.product - sums.n * np.outer(turned, turned)) / (sums.n - 1)
        total = (sums.square - sums.n * mean @ mean) / (sums.n - 1)
        return _distance(mean, total + np.trace(self.reference.covariance), inner)

    def without_blocks(self, prompts: Sequence[str]) -> list[float]:
        """The distance without each block of the pictures; `prompts` has the id of that of each."""
        parts = [self.sums(rows) for rows in blocks(prompts)]
        total = reduce(add, parts)
        return [self.distance(total - part) for part in parts]

    def extrapolated(self) -> float:
        """What infinitely many pictures would give: the intercept of a line in 1/N through `SIZES` sizes."""
        count = len(self.features)
        order = np.random.default_rng(SEED).permutation(count)
        sizes = np.linspace(count / 2, count, SIZES).astype(int)
        parts = accumulate(self.sums(rows) for rows in np.split(order, sizes[:-1]))
        return intercept(sizes, [self.distance(part) for part in parts])


def intercept(sizes: Sequence[int] | np.ndarray, values: Sequence[float]) -> float:
    """Of the least-squares line of `values` in 1 / `sizes`."""
    return float(np.polyfit(1 / np.asarray(sizes, float), values, 1)[1])
