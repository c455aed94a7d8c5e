"""Which rows a step sees: epochs without repetition, weights, one picture size a step, and no state."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from apex_cli.data.pools import Pool
from apex_cli.training.schedule import Order

PLAIN = [Pool(np.arange(20))]
MIXED = [Pool(np.arange(30), 3), Pool(np.arange(30, 37), 1)]
BUCKETS = [Pool(np.arange(0, 40, 2), 20, (64, 64)), Pool(np.arange(1, 13, 2), 6, (80, 48))]
BOTH = [
    Pool(np.arange(0, 20), 1.5, (64, 64)), Pool(np.arange(20, 30), 1.5, (80, 48)),
    Pool(np.arange(30, 35), 1.0, (64, 64)), Pool(np.arange(35, 36), 0.2, (48, 80)),
]  # fmt: skip


def seen(pools: list[Pool], steps: int, batch: int = 8, seed: int = 3) -> np.ndarray:
    order = Order(pools, batch, seed)
    return np.array([order.rows(step) for step in range(steps)])


def test_every_row_is_seen_once_an_epoch():
    rows = seen(PLAIN, 5).ravel()
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))
    assert list(rows[:20]) != list(rows[20:])
    assert list(rows[:20]) == np.random.default_rng([3, 0]).permutation(20).tolist()
    assert list(seen(PLAIN, 5, seed=4).ravel()) != list(rows)


@pytest.mark.parametrize("pools", [PLAIN, MIXED, BUCKETS, BOTH], ids=["plain", "mixed", "buckets", "both"])
def test_a_step_does_not_depend_on_those_before(pools):
    expected = seen(pools, 30)
    order = Order(pools, 8, 3)
    for step in np.random.default_rng(0).permutation(30).tolist():
        np.testing.assert_array_equal(order.rows(step), expected[step])


@pytest.mark.parametrize("pools", [MIXED, BUCKETS, BOTH], ids=["mixed", "buckets", "both"])
def test_every_pool_has_epochs_of_its_own(pools):
    rows = seen(pools, 60).ravel()
    for pool in pools:
        own = rows[np.isin(rows, pool.rows)]
        whole = len(own) // len(pool.rows)
        assert whole > 1
        epochs = own[: whole * len(pool.rows)].reshape(whole, -1)
        assert all(sorted(epoch) == pool.rows.tolist() for epoch in epochs)
        assert len(pool.rows) == 1 or epochs[0].tolist() != epochs[1].tolist()


def test_weights_count_samples_whatever_the_sizes():
    rows = seen(MIXED, 25)
    assert all(sum(step < 30) == 6 for step in rows)  # three of four, in every batch
    twins = seen([Pool(np.arange(8)), Pool(np.arange(8, 16))], 2)
    first, second = (twins[np.isin(twins, own)] for own in (np.arange(8), np.arange(8, 16)))
    assert first.tolist() != (second - 8).tolist()  # sets of one size do not go hand in hand


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [0.001, 5, 0.3, 0.3], [1e-9, 1]])
def test_turns_are_as_even_as_can_be(weights):
    pools = [Pool(np.array([n]), weight) for n, weight in enumerate(weights)]
    rows = seen(pools, 400, batch=5).ravel()
    for n, weight in enumerate(weights):
        counts = np.cumsum(rows == n)
        ideal = weight / sum(weights) * np.arange(1, len(rows) + 1)
        assert np.abs(counts - ideal).max() <= len(weights)


def test_steps_are_of_one_size_and_sizes_come_as_often_as_their_rows():
    def sizes(pools: list[Pool]) -> Counter:
        size_of = {row: pool.size for pool in pools for row in pool.rows.tolist()}
        of_step = [{size_of[row] for row in step} for step in seen(pools, 52).tolist()]
        return Counter(size for (size,) in of_step)

    assert sizes(BUCKETS) == {(64, 64): 40, (80, 48): 12}
    assert sizes(BOTH).keys() == {(64, 64), (80, 48), (48, 80)}


@pytest.mark.parametrize("pools", [PLAIN, MIXED, BUCKETS, BOTH], ids=["plain", "mixed", "buckets", "both"])
@pytest.mark.parametrize("steps", [1, 2, 3, 11])
def test_the_rows_of_a_run_are_those_of_its_steps(pools, steps):
    found = Order(pools, 8, 3).of_run(steps).tolist()
    assert sorted(found) == sorted(set(seen(pools, steps).ravel().tolist()))
