"""The planned peak against what the allocator really gave to a real step of the loop."""

from __future__ import annotations

from collections import deque

import allocator
import pytest
from accelerate.state import AcceleratorState
from tiny_runs import LORA, TINY, write_recipe

from apex_cli import build, recipe
from apex_cli.training.loop import Trainer

DEEP = {"tiny": TINY | {"layers": 4}}
STEPS = {"steps": 4, "batch": 16, "telemetry_every": 1000}
CONFIGURATIONS = {
    "full": {"objective": {"name": "fm"}, "train": STEPS},
    "base with average": {"objective": {"name": "apex", "real": "base"}, "train": STEPS | {"ema": 0.9}},
    "lora in pieces": {
        "objective": {"name": "apex", "lambda_g": 0},
        "train": STEPS | LORA | {"micro_batch": 8, "gradient_checkpointing": 1.0},
    },
    "bf16": {"objective": {"name": "apex"}, "train": STEPS | {"precision": "bf16"}},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_planned_peak_is_the_measured_one(name, tmp_path):
    read = recipe.load(write_recipe(tmp_path / "r.toml", backbone={**DEEP, "max_tokens": 64}, **CONFIGURATIONS[name]))
    AcceleratorState._reset_state(reset_partial_state=True)
    made = Trainer(build.job(read, tmp_path / "run"))
    deque(made._encode(), maxlen=0)
    made._optimize()
    before = allocator.state(made)
    measured, planned = before + allocator.most(allocator.record(made)), build.plan(read).memory
    print(f"\n{name}: planned {planned.peak:,}, measured {measured:,}, state {before:,}; {planned}")
    assert measured > 1.2 * before
    assert planned.peak == pytest.approx(measured, rel=0.1)
