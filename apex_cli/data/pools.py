"""Rows that are shuffled together: all of a data set, those of one source of a mixture, those of one picture shape."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

Size = tuple[int, int]
"""(width, height) in pixels."""


@dataclass(frozen=True)
class Pool:
    """`rows`: int64, rising. `weight`: how often they come, beside other pools. `size`: None where all are alike."""

    rows: np.ndarray
    weight: float = 1.0
    size: Size | None = None


def pools(data: Any) -> list[Pool]:
    """The pools of a data set; every row is in one of them. One without the attribute `pools` is one pool."""
    return getattr(data, "pools", None) or [Pool(np.arange(len(data)))]


def alike(data: Any) -> list[np.ndarray]:
    """The rows of each picture size, rising."""
    found: dict[Size | None, list[np.ndarray]] = defaultdict(list)
    for pool in pools(data):
        found[pool.size].append(pool.rows)
    return [np.sort(np.concatenate(rows)) for rows in found.values()]
