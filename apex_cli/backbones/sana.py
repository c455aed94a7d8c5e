"""SANA: diffusers' transformer, AutoencoderDC, Gemma-2 and tokenizer behind the `Backbone` protocol.

What differs from the common convention: the time argument is `1000 t * config.timestep_scale`, latents are the
deterministic encoder output times `vae.config.scaling_factor`, text is right-padded with a mask, and the stock pipeline
puts a "complex human instruction" before every prompt (the full-size checkpoints expect it; the tiny one has none).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from apex_cli.backbones.pipelines import PipelineBackbone, PipelineConfig
from apex_cli.flow.condition import Cond
from apex_cli.worlds.shapes.pipeline import TinySanaConfig, build_pipeline


class SanaConfig(PipelineConfig):
    tiny: TinySanaConfig = TinySanaConfig()
    """Sizes of a fresh pipeline of the shapes world; read only without `path`."""
    instruction: bool = False
    """Put the stock pipeline's complex human instruction before every prompt."""


class Sana(PipelineBackbone):
    """One loaded `SanaPipeline`; `network` is its transformer."""

    Config = SanaConfig
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    pipeline_class = "SanaPipeline"

    @staticmethod
    def fresh(tiny: TinySanaConfig):
        return build_pipeline(tiny)

    @property
    def patch(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """1 in the released models; the tiny ones differ."""
        return self.network.config.patch_size

    def dimensions(self) -> tuple[int, int, int]:
        facts = self.network.config
        return facts.in_channels, self.autoencoder.spatial_compression_ratio, facts.caption_channels

    @property
    def head(self) -> int:
        """The pipeline keeps the first token and those from here on: behind the instruction but for its last token,
        which may grow into the prompt's first."""
        instruction = self.instruction()
        return len(self.pipeline.tokenizer.encode(instruction)) - 1 if instruction else 1

    def tokenise(self, prompts: Sequence[str]) -> Any:
        """Prompts behind the human instruction, padded on the right to the longest."""
        tokenizer, instruction = self.pipeline.tokenizer, self.instruction()
        tokenizer.padding_side = "right"
        return tokenizer(
            [instruction + text for text in self.pipeline._text_preprocessing(list(prompts))],
            padding=True,
            truncation=True,
            max_length=self.head + self.config.max_tokens - 1,
            return_tensors="pt",
        )

    def embed(self, tokens: Any) -> Cond:
        """Gemma-2's last hidden state, as the stock pipeline computes it, without its padding.

        Attention is causal and padding stands right, so trimming changes nothing.
        """
        ids = tokens.to(self.text_encoder.device)
        states = self.text_encoder(**ids)[0]
        keep = [0, *range(self.head, states.shape[1])]
        return Cond(states[:, keep], ids.attention_mask[:, keep].bool())

    def instruction(self) -> str:
        """The text before every prompt."""
        if not self.config.instruction:
            return ""
        parameters = inspect.signature(type(self.pipeline).__call__).parameters
        return "\n".join(parameters["complex_human_instruction"].default)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> latents [B, C, H/f, W/f] scaled to unit mean square."""
        return self.autoencoder.encode(pixels).latent * self.autoencoder.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pixels [B, 3, H, W]."""
        latents = latents.to(self.autoencoder.dtype)
        return self.autoencoder.decode(latents / self.autoencoder.config.scaling_factor).sample

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.network(
            hidden_states=x_t,
            encoder_hidden_states=cond.tokens,
            encoder_attention_mask=cond.mask.to(x_t.dtype),
            timestep=t * (1000.0 * self.network.config.timestep_scale),
            return_dict=False,
        )[0]
