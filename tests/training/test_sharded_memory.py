"""The plan of a sharded run against what the allocator gave to each of two gloo ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from ranks import on_two_ranks
from tiny_runs import APEX, LORA, write_recipe

from apex_cli import build, recipe

DEEP = {"layers": 3, "heads": 4, "text_width": 32, "text_layers": 1}
BACKBONES = {
    "sana": {"name": "sana", "tiny": DEEP | {"width": 128, "vae_channels": [8, 16, 32, 64]}, "max_tokens": 64},
    "qwen": {"name": "qwen_image", "tiny": DEEP | {"width": 128, "vae_width": 4}, "max_tokens": 64},
}
"""What is gathered is a good part of what a step takes."""
TRAIN = {"steps": 8, "batch": 4, "sharding": "fsdp", "telemetry_every": 1000}
RUNS = {
    "sana full": {"objective": {"name": "fm"}, "train": TRAIN},
    "sana lora": {"objective": APEX, "train": TRAIN | LORA},
    "qwen full": {
        "objective": APEX,
        "train": TRAIN | {"ema": 0.9, "batch": 8, "micro_batch": 2, "gradient_checkpointing": 1.0},
    },
    "qwen lora": {"objective": APEX, "train": TRAIN | LORA | {"precision": "bf16"}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Callable[[], Path]:
    """`runs()`: a folder with NAME.toml, and RANK.json in NAME."""

    @cache
    def made() -> Path:
        folder = tmp_path_factory.mktemp("memory")
        for name, sections in RUNS.items():
            write_recipe(folder / f"{name}.toml", backbone=BACKBONES[name.split()[0]], **sections)
            (folder / name).mkdir()
        on_two_ranks("rank_memory.py", [[folder / f"{name}.toml", folder / name] for name in RUNS])
        return folder

    return made


@pytest.mark.dist
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RUNS)
def test_the_plan_of_a_rank_is_what_both_ranks_take(name, runs):
    plan = build.plan(recipe.load(runs() / f"{name}.toml"), ranks=2).memory
    parts = plan.parts
    weights = parts["frozen weights"] + parts["trained weights"] + parts["LoRA"]
    for rank in (0, 1):
        found = json.loads((runs() / name / f"{rank}.json").read_text())
        print(f"\n{name}, rank {rank}: planned {plan}; measured {found}")
        assert weights == pytest.approx(found["weights"], rel=0.01)  # and buffers
        assert parts["optimizer"] == pytest.approx(found["optimizer"], rel=0.01)
        assert parts["optimizer"] / 2 == pytest.approx(found["gradients"], rel=0.01)
        assert parts["gathered weights"] == pytest.approx(found["gathered weights"], rel=0.01)
        assert found["gathered weights"] > 0.5 * found["weights"]
        assert plan.peak == pytest.approx(found["peak"], rel=0.1)
