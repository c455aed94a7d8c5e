"""Few-step sampling of a one-step generator: jump to the endpoint, add fresh noise, jump again.

    x_hat = x_t - sigma v,   x_next = sigma' eps + (1 - sigma') x_hat

The same as diffusers' FlowMatchEulerDiscreteScheduler with `stochastic_sampling=True` and shift 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from apex_cli.flow.condition import Cond
from apex_cli.flow.path import endpoint, interpolate
from apex_cli.objectives.base import Velocity


def sample(velocity: Velocity, noise: Tensor, sigmas: Sequence[float], cond: Cond, gens: list[Generator]) -> Tensor:
    """Noise [B, C, h, w] -> latents; image i draws its fresh noise from `gens[i]` alone."""
    x_t = noise
    for now, then in pairwise(sigmas):
        t = x_t.new_full((len(x_t),), now)
        x = endpoint(velocity(x_t, t, cond), x_t, t)
        if then == 0:
            return x
        fresh = torch.stack([torch.randn(x.shape[1:], generator=g) for g in gens]).to(x)
        x_t = interpolate(x, fresh, t.new_full(t.shape, then))
    return x_t
