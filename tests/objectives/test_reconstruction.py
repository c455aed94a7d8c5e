"""Reconstruction: what the latents must be like, and that a constant one is not let off."""

from __future__ import annotations

import pytest
import torch

from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch, Nets
from apex_cli.objectives.reconstruction import Reconstruction, ReconstructionConfig


def latent_penalty(latents: torch.Tensor) -> float:
    """What `latents` [B, C, h, w] cost, when a decoder makes nothing of them."""
    rows = len(latents)
    nets = Nets(None, None, lambda pixels: latents, lambda given: torch.zeros(rows, 3, 8, 8))
    batch = Batch(torch.zeros(rows, 3, 8, 8), Cond(torch.zeros(rows, 1, 1), torch.ones(rows, 1, dtype=torch.bool)))
    loss = Reconstruction(ReconstructionConfig()).loss(nets, batch, {"seed": torch.arange(rows)})
    return loss.parts["latent"].item()


def normal(rows: int) -> torch.Tensor:
    return torch.randn(rows, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def test_latents_that_differ_by_one_cost_nothing():
    assert latent_penalty(normal(64)) < 1e-3


def test_a_pattern_common_to_all_images_costs_what_nothing_costs():
    """Its mean square is one; it says nothing about any image."""
    pattern = normal(1).expand(8, -1, -1, -1)
    pattern = pattern - pattern.mean((2, 3), keepdim=True)
    assert latent_penalty(pattern) == pytest.approx(latent_penalty(torch.zeros(8, 4, 16, 16)), abs=1e-6) == 1.0


def test_a_constant_is_paid_by_channel():
    assert latent_penalty(normal(64) + 2.0) == pytest.approx(4.0, rel=0.05)


def test_one_image_alone_pulls_nowhere():
    latents = normal(1).requires_grad_(True)
    nets = Nets(None, None, lambda pixels: latents, lambda given: 0 * given.mean() + torch.zeros(1, 3, 8, 8))
    batch = Batch(torch.zeros(1, 3, 8, 8), Cond(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)))
    loss = Reconstruction(ReconstructionConfig()).loss(nets, batch, {"seed": torch.arange(1)})
    loss.total.backward()
    assert bool(latents.grad.isfinite().all())


def test_channels_that_say_the_same_are_not_let_off():
    """Each has variance one; three of four are copies."""
    copies = normal(64)[:, :1].expand(-1, 4, -1, -1)
    assert latent_penalty(copies) == pytest.approx(3.0, rel=0.05)
