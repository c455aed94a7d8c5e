"""Fixtures of the networks in `tiny_networks.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import DIM, Student, Toy, make_batch
from torch import nn

from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch


@pytest.fixture(scope="session")
def sana() -> nn.Module:
    """diffusers' own class; its last layer is redrawn, since zero output has a zero gradient."""
    from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

    torch.manual_seed(0)
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=DIM,
        mlp_ratio=2.0,
        sample_size=4,
        patch_size=1,
    )
    return network.double()


@pytest.fixture
def student(sana) -> Student:
    return Student(sana)


@pytest.fixture
def batch() -> Batch:
    return make_batch()


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def toy_batch(batch) -> Batch:
    rows = len(batch)
    return replace(batch, cond=Cond(torch.ones(rows, 1, 1, dtype=torch.float64), torch.ones(rows, 1, dtype=torch.bool)))
