"""Classifier-free guidance of a velocity: one function for sampling and for the v_real of an objective.

    v = v_uncond + guidance (v_cond - v_uncond)

With rescale = "patch" v is then given the length of v_cond in every patch of the latents, as Qwen-Image's stock
pipeline does (`true_cfg_scale`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rescale = Literal["patch"]


def guided(cond: Tensor, uncond: Tensor, guidance: float, rescale: Rescale | None = None, patch: int = 1) -> Tensor:
    """The guided velocity, [B, C, h, w] like `cond`; `patch`: side of a patch in latent pixels, it divides h and w."""
    velocity = uncond + guidance * (cond - uncond)
    return velocity if rescale is None else as_long_as(cond, velocity, patch)


def as_long_as(reference: Tensor, x: Tensor, patch: int) -> Tensor:
    """`x` [B, C, h, w] with the norm of `reference` in every patch of `patch` x `patch` latent pixels, all channels."""

    def squares(v: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(v.float().square().sum(1, keepdim=True), patch)

    ratio = (squares(reference) / squares(x)).sqrt().to(x.dtype)
    return x * ratio.repeat_interleave(patch, -2).repeat_interleave(patch, -1)
