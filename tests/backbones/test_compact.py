"""Compact and offloaded frozen layers: the numbers of ordinary layers with rounded weights, in fewer bytes."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch
from tiny_runs import LORA, TINY, apex, own_cache, write_recipe  # noqa: F401
from torch import nn

from apex_cli import build as root
from apex_cli import recipe
from apex_cli.backbones import compact
from apex_cli.backbones.compact import CompactLinear
from apex_cli.errors import SetupError
from apex_cli.training import lora
from apex_cli.training.memory import module_bytes
from apex_cli.training.settings import LoraSettings

INSTALLED = find_spec("bitsandbytes") is not None
needs_library = pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed")
FORMATS = ["fp8", pytest.param("nf4", marks=needs_library)]
NAMES = ["sana", "qwen_image", "zimage", "flux", "sd3"]
BYTES = {"fp8": 1 + 2 / 32, "nf4": 0.5 + 4 / 64}
"""Of a number in a layer of 32 inputs at least."""


def rounded(build, name: str, dtype: str):
    """A model whose frozen layers have values of `dtype`, also those that the fixture drew afterwards."""
    model = build(name, dtype=dtype)
    compact.round_weights(model.network, dtype)
    return model


def step(model, compressed: bool, checkpointed: bool = False):
    """(velocity, gradients of the adapters) of `model` with LoRA."""
    model = copy.copy(model)
    model.network = copy.deepcopy(model.network)
    lora.add(model.network, LoraSettings(rank=4), model.lora_targets, seed=0)
    for name, value in model.network.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    if compressed:
        compact.compress(model)
        assert any(compact.compact_layers(model.network))
    if checkpointed:
        model.network.enable_gradient_checkpointing()
    gen = torch.Generator().manual_seed(1)
    x_t, t = torch.randn(2, *model.latent_shape, generator=gen), torch.tensor([1.0, 0.5])
    cond = model.encode_prompts(["a red cube", "two stars"]).detach()
    with torch.autocast("cpu", torch.bfloat16):
        velocity = model.velocity(x_t, t, cond)
    velocity.square().mean().backward()
    return velocity.detach(), [p.grad for p in model.network.parameters() if p.requires_grad]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_rounded_weights(build, name, dtype):
    model = rounded(build, name, dtype)
    expected, gradients = step(model, compressed=False)
    for checkpointed in (False, True):
        found, others = step(model, compressed=True, checkpointed=checkpointed)
        assert torch.equal(found, expected)
        assert len(others) == len(gradients) > 0
        for mine, theirs in zip(others, gradients, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_offloaded_layers_compute_the_same_and_stay_where_they_are(build, dtype):
    model = build("qwen_image", dtype=dtype, offload=True)
    expected, gradients = step(build("qwen_image", dtype=dtype), compressed=False)
    found, others = step(model, compressed=True)
    assert torch.equal(found, expected)
    for mine, theirs in zip(others, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-2)
    compact.compress(model)
    layer = next(compact.compact_layers(model.network)).to("meta")
    assert all(part.device.type == "cpu" for part in layer.away)
    assert layer(torch.empty(1, layer.in_features, device="meta", dtype=model.network.dtype)).is_meta


@pytest.mark.parametrize("dtype", FORMATS)
def test_packing_what_was_rounded_loses_nothing(dtype):
    layer = nn.Linear(64, 48, bias=False, dtype=torch.bfloat16)
    weight = layer.weight.detach()
    weight[3] *= 1e-3  # a row that plain e4m3 would round away
    weight[5] = 0
    once = compact.unpack(compact.pack(weight, dtype), dtype, weight.shape, weight.device)
    again = compact.unpack(compact.pack(once, dtype), dtype, weight.shape, weight.device)
    assert torch.equal(once, again)
    error = (once - weight).float().norm(dim=1) / weight.float().norm(dim=1).clamp(min=1e-9)
    assert error.max() < {"fp8": 0.04, "nf4": 0.15}[dtype]


def test_what_is_compact_takes_fewer_bytes(build):
    model = build("qwen_image", dtype="fp8")
    ordinary = copy.deepcopy(model.network.transformer_blocks)
    compact.compress(model)
    packed = model.network.transformer_blocks
    assert compact.numel(packed) == sum(value.numel() for value in ordinary.parameters())
    assert module_bytes(packed) < 0.65 * module_bytes(ordinary)
    for layer in compact.compact_layers(packed):
        assert sum(value.nbytes for value in layer.buffers()) <= BYTES["fp8"] * layer.shape.numel()


def test_scales_of_norms_and_what_is_in_no_block_stay(build):
    model = build("flux", dtype="fp8")
    compact.compress(model)
    kinds = {name: type(module) for name, module in model.network.named_modules()}
    assert kinds["transformer_blocks.0.norm1.linear"] is nn.Linear
    assert kinds["x_embedder"] is nn.Linear
    assert kinds["transformer_blocks.0.attn.to_q"] is CompactLinear


def test_the_plan_knows_the_bytes(tmp_path):
    def plan(**backbone):
        deep = {"tiny": TINY | {"layers": 2}, "max_tokens": 64} | backbone
        return root.plan(
            recipe.load(write_recipe(tmp_path / "r.toml", backbone=deep, train={"steps": 1, "batch": 4} | LORA)),
            gpu="rtx4090-24gb",
        )

    plans = {name: plan(dtype=name) for name in ("bf16", "fp8", "nf4")}
    away = plan(dtype="fp8", offload=True)
    assert len({made.parameters.total["transformer"] for made in (*plans.values(), away)}) == 1
    frozen = {name: made.memory.parts["frozen weights"] for name, made in plans.items()}
    assert frozen["bf16"] > frozen["fp8"] > frozen["nf4"]
    packed = away.memory.host["offloaded weights"]
    assert packed == frozen["fp8"] - away.memory.parts["frozen weights"] > 0
    assert 0 < away.memory.parts["gathered weights"] < packed
    assert away.memory.peak < plans["fp8"].memory.peak
    assert away.compute == plans["bf16"].compute


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_a_missing_library_is_told(build):
    with pytest.raises(SetupError, match="needs bitsandbytes") as told:
        build("sana", dtype="nf4")
    assert "scripts/setup quant" in told.value.remedy


@pytest.mark.parametrize(
    ("backbone", "train", "words"),
    [
        ({"dtype": "fp8"}, {"tuning": "full"}, "Weights that are trained must be in fp32."),
        ({"offload": True}, {"tuning": "full"}, "backbone.offload is for frozen weights."),
        ({"dtype": "fp8"}, LORA | {"sharding": "fsdp"}, "cannot be sharded"),
        ({"offload": True}, LORA | {"compile": True}, "Compiling does not go with backbone.offload"),
    ],
    ids=["full", "offload", "fsdp", "compile"],
)
def test_what_does_not_go_together(tmp_path, capsys, backbone, train, words):
    file = write_recipe(tmp_path / "r.toml", backbone=backbone, train=train)
    assert apex("train", file, "--out", tmp_path / "run") == 2
    assert words in capsys.readouterr().err


def test_a_run_draws_what_it_trained(tmp_path, capsys):
    """Steps of compact layers, a checkpoint of adapters, pictures of the same model, and a fused export of it."""
    sections = {"backbone": {"dtype": "fp8"}, "objective": {"name": "fm"}, "train": LORA | {"steps": 2}}
    run = tmp_path / "run"
    assert apex("train", write_recipe(tmp_path / "r.toml", **sections), "--out", run) == 0
    ordinary, packed = root.load_model(run), root.ready(run)
    assert any(compact.compact_layers(packed.backbone.network))
    x_t, t = torch.randn(1, *ordinary.backbone.latent_shape), torch.tensor([1.0])
    cond = ordinary.backbone.encode_prompts(["a red cube"])
    with torch.no_grad():
        assert torch.equal(*(model.backbone.velocity(x_t, t, cond) for model in (ordinary, packed)))
    assert apex("ckpt", "export", run, tmp_path / "out", "--dtype", "bfloat16") == 0
