"""Heun's second-order method: two evaluations a step, one for the last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Generator, Tensor

from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Velocity


def sample(velocity: Velocity, noise: Tensor, sigmas: Sequence[float], cond: Cond, gens: list[Generator]) -> Tensor:
    """Noise [B, C, h, w] -> latents; the last step, to sigma 0, is Euler's."""
    x_t = noise
    for now, then in pairwise(sigmas):
        slope = velocity(x_t, x_t.new_full((len(x_t),), now), cond)
        guess = x_t + (then - now) * slope
        if then > 0:
            slope = (slope + velocity(guess, x_t.new_full((len(x_t),), then), cond)) / 2
        x_t = x_t + (then - now) * slope
    return x_t
