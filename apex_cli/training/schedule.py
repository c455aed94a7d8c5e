"""Which samples a step sees, and which of them this process computes: pure functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apex_cli.data.pools import Pool

PARTS = 2**20
"""Weights that are no whole numbers are taken as whole parts of this."""


class Order:
    """The rows of every step. All rows of a step are of one picture size.

    Steps turn to the sizes, and the places of a batch to the pools of a size, in proportion to their weights. A pool is
    gone through in an order of its own for each epoch, so that none of its rows comes again before all others came.
    """

    def __init__(self, pools: Sequence[Pool], batch: int, seed: int):
        self.batch = batch
        self.lines = [_Line(pool.rows, seed, number) for number, pool in enumerate(pools)]
        self.groups = [
            [number for number, pool in enumerate(pools) if pool.size == size]
            for size in dict.fromkeys(pool.size for pool in pools)
        ]
        self.weights = [_whole([pools[number].weight for number in group]) for group in self.groups]
        self.turns = _whole([sum(pools[number].weight for number in group) for group in self.groups])

    def rows(self, step: int) -> np.ndarray:
        """The `batch` rows of optimizer step `step` (0-based)."""
        (group,), (turn,) = _turns(self.turns, np.array([step]))
        owners, numbers = _turns(self.weights[group], np.arange(turn * self.batch, (turn + 1) * self.batch))
        rows = np.empty(self.batch, np.int64)
        for owner, line in enumerate(self.groups[group]):
            rows[owners == owner] = self.lines[line].at(numbers[owners == owner])
        return rows

    def of_run(self, steps: int) -> np.ndarray:
        """The rows that `steps` optimizer steps see, each once."""
        found = []
        for group, weights, turns in zip(self.groups, self.weights, _had(self.turns, np.array(steps)), strict=True):
            for line, count in zip(group, _had(weights, turns * self.batch), strict=True):
                found.append(self.lines[line].order(0)[: int(count)])
        return np.concatenate(found)


class _Line:
    """The rows of a pool one behind the other, without end."""

    def __init__(self, rows: np.ndarray, seed: int, number: int):
        self.shuffled, self.seed, self.number = rows, seed, number
        self.all, self.epoch = rows, -1

    def at(self, numbers: np.ndarray) -> np.ndarray:
        epochs, places = np.divmod(numbers, len(self.all))
        found = np.empty(len(numbers), np.int64)
        for epoch in np.unique(epochs):
            found[epochs == epoch] = self.order(int(epoch))[places[epochs == epoch]]
        return found

    def order(self, epoch: int) -> np.ndarray:
        if epoch != self.epoch:
            # numpy reads [seed, epoch, 0] as [seed, epoch]
            mixed = np.random.default_rng([self.seed, epoch, self.number]).permutation(len(self.all))
            self.shuffled, self.epoch = self.all[mixed], epoch
        return self.shuffled


def _whole(weights: Sequence[float]) -> list[int]:
    total = sum(weights)
    if total < 2**31 and all(weight == int(weight) for weight in weights):
        return [int(weight) for weight in weights]
    return [max(1, round(weight / total * PARTS)) for weight in weights]


def _had(weights: Sequence[int], turns: np.ndarray) -> list[np.ndarray]:
    """How many of the first `turns` turns each of `weights` had: the first its part, rounded up, the others of the rest
    likewise. So every turn is somebody's, and who has it follows from two neighbouring counts."""
    counts, rest, total = [], turns, sum(weights)
    for weight in weights:
        counts.append(-(-rest * weight // total))
        rest, total = rest - counts[-1], total - weight
    return counts


def _turns(weights: Sequence[int], turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whose each of the `turns` (0-based) is, and how many turns he had before."""
    before, after = np.array(_had(weights, turns)), np.array(_had(weights, turns + 1))
    owners = (after - before).argmax(0)
    return owners, before[owners, np.arange(len(turns))]


def micro_slices(batch: int, ranks: int, rank: int, micro_batch: int | None) -> list[slice]:
    """The slices of the global batch that `rank` computes, one for each forward."""
    share = batch // ranks
    size = micro_batch or share
    start = rank * share
    return [slice(start + i, min(start + i + size, start + share)) for i in range(0, share, size)]
