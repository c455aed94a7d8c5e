"""A baseline and a new benchmark: what is a regression, what is noise, and what must not be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from apex_cli.benching import verdict
from apex_cli.benching.verdict import SCHEMA, compare, regressions
from apex_cli.errors import DataError, UsageError

BOTH = ("over diffusers", "seconds")


def document(fast: float, stock: float = 1.0, noise: float = 0.02, seed: int = 0, **changes):
    """A benchmark of two modes with so many seconds; noise that both share, and some of their own."""
    rng = np.random.default_rng(seed)
    busy = rng.lognormal(0, noise, 40)
    cells = [
        {"key": f"m 64 px batch 1 nfe 1 {mode}", "mode": mode,
         "times": (seconds * busy * rng.lognormal(0, 0.005, 40)).tolist()}
        for mode, seconds in (("fast", fast), ("diffusers", stock))
    ]  # fmt: skip
    return {
        "schema": SCHEMA,
        "device": {"identity": "card, 80 GiB"},
        "weights": "w",
        "clock": "wall",
        "cells": cells,
    } | changes


def failed(new, old) -> set[str]:
    return {f"{c.key.split()[-1]}: {c.what}" for c in regressions(compare(new, old), BOTH)}


def test_the_same_again_is_no_regression():
    assert failed(document(0.5, seed=1), document(0.5, seed=2)) == set()


def test_slower_than_the_stock_pipeline_by_more_than_five_percent():
    assert failed(document(0.54, seed=1), document(0.5, seed=2)) == {"fast: over diffusers"}
    assert failed(document(0.515, seed=1), document(0.5, seed=2)) == set()


def test_a_slow_machine_is_not_our_regression_in_the_ratio():
    slow = failed(document(0.6, 1.2, seed=1), document(0.5, seed=2))
    assert slow == {"fast: seconds", "diffusers: seconds"}
    ratio = compare(document(0.6, 1.2, seed=1), document(0.5, seed=2))
    assert regressions(ratio, ("over diffusers",)) == []


def test_noise_wider_than_the_growth_is_no_regression():
    old, new = document(1.0, noise=0.9, seed=3), document(1.12, noise=0.9, seed=4)
    (change,) = [c for c in compare(new, old) if c.what == "seconds" and c.key.endswith("fast")]
    assert change.change.low < 1 < change.change.high and not change.regressed


def test_faster_is_no_regression():
    assert failed(document(0.2), document(0.5)) == set()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"device": {"identity": "other, 80 GiB"}}, "another device: card, 80 GiB, not other, 80 GiB"),
        ({"weights": "v"}, "another weights"),
        ({"clock": "cpu"}, "another clock"),
        ({"cells": []}, "no cell in common"),
    ],
)
def test_what_cannot_be_compared(changes, told):
    with pytest.raises(UsageError, match=told):
        compare(document(0.5, **changes), document(0.5))


def test_saved_and_read_again(tmp_path):
    path = tmp_path / "deep" / "base.json"
    verdict.save(document(0.5), path)
    assert verdict.read(path) == document(0.5)
    assert [p.name for p in path.parent.iterdir()] == ["base.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"schema": 0, "cells": []}), None])
def test_what_is_no_baseline(content, tmp_path):
    path = tmp_path / "base.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match="is no"):
        verdict.read(path)
