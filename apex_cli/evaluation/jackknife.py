"""How sure a distance between sets of pictures is: it is left to blocks of pictures, one of which is absent each time.

    se^2 = (B - 1) / B  sum_b (theta_b - mean theta)^2        theta_b: the distance without block b

Pictures are dealt to the blocks in turn, so that each block has its share of every prompt. The reference set is taken
as given: the interval says what other pictures of the same model would give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCKS = 10
NORMAL = 1.96
"""Standard errors on each side of a 95 % interval."""


def blocks(count: int, parts: int = BLOCKS) -> list[np.ndarray]:
    """Indices 0..count-1 dealt to at most `parts` blocks."""
    return [np.arange(first, count, parts) for first in range(min(parts, count))]


def standard_error(without: Sequence[float]) -> float:
    """From the statistic without each block."""
    values = np.asarray(without, float)
    return float(np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()))


def interval(value: float, without: Sequence[float]) -> tuple[float, float]:
    """95 % about `value`."""
    half = NORMAL * standard_error(without)
    return value - half, value + half
