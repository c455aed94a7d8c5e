"""`apex train --plan`: what it counts is what is really built and really run, and it needs no weights."""

from __future__ import annotations

import json
from math import prod

import pytest
import torch
from tiny_runs import LORA, TINY, apex, write_recipe

from apex_cli import build, recipe
from apex_cli.errors import SetupError, UsageError
from apex_cli.objectives.base import Batch, Nets
from apex_cli.training.cost import FORMULAS, Activations, addresses
from apex_cli.training.parts import Parts
from apex_cli.training.schedule import rows_of_step
from apex_cli.worlds.shapes.questions import ANSWERS

EQ25 = {"name": "apex", "lambda_g": 0}
BASE = {"name": "apex", "real": "base", "lambda_e": 0}


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """`planned(**sections)`: (recipe, plan), each made once."""
    made = {}

    def make(**sections):
        key = json.dumps(sections, sort_keys=True)
        if key not in made:
            read = recipe.load(write_recipe(tmp_path_factory.mktemp("plan") / "r.toml", **sections))
            made[key] = read, build.plan(read)
        return made[key]

    return make


def real(read: recipe.Recipe):
    """The backbone of a recipe with its weights, its objective, and what is trained."""
    backbone, _ = build.start(read.backbone.name, read.backbone.config)
    objective = build.objective(read.objective, backbone)
    return backbone, objective, Parts(backbone, objective.needs, read.train, objective.modules)


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("train", [{}, LORA, {"text_encoder": True}], ids=["full", "lora", "text"])
def test_parameters_are_those_of_the_built_model(planned, train):
    read, plan = planned(train={**recipe_train(), **train})
    backbone, _, parts = real(read)
    found = {"transformer": backbone.network, "text_encoder": backbone.text_encoder, "vae": backbone.autoencoder}
    assert plan.parameters.total == {name: size(module) for name, module in found.items()}
    assert plan.parameters.trainable == sum(p.numel() for p in parts.named.values())
    assert plan.memory["weights"] >= 4 * sum(plan.parameters.total.values())
    assert plan.memory["optimizer"] == 2 * plan.memory["gradients"] == 8 * plan.parameters.trainable


def recipe_train() -> dict[str, int]:
    return {"steps": 4, "batch": 8}


@pytest.mark.parametrize(
    ("objective", "with_gradient", "without_gradient", "calls"),
    [({"name": "fm"}, 1, 0, 1), (EQ25, 2, 1, 3), ({"name": "apex"}, 3, 2, 3), (BASE, 2, 2, 4)],
    ids=["fm", "eq25", "self", "base"],
)
def test_evaluations_are_counted(planned, objective, with_gradient, without_gradient, calls):
    asked = planned(objective=objective)[1].compute.evaluations
    assert (asked.with_gradient, asked.without_gradient, asked.calls) == (with_gradient, without_gradient, calls)


def test_flops_of_the_papers_step_against_flow_matching(planned):
    """The paper counts 2.3 to 2.5."""
    plain, paper = planned()[1].compute, planned(objective=EQ25)[1].compute
    assert plain.times_fm == 1
    assert 2 < paper.times_fm < 2.6
    assert paper.step == pytest.approx(paper.times_fm * plain.step)
    assert plain.in_forwards["forwards with gradient"] == pytest.approx(1)
    assert 1.7 < plain.in_forwards["backward"] < 2.05
    assert paper.in_forwards["forwards without gradient"] == pytest.approx(1)


def test_a_copy_for_the_real_velocity_only_where_adapters_cannot_be_switched_off(planned):
    full = planned(objective=BASE)[1].memory
    assert full["real network"] == pytest.approx(4 * planned()[1].parameters.total["transformer"], rel=0.05)
    assert planned(objective=BASE, train={**recipe_train(), **LORA})[1].memory["real network"] == 0
    assert planned(objective={"name": "apex"})[1].memory["real network"] == 0


