"""The planned peak against what the allocator really gave to a real step of the loop."""

from __future__ import annotations

import allocator
import pytest
from tiny_runs import LORA, TINY, ready_trainer

from apex_cli import build, recipe

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
    made = ready_trainer(tmp_path, backbone={**DEEP, "max_tokens": 64}, **CONFIGURATIONS[name])
    read = recipe.load(str(tmp_path / "r.toml"))
    made._optimize()
    before = allocator.state(made)
    measured, planned = before + allocator.most(allocator.record(made)), build.plan(read).memory
    print(f"\n{name}: planned {planned.peak:,}, measured {measured:,}, state {before:,}; {planned}")
    assert measured > 1.2 * before
    assert planned.peak == pytest.approx(measured, rel=0.1)
