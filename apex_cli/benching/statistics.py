"""What can be said of repeated times: medians with bootstrap intervals, percentiles, ratios of interleaved runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apex_cli.bootstrap import SEED, bounds, drawn


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Repeated times, in seconds."""

    median: Interval
    p5: float
    p90: float
    p95: float
    n: int


def spread(times: Sequence[float]) -> Spread:
    """Median with its percentile-bootstrap interval, and percentiles (linear between order statistics)."""
    p5, p90, p95 = (float(p) for p in np.percentile(times, (5, 90, 95)))
    return Spread(_interval(float(np.median(times)), np.median(_drawn(times, 0), axis=1)), p5, p90, p95, len(times))


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Median of the ratios of runs taken one after the other, so that a busy moment is busy for both; the bootstrap
    draws rounds."""
    ratios = np.asarray(above, float) / np.asarray(below, float)
    return _interval(float(np.median(ratios)), np.median(_drawn(ratios, 0), axis=1))


def ratio(above: Sequence[float], below: Sequence[float]) -> Interval:
    """Ratio of the medians of two sets of runs that have nothing to do with each other."""
    value = float(np.median(above) / np.median(below))
    return _interval(value, np.median(_drawn(above, 0), axis=1) / np.median(_drawn(below, 1), axis=1))


def quotient(
    above: tuple[Sequence[float], Sequence[float]], below: tuple[Sequence[float], Sequence[float]]
) -> Interval:
    """How a paired ratio changed between two jobs: of each (numerator, denominator) the median of the ratios."""
    now, before = (np.asarray(a, float) / np.asarray(b, float) for a, b in (above, below))
    return ratio(now.tolist(), before.tolist())


def _drawn(values: Sequence[float] | np.ndarray, stream: int) -> np.ndarray:
    return drawn(values, np.random.default_rng((SEED, stream)))


def _interval(value: float, draws: np.ndarray) -> Interval:
    return Interval(value, *bounds(draws))
