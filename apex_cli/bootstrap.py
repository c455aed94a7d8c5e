"""The percentile bootstrap by which scores and times say how sure they are; each room says what it draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2_000
AT_ONCE = 50
"""Draws held in memory; a divisor of their number."""
LEVEL = 0.95
SEED = 20_110


def rows(count: int, rng: np.random.Generator) -> np.ndarray:
    """Places drawn with replacement: int [RESAMPLES, count]."""
    return rng.integers(count, size=(RESAMPLES, count))


def drawn(values: Sequence[float] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap draws of `values`: float [RESAMPLES, n]."""
    row = np.asarray(values, float)
    return row[rows(len(row), rng)]


def means(values: Sequence[float] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of each of these draws: float [RESAMPLES]. Some at a time: all draws of 30,000 values are a gigabyte."""
    row = np.asarray(values, float)
    parts = (rng.integers(len(row), size=(AT_ONCE, len(row))) for _ in range(RESAMPLES // AT_ONCE))
    return np.concatenate([row[part].mean(1) for part in parts])


def bounds(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile interval of what was made of the draws, [RESAMPLES]."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
