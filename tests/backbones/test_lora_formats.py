"""LoRA on every pipeline: one network holds base and student, and the stock library reads our file."""

from __future__ import annotations

import pytest
import torch

from apex_cli.training import lora
from apex_cli.training.settings import LoraSettings

SETTINGS = LoraSettings(rank=4, alpha=6.0)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def adapted(piped, build):
    """The backbone with adapters as if trained."""
    model = build(piped.name)
    lora.add(model.network, SETTINGS, model.lora_targets, seed=0)
    gen = torch.Generator().manual_seed(0)
    for name, value in model.network.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=0.3, generator=gen)
    return model


@torch.no_grad()
def answer(case, model) -> torch.Tensor:
    return model.velocity(*case.inputs(), model.encode_prompts(case.prompts))


def test_the_stock_pipeline_reads_our_file_with_rank_and_alpha(piped, adapted, build, tmp_path):
    lora.save(adapted, tmp_path)
    again = build(piped.name)
    again.pipeline.load_lora_weights(tmp_path, weight_name=lora.FILE, adapter_name="student")
    found = again.network.peft_config["student"]
    assert (found.r, found.lora_alpha) == (SETTINGS.rank, SETTINGS.alpha)
    torch.testing.assert_close(answer(piped, again), answer(piped, adapted), **CLOSE)


def test_switched_off_it_is_the_base(piped, adapted):
    base = answer(piped, piped.model)
    assert not torch.allclose(answer(piped, adapted), base, atol=1e-3)
    with lora.disabled(adapted.network):
        assert torch.equal(answer(piped, adapted), base)


def test_fused_it_is_an_ordinary_network(piped, adapted):
    student = answer(piped, adapted)
    lora.fuse(adapted)
    assert adapted.network.state_dict().keys() == piped.model.network.state_dict().keys()
    torch.testing.assert_close(answer(piped, adapted), student, **CLOSE)
