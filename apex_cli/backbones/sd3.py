"""Stable Diffusion 3 and 3.5: diffusers' transformer, AutoencoderKL, two CLIPs and T5 behind the `Backbone` protocol.

What differs from the common convention: the time argument is 1000 t; the prompt is a sequence (both CLIPs side by side,
then T5) and a pooled vector (both CLIPs). See clip_t5.py for the padding. T5, with 4.8 B parameters the
largest part of SD3.5 Medium, may be left out: zeros then stand where it would, as in the stock pipeline with
`text_encoder_3 = None`.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from apex_cli.backbones import folders
from apex_cli.backbones.clip_t5 import ClipT5Backbone
from apex_cli.backbones.pipelines import PipelineConfig
from apex_cli.flow.condition import Cond


class Sd3Config(PipelineConfig):
    path: str  # pyright: ignore[reportGeneralTypeIssues]  # required here
    """A diffusers pipeline folder or a hub id."""
    resolution: int = 1024
    max_tokens: int = Field(default=256, gt=0, le=512)
    """Length of T5's part of the prompt, as `max_sequence_length` of the stock pipeline."""
    t5: bool = True
    """Whether T5 is loaded, where the pipeline has it; without, its part of the prompt is zeros of that length."""


class Sd3(ClipT5Backbone):
    """One loaded `StableDiffusion3Pipeline`; `network` is its transformer."""

    Config = Sd3Config
    pipeline_class = "StableDiffusion3Pipeline"
    t5 = "_3"
    patch = 2

    @staticmethod
    def left_out(config: Sd3Config) -> tuple[str, ...]:
        """T5, where the recipe wants none or the folder has none; the stock pipeline asks to be told in both cases."""
        without = not config.t5 or folders.lacks(config.path, "text_encoder_3")
        return ("text_encoder_3", "tokenizer_3") if without else ()

    def dimensions(self) -> tuple[int, int, int]:
        facts = self.network.config
        return facts.in_channels, self.pipeline.vae_scale_factor, facts.joint_attention_dim

    def embed(self, tokens: dict[str, Tensor]) -> Cond:
        """Sequence and pooled vector as the stock pipeline makes them; CLIP's channels are filled up with zeros."""
        clips = [self.read(number, tokens) for number in ("", "_2")]
        clip = torch.cat([answer.hidden_states[-2] for answer in clips], dim=-1)
        if self.t5 in tokens:
            t5 = self.read(self.t5, tokens).last_hidden_state
        else:
            t5 = clip.new_zeros(len(clip), self.config.max_tokens, self.cond_dim)
        clip = pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
        return self.whole(torch.cat([clip, t5], dim=1), torch.cat([answer.text_embeds for answer in clips], dim=-1))

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.network(
            hidden_states=x_t,
            encoder_hidden_states=cond.tokens,
            pooled_projections=cond.pooled,
            timestep=1000 * t,
            return_dict=False,
        )[0]
