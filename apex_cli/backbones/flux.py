"""FLUX.1: diffusers' transformer, AutoencoderKL, CLIP and T5 behind the `Backbone` protocol.

What differs from the common convention: the network sees 2 x 2 latent pixels as one token and wants the position of
each; the prompt is T5's sequence and CLIP's pooled vector (see clip_t5.py for the padding); FLUX.1-dev was distilled
from guidance and is told one as an input, which is not the `guidance` of two velocities.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from apex_cli.backbones.clip_t5 import ClipT5Backbone
from apex_cli.backbones.pipelines import PipelineConfig, exact_time
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond


class FluxConfig(PipelineConfig):
    path: str  # pyright: ignore[reportGeneralTypeIssues]  # required here
    """A diffusers pipeline folder or a hub id."""
    resolution: int = 1024
    max_tokens: int = Field(default=512, gt=0, le=512)
    """Length of T5's sequence, as `max_sequence_length` of the stock pipeline."""
    embedded_guidance: float | None = None
    """`guidance_scale` of the stock pipeline (3.5 there), an input of FLUX.1-dev; FLUX.1-schnell has none."""


class Flux(ClipT5Backbone):
    """One loaded `FluxPipeline`; `network` is its transformer."""

    Config = FluxConfig
    pipeline_class = "FluxPipeline"
    t5 = "_2"
    patch = 2

    def dimensions(self) -> tuple[int, int, int]:
        """Raises `UsageError` unless `embedded_guidance` is set just where the network takes it."""
        facts, path = self.network.config, self.config.path
        if facts.guidance_embeds != (self.config.embedded_guidance is not None):
            takes, remedy = ("needs an", "Set") if facts.guidance_embeds else ("takes no", "Remove")
            raise UsageError(f"'{path}' {takes} embedded guidance.", f"{remedy} backbone.embedded_guidance.")
        return facts.in_channels // 4, self.pipeline.vae_scale_factor, facts.joint_attention_dim

    def embed(self, tokens: dict[str, Tensor]) -> Cond:
        """T5's last hidden state and CLIP's pooled output, as the stock pipeline makes them."""
        return self.whole(self.read("_2", tokens).last_hidden_state, self.read("", tokens).pooler_output)

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        size = (x_t.shape[2] // 2, x_t.shape[3] // 2)
        guidance = self.config.embedded_guidance
        # (0, row, column) of each token, made on the device: a CUDA graph can copy nothing from the host.
        places = (torch.arange(n, device=x_t.device, dtype=x_t.dtype) for n in size)
        with exact_time(self.network.time_text_embed, 1000 * t):
            packed = self.network(
                hidden_states=pixel_unshuffle(x_t, 2).flatten(2).mT,
                encoder_hidden_states=cond.tokens,
                pooled_projections=cond.pooled,
                timestep=t,
                guidance=None if guidance is None else t.new_full(t.shape, guidance),
                txt_ids=cond.tokens.new_zeros(cond.tokens.shape[1], 3),
                img_ids=torch.cartesian_prod(x_t.new_zeros(1), *places),
                return_dict=False,
            )[0]
        return pixel_shuffle(packed.mT.unflatten(2, size), 2)
