"""A deep network is counted at small depth; every number equals that of the whole, block after block."""

from __future__ import annotations

import pytest
import tiny_pipelines
from tiny_runs import TINY, own_cache  # noqa: F401

from apex_cli import build
from apex_cli.recipe import Choice
from apex_cli.registry import resolve
from apex_cli.training import repeats
from apex_cli.training.cost import Bench, StepCost
from apex_cli.training.settings import LoraSettings, TrainConfig

PROMPTS = ["a red cube", "a photo of two blue spheres and a green star"]
DEEP = {
    "sana": {"layers": 12},
    "qwen_image": {"layers": 13},
    "flux": {"num_layers": 6, "num_single_layers": 6},
    "sd3": {"num_layers": 9, "dual_attention_layers": (0, 1)},
    "zimage": {"n_layers": 12},
}
"""Six equal blocks in a row at least, also where half are checkpointed."""
FULL = {"steps": 1, "batch": 2}
LORA = FULL | {"tuning": "lora", "lora": LoraSettings(rank=4), "precision": "bf16"}
APEX = {"real": "base", "lambda_e": 0.0, "guidance": 2.0}
CASES = {
    "full": ("fm", {}, FULL),
    "lora": ("apex", APEX, LORA),
    "checkpointed": ("apex", {"lambda_g": 0}, FULL | {"gradient_checkpointing": 1.0}),
    "half": ("apex", APEX, LORA | {"gradient_checkpointing": 0.5}),
    "each graph": ("apex", APEX, LORA | {"gradient_checkpointing": (1.0, 0.5)}),
}


def bench(name: str, folder, case: str) -> tuple[Bench, object]:
    """A tiny deep model on the meta device with its trained parts, and the objective of `case`."""
    goal, settings, train = CASES[case]
    kind = resolve("backbone", name)
    if name in tiny_pipelines.BUILDERS:
        config = {"path": str(folder), "resolution": tiny_pipelines.RESOLUTION}
    else:
        config = {"tiny": (TINY if name == "sana" else {"width": 32, "heads": 2, "text_width": 32}) | DEEP[name]}
    backbone = build.skeleton(name, kind.Config(**config, max_tokens=64))
    objective = build.objective(Choice(goal, resolve("objective", goal).Config(**settings)), backbone)
    return Bench(backbone, objective, TrainConfig(**train), PROMPTS, 2), objective


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Deep pipelines of the classes that have no embedded world."""
    made = {}
    for name in tiny_pipelines.BUILDERS:
        with pytest.MonkeyPatch.context() as patch:
            import diffusers

            kind = {"flux": "Flux", "sd3": "SD3", "zimage": "ZImage"}[name] + "Transformer2DModel"
            stock = getattr(diffusers, kind)
            patch.setattr(diffusers, kind, lambda _stock=stock, _name=name, **given: _stock(**given | DEEP[_name]))
            made[name] = tiny_pipelines.write(name, tmp_path_factory.mktemp(name))
    return made


def both(made: Bench, objective, accumulate: bool, monkeypatch) -> tuple[StepCost, StepCost, int, int]:
    """Costs of a step and FLOPs of a forward: from shallow networks, and block after block."""
    monkeypatch.setattr(repeats, "WORTH", 4)
    shallow, forward = made.cost(objective, accumulate), made.forward(objective)
    monkeypatch.setattr(repeats, "WORTH", 10**6)
    made.forwards.clear()
    return shallow, made.cost(objective, accumulate), forward, made.forward(objective)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("sana", "full"),
        ("sana", "half"),
        ("qwen_image", "full"),  # its gradients outgrow what its blocks keep, so that the peak is at another moment
        ("qwen_image", "each graph"),
        ("flux", "lora"),
        ("sd3", "checkpointed"),
        ("zimage", "half"),
    ],
)
def test_it_equals_the_whole(name, case, folders, monkeypatch):
    made, objective = bench(name, folders.get(name), case)
    counted = []
    whole = repeats._extended
    monkeypatch.setattr(repeats, "_extended", lambda *given: counted.append(whole(*given)) or counted[-1])
    shallow, deep, forward, forward_deep = both(made, objective, case in ("full", "half"), monkeypatch)
    assert counted and None not in counted
    assert forward == forward_deep
    assert shallow == deep