@pytest.mark.parametrize("objective", [{"name": "fm"}, EQ25], ids=["fm", "eq25"])
def test_activations_are_what_a_real_step_saves(planned, objective):
    read, plan = planned(objective=objective)
    backbone, goal, _ = real(read)
    data = build.data(read)
    rows = rows_of_step(len(data), read.train.batch, read.train.seed, 0)
    with torch.no_grad():
        cond = backbone.encode_prompts(data.prompts(rows.tolist()))
    shape = (read.train.batch, *backbone.latent_shape)
    saved: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in backbone.network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    draws = goal.draw(shape, torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = goal.loss(Nets(backbone.velocity), Batch(torch.randn(shape), cond), draws)
    assert torch.isfinite(loss.total)
    assert plan.memory["activations"] == pytest.approx(sum(saved.values()), rel=0.15)
    assert plan.disk["latent cache"] == 4 * len(data) * prod(backbone.latent_shape)
    assert plan.memory["latents"] == 0


def test_checkpointing_and_bf16_save_memory(planned):
    """Checkpointing recomputes one forward; it needs several blocks to save anything."""
    deep = {"tiny": TINY | {"layers": 4}}
    plain = planned(backbone=deep)[1]
    checkpointed = planned(backbone=deep, train={**recipe_train(), "gradient_checkpointing": True})[1]
    half = planned(backbone=deep, train={**recipe_train(), "precision": "bf16"})[1]
    assert checkpointed.memory["activations"] < 0.6 * plain.memory["activations"]
    assert 1.2 < checkpointed.compute.step / plain.compute.step < 1.4
    assert half.memory["activations"] < plain.memory["activations"]
    assert half.compute.step == plain.compute.step


def test_the_autoencoder_can_be_planned(planned):
    plan = planned(objective={"name": "reconstruction"})[1]
    assert plan.parameters.trainable == plan.parameters.total["vae"]
    assert plan.compute.times_fm is None
    assert plan.compute.step > 0


def test_a_reader_can_be_planned(planned):
    plan = planned(objective={"name": "reading", "answers": ANSWERS})[1]
    assert plan.parameters.trainable == plan.parameters.total["text_encoder"] + plan.parameters.total["objective"]
    assert plan.compute.step > 0
    assert plan.disk["latent cache"] == plan.disk["prompt cache"] == 0


@pytest.mark.parametrize("as_run", [False, True], ids=["pipeline", "run"])
def test_a_folder_without_weights_is_enough(planned, tmp_path, as_run):
    from apex_cli.worlds.shapes.pipeline import TinySanaConfig, write_pipeline

    folder = tmp_path / "bare"
    write_pipeline(TinySanaConfig(**TINY), folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    path = folder
    if as_run:
        path = tmp_path / "run"
        (path / "step-000002").mkdir(parents=True)
        (path / "step-000002" / "manifest.json").write_text("{}")
        row = {"name": "sana", "config": {"path": str(folder)}}
        contract = {"tuning": "full", "backbone": row, "sample": {}, "objective": "fm"}
        (path / "step-000002" / "contract.json").write_text(json.dumps(contract))
    fresh, plan = planned()[1], planned(backbone={"path": str(path)})[1]
    assert (plan.parameters, plan.compute, plan.memory) == (fresh.parameters, fresh.compute, fresh.memory)


def test_a_hub_model_that_is_not_cached(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    read = recipe.load(write_recipe(tmp_path / "r.toml", backbone={"path": "nobody/nothing"}))
    with pytest.raises(SetupError) as told:
        build.plan(read)
    assert "hf download nobody/nothing" in told.value.remedy


def test_ranks_share_the_batch(tmp_path):
    read = recipe.load(write_recipe(tmp_path / "r.toml", train={**recipe_train(), "micro_batch": 2}))
    with pytest.raises(UsageError, match="cannot be shared by 3 ranks"):
        build.plan(read, ranks=3)
    geometry = build.plan(read, ranks=2).geometry
    assert (geometry.micro_batch, geometry.forwards) == (2, 2)


def test_depthwise_convolutions_cost_as_much_backward_as_forward_for_either_gradient():
    from torch.utils.flop_counter import FlopCounterMode

    conv = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, device="meta")
    x = torch.empty(2, 8, 4, 4, device="meta", requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        y = conv(x)
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == 2 * 2 * 8 * 16 * 9
    assert counter.get_total_flops() == 3 * forward


def test_a_storage_counts_once_and_weights_never():
    weight, x = torch.ones(3, 3, requires_grad=True), torch.ones(2, 3)
    found = Activations(addresses(iter([weight])))
    with found.hooks():
        ((x @ weight) + (x @ weight.T)).sum()
    assert found.bytes == x.nbytes


def test_the_command_tells_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_recipe(tmp_path / "tiny.toml", objective=EQ25)
    assert apex("train", file, "--plan", "--json", "--mfu", 0.5) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["duration"]["mfu"] == 0.5
    assert told["recipe"]["objective"]["lambda_g"] == 0
    assert told["compute"]["evaluations"] == {"with_gradient": 2, "without_gradient": 1, "calls": 3}
    assert apex("train", file, "--plan") == 0
    out = capsys.readouterr().out
    assert "ESTIMATE" in out
    assert "times plain flow matching" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.toml"]
