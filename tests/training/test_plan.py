"""`apex train --plan`: what it counts is what is really built and really run, and it needs no weights."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from math import prod

import pytest
import torch
from tiny_runs import LORA, TINY, apex, write_recipe

from apex_cli import build, recipe
from apex_cli.errors import SetupError, UsageError
from apex_cli.flops import FORMULAS, Flops
from apex_cli.gpus import GPUS
from apex_cli.training.live import Live, peak
from apex_cli.training.parts import Parts
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
    memory, trained = plan.memory.parts, 4 * plan.parameters.trainable
    assert plan.parameters.trained == tuple(parts.modules)
    assert memory["LoRA"] + memory["trained weights"] == trained == memory["gradients"]
    assert bool(memory["LoRA"]) == parts.lora
    everything = memory["frozen weights"] + trained + plan.memory.host["idle encoders"]
    assert everything >= 4 * sum(plan.parameters.total.values())
    assert memory["optimizer"] == 2 * trained


def recipe_train() -> dict[str, int]:
    return {"steps": 4, "batch": 8}


@pytest.mark.parametrize(
    ("objective", "with_gradient", "without_gradient", "calls"),
    [({"name": "fm"}, 1, 0, 1), (EQ25, 2, 1, 3), ({"name": "apex"}, 3, 1, 3), (BASE, 2, 1, 3)],
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
    full = planned(objective=BASE)[1].memory.parts
    assert full["real network"] == pytest.approx(4 * planned()[1].parameters.total["transformer"], rel=0.05)
    assert planned(objective=BASE, train={**recipe_train(), **LORA})[1].memory.parts["real network"] == 0
    assert planned(objective={"name": "apex"})[1].memory.parts["real network"] == 0


def test_checkpointing_and_bf16_save_memory(planned):
    """Checkpointing recomputes one forward; it needs several blocks to save anything."""
    deep = {"tiny": TINY | {"layers": 4}}
    plain = planned(backbone=deep)[1]
    checkpointed = planned(backbone=deep, train={**recipe_train(), "gradient_checkpointing": 1.0})[1]
    half = planned(backbone=deep, train={**recipe_train(), "precision": "bf16"})[1]
    assert checkpointed.memory.parts["activations"] < 0.6 * plain.memory.parts["activations"]
    assert 1.2 < checkpointed.compute.step / plain.compute.step < 1.4
    assert checkpointed.compute.times_fm == 1
    some = planned(backbone=deep, train={**recipe_train(), "gradient_checkpointing": 0.5})[1]
    half_way = (plain.compute.step + checkpointed.compute.step) / 2
    assert some.compute.step == pytest.approx(half_way, rel=1e-3)
    kept = [made.memory.parts["activations"] for made in (checkpointed, some, plain)]
    assert kept == sorted(kept) and len(set(kept)) == 3
    assert half.memory.parts["activations"] < plain.memory.parts["activations"]
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
    assert plan.memory.host["latents"] == plan.disk["latent cache"] == plan.disk["prompt cache"] == 0


@pytest.mark.parametrize("as_run", [False, True], ids=["pipeline", "run"])
def test_a_folder_without_weights_is_enough(planned, tmp_path, as_run):
    from apex_cli.worlds.shapes.pipeline import TinySanaConfig, build_pipeline

    folder = tmp_path / "bare"
    build_pipeline(TinySanaConfig(**TINY)).save_pretrained(folder)
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


@pytest.mark.parametrize(("precision", "tera"), [("fp32", 19.5), ("tf32", 156), ("bf16", 312)])
def test_a_step_is_timed_at_the_rate_of_its_precision(tmp_path, precision, tera):
    read = recipe.load(write_recipe(tmp_path / "r.toml", train={**recipe_train(), "precision": precision}))
    assert build.plan(read, mfu=0.5, gpu="a100-80gb").duration.rate == tera * 1e12


def test_ranks_share_the_batch(tmp_path):
    read = recipe.load(write_recipe(tmp_path / "r.toml", train={**recipe_train(), "micro_batch": 2}))
    with pytest.raises(UsageError, match="cannot be shared by 3 ranks"):
        build.plan(read, ranks=3)
    plan = build.plan(read, ranks=2, mfu=0.5, gpu="a100-80gb")
    assert (plan.geometry.micro_batch, plan.geometry.forwards) == (2, 2)
    assert plan.compute.sample == plan.compute.step / 8
    assert plan.duration.step == pytest.approx(plan.compute.step / 2 / (0.5 * 19.5e12))
    assert plan.fits and plan.gpu == GPUS["a100-80gb"]
    state = sum(n for name, n in plan.memory.parts.items() if name not in ("gradients", "activations"))
    step = plan.memory.parts["gradients"] + plan.memory.parts["activations"]
    assert plan.memory.peak == state + max(step, plan.memory.host["idle encoders"])
    assert plan.memory.host["latents"] == 0
    latents = prod(build.start("sana", read.backbone.config)[0].latent_shape)
    assert plan.disk["latent cache"] == 4 * 32 * latents


def test_shards_divide_what_each_rank_holds(tmp_path):
    def parts(**train):
        read = recipe.load(
            write_recipe(tmp_path / "r.toml", objective=BASE, train={**recipe_train(), "ema": 0.9, **train})
        )
        return build.plan(read, ranks=4, gpu="a100-80gb").memory.parts

    whole, sharded = parts(), parts(sharding="fsdp")
    for name in ("trained weights", "optimizer", "average"):  # a tensor of six rows takes two of eight
        assert whole[name] / 4 <= sharded[name] < 1.02 * whole[name] / 4
    assert whole["gradients"] / 4 < sharded["gradients"]  # those of a block are whole until it is done
    assert sharded["real network"] < 0.5 * whole["real network"]  # buffers stay whole
    assert sharded["gathered weights"] > whole["gathered weights"] == 0
    lora, both = parts(**LORA), parts(**LORA, sharding="fsdp")
    assert both["frozen weights"] < 0.5 * lora["frozen weights"]
    assert all(both[name] == lora[name] for name in ("LoRA", "optimizer", "average", "gradients"))


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


def test_what_lives_is_counted_once_and_what_was_there_before_never():
    weight, x = torch.ones(3, 3, requires_grad=True), torch.ones(2, 3)
    live = Live([weight])
    with live.watching():
        y = x @ weight
        z = (y + 1).view(-1)[:2]
        assert live.total == 2 * x.nbytes
        del z
        assert live.total == y.nbytes
        y.sum().backward()
    assert live.gradients == weight.nbytes
    assert live.total == y.nbytes + weight.nbytes


def test_counting_keeps_nothing_alive():
    """What checkpointing frees is free while FLOPs are counted too, and computed twice."""
    from torch.utils.checkpoint import checkpoint

    def step(counter):
        blocks = [torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(4))) for _ in range(4)]
        live, x = Live(), torch.randn(50, 16)
        with live.watching(), counter:
            for block in blocks:
                x = checkpoint(block, x, use_reentrant=False)
            x.sum().backward()
        return peak(live.course)

    counter = Flops()
    assert step(counter) == step(nullcontext())
    assert counter.total > 3.5 * 16 * 2 * 50 * 16 * 16


A100 = "'a100-40gb' or 'a100-80gb' or 'a100-40gb-pcie' or 'a100-80gb-pcie'"


@pytest.mark.parametrize(("wrong", "near"), [("a100", A100), ("H200-140gb", "'h200-141gb'")])
def test_a_wrong_gpu_names_the_near_ones(tmp_path, capsys, wrong, near):
    file = write_recipe(tmp_path / "tiny.toml")
    assert apex("train", file, "--plan", "--gpu", wrong) == 2
    told = capsys.readouterr().err
    assert f"Did you mean {near}?" in told
    assert "rtx4090-24gb" in told


@pytest.mark.parametrize("flag", [("--gpus", 2), ("--gpu", "a100-80gb"), ("--fit", "24GB")])
def test_what_only_plans_does_not_train(tmp_path, capsys, flag):
    assert apex("train", write_recipe(tmp_path / "tiny.toml"), "--out", tmp_path / "run", *flag) == 2
    assert "torchrun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_command_tells_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write_recipe(tmp_path / "tiny.toml", objective=EQ25)
    assert apex("train", file, "--plan", "--json", "--mfu", 0.5) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["duration"]["mfu"] == 0.5
    assert told["recipe"]["objective"]["lambda_g"] == 0
    assert told["compute"]["evaluations"] == {
        "with_gradient": 2, "without_gradient": 1, "calls": 3, "graphs": 2,
    }  # fmt: skip
    assert apex("train", file, "--plan", "--gpus", 4, "--gpu", "rtx4090-24gb") == 0
    out = capsys.readouterr().out
    assert "ESTIMATE" in out
    assert re.search(r"fits in rtx4090-24gb +24 GB", out)
    assert re.search(r"peak of rtx4090-24gb +82,600.0 GFLOP/s", out)
    assert "FLOPs of a sample" in out
    assert "times plain flow matching" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.toml"]
