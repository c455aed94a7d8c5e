"""What a tracker is told: the recipe it belongs to, and of every logged step what metrics.jsonl says."""

from __future__ import annotations

from typing import Any

import pytest
from accelerate import Accelerator
from tiny_runs import metrics, train


@pytest.fixture
def told(monkeypatch) -> list[tuple[Any, ...]]:
    """What Accelerate is handed for a tracker, whichever is installed."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Accelerator, "init_trackers", lambda _, *given: calls.append(given))
    monkeypatch.setattr(Accelerator, "log", lambda _, *given: calls.append(given))
    return calls


def test_a_tracker_gets_the_recipe_and_every_number(tmp_path, told):
    run = train(tmp_path / "run", train={"steps": 2, "trackers": ["tensorboard"], "betas": [0.9, 0.99]})
    (name, settings), *steps = told
    assert name == "run"
    assert settings["train.steps"] == 2
    assert settings["train.betas"] == "[0.9, 0.99]"
    assert all(isinstance(value, bool | int | float | str) for value in settings.values())
    for (values, step), record in zip(steps, metrics(run), strict=True):
        own = {key: record[key] for key in ("loss", "grad_norm", "lr", "seconds")}
        assert (values, step) == (own | record["parts"] | record["telemetry"], record["step"])
