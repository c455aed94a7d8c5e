"""The published models on the meta device: their size, and what a LoRA step of Qwen-Image costs at its real widths.

Published figures of one step, in forwards F of the frozen network (1024 image and 128 text tokens, four of the sixty
blocks, rank 64): flow matching 2.12, the paper's Eq 25 5.28, with gradient checkpointing 3.15 and 7.33.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "reproduce_train_step.py"
SANA_600M = {
    "num_attention_heads": 36, "attention_head_dim": 32, "num_layers": 28, "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72, "cross_attention_dim": 1152,
}  # fmt: skip
"""What differs from the class's defaults, which are those of SANA 1.6B."""
"""F of a step by kind: without and with full gradient checkpointing."""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("reproduce_train_step", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
