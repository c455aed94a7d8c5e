"""The published models on the meta device: their size, and what a LoRA step of Qwen-Image costs at its real widths.

Published figures of one step, in forwards F of the frozen network (1024 image and 128 text tokens, four of the sixty
blocks, rank 64): flow matching 2.12, the paper's Eq 25 5.28, with gradient checkpointing 3.15 and 7.33.
"""

from __future__ import annotations

import json

import pytest
import torch
from scripts_as_modules import load_script

from apex_cli.backbones.published import MODELS, SANA_600M

STEPS = {
    ("fm", False): 2.12,  # counted here 2.09: the first block needs no gradient of its input, one block in four
    ("fm", True): 3.15,  # 3.12
    ("apex eq25", False): 5.28,  # 5.27
    ("apex eq25", True): 7.33,  # 7.32
    ("apex base", False): 7.27,  # ours: two of fm (generator, and fake, which is v_fake too), v_real with guidance
    ("apex base", True): 10.35,
}
"""(kind, gradient checkpointing) -> forwards F of a step: published, and with the match term as we count it."""


@pytest.fixture(scope="module")
def script():
    return load_script("reproduce_train_step")


@pytest.mark.parametrize(
    ("name", "settings", "parameters"),
    [
        ("QwenImageTransformer2DModel", {}, 20_430_401_088),
        ("SanaTransformer2DModel", SANA_600M, 591_747_872),
        ("SanaTransformer2DModel", {}, 1_604_462_752),
    ],
    ids=["qwen-image", "sana-600m", "sana-1600m"],
)
def test_published_sizes(name, settings, parameters):
    import diffusers

    with torch.device("meta"):
        network = getattr(diffusers, name)(**settings)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert parameters in [model.parameters for model in MODELS.values()]


@pytest.fixture(scope="module")
def counted(script):
    """`counted(kind, checkpointing)`: F of every phase of a step of four full-width blocks at 512 px, and the bench."""
    from apex_cli.training.cost import Bench

    size = script.Size(network={"num_layers": 4})

    def count(kind: str, checkpointing: bool) -> dict[str, float]:
        model = script.Headless(size, "meta")
        goal, data = script.objective(kind, model), script.Captions(1)
        bench = Bench(model, goal, script.config(size, 1, checkpointing), data.prompts([0]), 1)
        forward = bench.forward(goal)
        return {name: flops / forward for name, flops in bench.cost(goal).flops.items()}

    return count


@pytest.mark.parametrize(("kind", "checkpointing"), list(STEPS), ids=lambda value: str(value))
def test_a_lora_step_costs_what_was_published(counted, kind, checkpointing):
    assert sum(counted(kind, checkpointing).values()) == pytest.approx(STEPS[kind, checkpointing], rel=0.015)


def test_the_script_runs_its_tiny_size_through_the_real_loop(script, capsys):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    script.main(["--tiny", "--steps", "1", "--micro-batch", "2"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert told["parameters"] == sum(p.numel() for p in script.Headless(script.TINY, "meta").network.parameters())
    rows = {line["kind"]: line for line in told["rows"]}
    assert list(rows) == list(script.KINDS)
    assert all(line["seconds"] > 0 and line["computed"] > line["flops"] > 0 for line in rows.values())
    assert 2.2 < rows["apex eq25"]["flops"] / rows["fm"]["flops"] < 2.6
    assert rows["apex base"]["flops"] > rows["apex eq25"]["flops"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_sixty_blocks_cost_what_the_plan_says(script, monkeypatch):
    """Qwen-Image of 20 billion parameters on the meta device, block after block and from a few blocks."""
    from apex_cli.training import repeats
    from apex_cli.training.cost import Bench

    model = script.Headless(script.Size(), "meta")
    goal = script.objective("fm", model)
    bench = Bench(model, goal, script.config(script.Size(), 1, True), ["0"], 1)
    planned = bench.cost(goal)
    monkeypatch.setattr(repeats, "WORTH", 60)
    assert bench.cost(goal) == planned
