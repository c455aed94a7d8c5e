"""What a backbone is: everything that differs between architectures, and nothing else.

One convention for all: latents `[B, C, h, w]` normalised to unit scale, t in [0, 1] with t = 1 noise, the network
predicts `velocity = noise - x`. An adapter translates this to the time argument, packing, masks and latent
normalisation of one diffusers class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from apex_cli.config import Section
from apex_cli.flow.condition import Cond


class Backbone(Protocol):
    Config: ClassVar[type[Section]]
    lora_targets: ClassVar[tuple[str, ...]]
    """Module-name suffixes that LoRA adapts by default; none where the model cannot load adapters."""

    network: nn.Module
    """The module that `velocity` calls: what is trained. Its own module lists hold its repeated blocks."""
    latent_shape: tuple[int, int, int]
    """(C, h, w) of one image at the configured resolution."""
    patch: int
    """Side, in latent pixels, of what the network reads as one token; it divides h and w."""
    cond_dim: int
    """D of `Cond.tokens`."""
    pooled_dim: int
    """P of `Cond.pooled`; 0 where there is none."""

    times: tuple[float, ...] | None
    """The only times that `velocity` answers for, where the network is folded at them; None: any."""

    scale_invariant_text: bool
    """Whether the text is normalised before any weight sees it, so that its length carries no meaning."""
    masks_text: bool
    """Whether padding of the text changes nothing; where it does, all texts have one length."""
    unused: tuple[str, ...]
    """Prefixes of parameters that nothing we compute depends on, as `transformer.NAME` or `text_encoder.NAME`; they
    never get a gradient, so training leaves them frozen."""

    def with_config(self, config: Any) -> Self:
        """Itself, the same weights, under another configuration of its class (resolution, prompt length)."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Cond:
        """Text to embeddings, exactly as the stock pipeline makes them."""
        ...

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> normalised latents [B, C, h, w]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents -> pixels [B, 3, H, W] in about [-1, 1] (not clamped)."""
        ...

    def velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """F(x_t, t, c): x_t [B, C, h, w], t [B] in [0, 1] -> [B, C, h, w]."""
        ...

    def to(self, device: torch.device) -> None:
        """Move every module to `device`."""
        ...

    def save(self, folder: Path) -> None:
        """Write the whole pipeline folder in the format of the stock library."""
        ...
