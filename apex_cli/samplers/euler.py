"""Euler's method on dx/dt = v: the plain sampler of flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Generator, Tensor

from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Velocity


def sample(velocity: Velocity, noise: Tensor, sigmas: Sequence[float], cond: Cond, gens: list[Generator]) -> Tensor:
    """Noise [B, C, h, w] -> latents along `sigmas` (1 ... 0): one evaluation a step, deterministic."""
    x_t = noise
    for now, then in pairwise(sigmas):
        x_t = x_t + (then - now) * velocity(x_t, x_t.new_full((len(x_t),), now), cond)
    return x_t
