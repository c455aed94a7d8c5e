"""Z-Image: diffusers' transformer, AutoencoderKL, Qwen3 and tokenizer behind the `Backbone` protocol.

What differs from the common convention: the time argument is 1 - t, the network answers with -velocity, and images and
prompts are lists of rows. A prompt in the list has no padding, so `velocity` takes the padding of a `Cond` out again.
The stock pipeline's guidance_scale g adds g (v_cond - v_uncond) to v_cond: it is our guidance g + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from apex_cli.backbones.pipelines import PipelineBackbone, PipelineConfig
from apex_cli.flow.condition import Cond


class ZImageConfig(PipelineConfig):
    path: str  # pyright: ignore[reportGeneralTypeIssues]  # required here
    """A diffusers pipeline folder or a hub id."""
    resolution: int = 1024
    max_tokens: int = Field(default=512, gt=0)


class ZImage(PipelineBackbone):
    """One loaded `ZImagePipeline`; `network` is its transformer."""

    Config = ZImageConfig
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    pipeline_class = "ZImagePipeline"
    patch = 2
    scale_invariant_text = True

    def dimensions(self) -> tuple[int, int, int]:
        facts = self.network.config
        return facts.in_channels, self.pipeline.vae_scale_factor, facts.cap_feat_dim

    def tokenise(self, prompts: Sequence[str]) -> Any:
        """The prompt is a message of a chat."""
        tokenizer = self.pipeline.tokenizer
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for prompt in prompts
        ]
        return tokenizer(texts, padding=True, truncation=True, max_length=self.config.max_tokens, return_tensors="pt")

    def embed(self, tokens: Any) -> Cond:
        """Qwen3's last hidden state but one, as the stock pipeline computes it."""
        ids = tokens.to(self.text_encoder.device)
        states = self.text_encoder(**ids, output_hidden_states=True).hidden_states[-2]
        return Cond(states, ids.attention_mask.bool())

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        images = self.network(x=list(x_t.unsqueeze(2)), t=1 - t, cap_feats=unpadded(cond), return_dict=False)[0]
        return -torch.stack(images).squeeze(2)


def unpadded(cond: Cond) -> list[Tensor]:
    """The real tokens of each row, [L_i, D]; whole rows where the mask has no values to look at (`--plan`)."""
    if isinstance(cond.mask, FakeTensor):
        return list(cond.tokens)
    return list(cond.tokens[cond.mask].split(cond.mask.sum(1).tolist()))
