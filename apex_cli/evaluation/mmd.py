"""Kernel distances between two sets of features, in blocks: any number of pictures in the memory of a few.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y)

Unbiased: the means within a set leave out each picture with itself (KID, Binkowski et al. 2018, arXiv:1801.01401).
Biased: they keep it (CMMD, Jayasumana et al. 2024, arXiv:2401.09603). Sums are kept for pairs of blocks, so the values
without each block, which the jackknife needs, come with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from apex_cli.evaluation.jackknife import blocks, can_tell

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""[n, d], [m, d] -> [n, m]."""
ROWS = 1024
"""Of a kernel matrix that are held at once."""


def cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KID's kernel (a.b / d + 1)^3."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def gaussian(a: np.ndarray, b: np.ndarray, sigma: float = 10.0) -> np.ndarray:
    """CMMD's kernel exp(-|a - b|^2 / (2 sigma^2))."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.exp(-squares.clip(0) / (2 * sigma**2))


@dataclass(frozen=True)
class Estimate:
    """MMD^2 and its values without each block of the first set."""

    value: float
    without: tuple[float, ...]


def squared_mmd(
    x: np.ndarray,
    y: np.ndarray,
    kernel: Kernel = cubic,
    unbiased: bool = True,
    prompts: Sequence[str] | None = None,
) -> Estimate:
    """Of features [n, d] and [m, d], n and m at least 2; computed in float64. `prompts`: the id of that of each
    picture of the first set; None where each has its own."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    prompts = [str(place) for place in range(len(x))] if prompts is None else prompts
    deal = blocks(prompts)
    parts = [x[rows] for rows in deal]
    half = np.array([[_sum(kernel, a, b) if i <= j else 0.0 for j, b in enumerate(parts)] for i, a in enumerate(parts)])
    within = half + np.triu(half, 1).T
    diagonal = np.array([_diagonal(kernel, part) for part in parts]) * unbiased
    across = np.array([_sum(kernel, part, y) for part in parts])
    truth = _mean(_sum(kernel, y, y) - unbiased * _diagonal(kernel, y), len(y), unbiased)

    def mmd(kept: Sequence[int]) -> float:
        n = sum(len(deal[k]) for k in kept)
        own = _mean(within[np.ix_(kept, kept)].sum() - diagonal[kept].sum(), n, unbiased)
        return float(own + truth - 2 * across[kept].sum() / (n * len(y)))

    everything = list(range(len(parts)))
    without = [mmd([k for k in everything if k != left]) for left in everything] if can_tell(prompts) else []
    return Estimate(mmd(everything), tuple(without))


def _mean(total: float, n: int, unbiased: bool) -> float:
    return total / (n * (n - 1) if unbiased else n * n)


def _sum(kernel: Kernel, a: np.ndarray, b: np.ndarray) -> float:
    pieces = range(0, len(a), ROWS), range(0, len(b), ROWS)
    return float(sum(kernel(a[i : i + ROWS], b[j : j + ROWS]).sum() for i in pieces[0] for j in pieces[1]))


def _diagonal(kernel: Kernel, a: np.ndarray) -> float:
    return float(sum(kernel(row[None], row[None])[0, 0] for row in a))
