"""Which samples a step sees, and which of them this process computes: pure functions of (seed, step)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def _epoch_order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)


def rows_of_step(size: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The `batch` rows of optimizer step `step` (0-based): each epoch has its own order, none is lost between."""
    positions = np.arange(step * batch, (step + 1) * batch)
    return np.array([_epoch_order(size, seed, int(p) // size)[int(p) % size] for p in positions])


def rows_of_run(size: int, batch: int, seed: int, steps: int) -> np.ndarray:
    """The rows that `steps` optimizer steps see, each once."""
    return _epoch_order(size, seed, 0)[: steps * batch]


def micro_slices(batch: int, ranks: int, rank: int, micro_batch: int | None) -> list[slice]:
    """The slices of the global batch that `rank` computes, one for each forward."""
    share = batch // ranks
    size = micro_batch or share
    start = rank * share
    return [slice(start + i, min(start + i + size, start + share)) for i in range(0, share, size)]
