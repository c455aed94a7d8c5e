"""How sure a distance between sets of pictures is: it is left to blocks of prompts, one of which is absent each time.

    se^2 = (B - 1) / B  sum_b (theta_b - mean theta)^2        theta_b: the distance without block b

A block has all pictures of its prompts: pictures of one prompt are not independent. The reference set is taken as
given: the interval says what other prompts would give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCKS = 10
NORMAL = 1.96
"""Standard errors on each side of a 95 % interval."""


def blocks(prompts: Sequence[str], parts: int = BLOCKS) -> list[np.ndarray]:
    """The places of pictures with these prompts (ids) in at most `parts` blocks, to which prompts are dealt in turn."""
    order = {prompt: turn for turn, prompt in enumerate(dict.fromkeys(prompts))}
    block = np.array([order[prompt] % parts for prompt in prompts])
    return [np.flatnonzero(block == part) for part in range(min(parts, len(order)))]


def can_tell(prompts: Sequence[str]) -> bool:
    """Whether there are enough prompts for an interval."""
    return len(set(prompts)) >= 2 * BLOCKS


def standard_error(without: Sequence[float]) -> float:
    """From the statistic without each block."""
    values = np.asarray(without, float)
    return float(np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()))


def interval(value: float, without: Sequence[float]) -> tuple[float, float]:
    """95 % about `value`."""
    half = NORMAL * standard_error(without)
    return value - half, value + half
