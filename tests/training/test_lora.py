"""LoRA: base and student in one network, in the file format of the stock library."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import APEX, LORA, TINY, apex, train, write_recipe

from apex_cli.backbones.sana import Sana, SanaConfig
from apex_cli.errors import UsageError
from apex_cli.training import checkpoint, lora
from apex_cli.training.settings import LoraSettings

SETTINGS = LoraSettings(rank=4, alpha=6.0)


def tiny() -> Sana:
    return Sana(SanaConfig(tiny=TINY, max_tokens=64))


def adapted(moved: bool) -> Sana:
    """A backbone with adapters; `moved` as if trained, else fresh."""
    backbone = tiny()
    lora.add(backbone.network, SETTINGS, backbone.lora_targets, seed=0)
    if moved:
        gen = torch.Generator().manual_seed(0)
        for name, value in backbone.network.named_parameters():
            if "lora_" in name:
                value.data.copy_(torch.randn(value.shape, generator=gen))
    return backbone


@torch.no_grad()
def answer(backbone: Sana) -> torch.Tensor:
    x_t = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(1))
    return backbone.velocity(x_t, torch.tensor([0.3, 1.0]), backbone.encode_prompts(["a red cube", "two blue stars"]))


def test_fresh_adapters_change_nothing_and_are_all_that_is_trained():
    backbone = adapted(moved=False)
    assert torch.equal(answer(backbone), answer(tiny()))
    trained = {name for name, value in backbone.network.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)


def test_the_same_seed_makes_the_same_adapters():
    one, other = (adapted(moved=False).network.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_disabled_is_the_base_and_keeps_what_is_trained():
    backbone = adapted(moved=True)
    student = answer(backbone)
    trained = [value.requires_grad for value in backbone.network.parameters()]
    with lora.disabled(backbone.network):
        assert torch.equal(answer(backbone), answer(tiny()))
        assert [value.requires_grad for value in backbone.network.parameters()] == trained
    assert torch.equal(answer(backbone), student)
    assert not torch.allclose(student, answer(tiny()))


def test_the_stock_pipeline_reads_the_file_with_rank_and_alpha(tmp_path):
    backbone, again = adapted(moved=True), tiny()
    lora.save(backbone, tmp_path)
    lora.load(again, tmp_path)
    torch.testing.assert_close(answer(again), answer(backbone), atol=1e-6, rtol=1e-6)


def test_saved_and_resumed_to_the_bit(tmp_path):
    backbone, again = adapted(moved=True), adapted(moved=False)
    lora.save(backbone, tmp_path)
    lora.load_weights(again, tmp_path)
    one, other = backbone.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_target_that_is_not_there():
    with pytest.raises(UsageError, match="to_quack"):
        lora.add(tiny().network, LoraSettings(targets=("to_q", "to_quack")), Sana.lora_targets, seed=0)


def test_a_backbone_that_cannot_load_adapters_refuses_them():
    with pytest.raises(UsageError, match="has no LoRA"):
        lora.add(torch.nn.Linear(2, 2), SETTINGS, (), seed=0)


def test_adapters_in_fp32_on_a_base_in_bf16(tmp_path, capsys):
    half = {"tiny": TINY, "dtype": "bf16"}
    run = train(tmp_path / "run", backbone=half, objective=APEX, train={**LORA, "precision": "bf16"})
    weights = load_file(checkpoint.find(run) / "model" / lora.FILE)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)
    capsys.readouterr()
    assert apex("sample", "--ckpt", run, "a red cube", "--out", tmp_path / "pictures") == 0
    assert apex("train", write_recipe(tmp_path / "full.toml", backbone=half), "--out", tmp_path / "full") == 2
    assert "must be in fp32" in capsys.readouterr().err
