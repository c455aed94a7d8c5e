"""Trains the autoencoder: || D(E(x) + noise) - x || in L1 and L2, with latents that differ from image to image.

The noise on the latent makes the decoder tolerate the small errors of a generator. The covariance of the latents'
channels, counted over images at each place, is held at the identity: a mean square of one is also that of a constant,
and a variance of one that of "something dark is here" in every channel; an encoder without shortcuts (Qwen-Image's)
stops at either (ours; the paper starts from a finished autoencoder).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from apex_cli.config import Section
from apex_cli.objectives.base import Batch, Draws, Loss, Needs, Nets

Coder = Callable[[Tensor], Tensor]


class ReconstructionConfig(Section):
    latent_noise: float = Field(default=0.1, ge=0)
    """Standard deviation of the noise added to the latent before decoding."""
    latent_weight: float = Field(default=0.1, ge=0)
    """Weight of (|| mean ||^2 + || covariance - 1 ||^2) / channels."""


class Reconstruction:
    Config = ReconstructionConfig
    needs = Needs(trains="autoencoder", inputs="pixels")
    modules: nn.Module | None = None

    def __init__(self, config: ReconstructionConfig):
        self.config = config

    def draw(self, shape: Sequence[int], gen: Generator, progress: float = 0.0) -> Draws:
        """`seed` [B]: one integer an image; the latent noise follows from it once the latent's shape is known."""
        return {"seed": torch.randint(2**31, (shape[0],), generator=gen)}

    def loss(self, nets: Nets, batch: Batch, draws: Draws) -> Loss:
        encode, decode = cast(Coder, nets.encode), cast(Coder, nets.decode)
        latents = encode(batch.x)
        gens = [Generator().manual_seed(int(seed)) for seed in draws["seed"]]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in gens]).to(latents)
        error = decode(latents + self.config.latent_noise * noise) - batch.x
        return Loss(
            parts={
                "l1": error.abs().mean(),
                "l2": error.square().mean(),
                "latent": latents.mean((0, 2, 3)).square().mean() + _uncorrelated(latents),
            },
            weights={"l1": 1.0, "l2": 1.0, "latent": self.config.latent_weight},
        )


def _uncorrelated(latents: Tensor) -> Tensor:
    """|| C - 1 ||^2 / channels of `latents` [B, C, h, w]; C is the covariance of the channels over images."""
    values = (latents - latents.mean(0)).transpose(0, 1).flatten(1)
    excess = values @ values.T / values.shape[1] - torch.eye(len(values), device=values.device)
    return excess.square().sum() / len(values)
