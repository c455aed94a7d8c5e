"""Qwen-Image: diffusers' 20B MMDiT, AutoencoderKLQwenImage and Qwen2.5-VL behind the `Backbone` protocol.

What differs from the common convention: latents travel as 2 x 2 patches with `img_shapes` beside them, the autoencoder
is a video one (5-D, one frame) whose latents are normalised by a mean and deviation per channel, and every prompt
stands in a chat template whose first 34 tokens are dropped. The time argument is t itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from apex_cli.backbones import one_frame
from apex_cli.backbones.pipelines import PipelineBackbone, PipelineConfig, exact_time
from apex_cli.flow.condition import Cond
from apex_cli.worlds.shapes.qwen_pipeline import TinyQwenConfig, build_qwen_pipeline


class QwenImageConfig(PipelineConfig):
    tiny: TinyQwenConfig = TinyQwenConfig()
    """Sizes of a fresh pipeline of the shapes world; read only without `path`."""
    max_tokens: int = Field(default=512, gt=0, le=1024)
    """Prompt length kept, as `max_sequence_length` of the stock pipeline; the chat template is not counted."""


class QwenImage(PipelineBackbone):
    """One loaded `QwenImagePipeline`; `network` is its transformer."""

    Config = QwenImageConfig
    lora_targets = (
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
        "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2",
    )  # fmt: skip
    pipeline_class = "QwenImagePipeline"
    scale_invariant_text = True  # an RMSNorm stands before the first layer
    patch = 2

    def __init__(self, config: QwenImageConfig, transformer: nn.Module | None = None):
        super().__init__(config, transformer)
        counted = torch.get_default_device().type == "meta"  # what is counted stays as written
        if self.autoencoder is not None and not counted:
            one_frame.narrow(self.autoencoder)
        last = f"transformer.transformer_blocks.{len(self.network.transformer_blocks) - 1}"
        # The text stream ends in the last block; of Qwen2.5-VL only the text model is asked, and no word is predicted.
        self.unused = (
            f"{last}.attn.to_add_out",
            f"{last}.txt_mlp",
            "text_encoder.model.visual",
            "text_encoder.lm_head",
        )

    @staticmethod
    def fresh(tiny: TinyQwenConfig):
        return build_qwen_pipeline(tiny)

    def dimensions(self) -> tuple[int, int, int]:
        facts = self.network.config
        return facts.in_channels // 4, self.autoencoder.spatial_compression_ratio, facts.joint_attention_dim

    @property
    def head(self) -> int:
        """Tokens of the chat template before the prompt; their states are dropped."""
        return self.pipeline.prompt_template_encode_start_idx

    def tokenise(self, prompts: Sequence[str]) -> Any:
        """Prompts within the chat template, padded on the right."""
        tokenizer = self.pipeline.tokenizer
        tokenizer.padding_side = "right"
        return tokenizer(
            [self.pipeline.prompt_template_encode.format(prompt) for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=self.head + self.config.max_tokens,
            return_tensors="pt",
        )

    def embed(self, tokens: Any) -> Cond:
        """Qwen2.5-VL's last hidden state behind the template, as the stock pipeline computes it.

        Attention is causal and padding stands right, so that it changes nothing and slices do. The mask is always
        there (the stock pipeline drops it where no row is padded).
        """
        ids = tokens.to(self.text_encoder.device)
        states = self.text_encoder.model(input_ids=ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
        return Cond(states[:, self.head :], ids.attention_mask[:, self.head :].bool())

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the raw latents, [C, 1, 1]."""
        facts = self.autoencoder.config
        mean, std = (like.new_tensor(values)[:, None, None] for values in (facts.latents_mean, facts.latents_std))
        return mean, std

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> the posterior's mean [B, C, H/8, W/8], normalised per channel."""
        moments = self.autoencoder.quant_conv(self.autoencoder.encoder(pixels[:, :, None]))[:, :, 0]
        raw = moments[:, : self.latent_shape[0]]
        mean, std = self._statistics(raw)
        return (raw - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pixels [B, 3, H, W], without the clamp of `AutoencoderKLQwenImage.decode`: a clamped pixel has
        no gradient, and an autoencoder that starts from nothing could never leave it."""
        latents = latents.to(self.autoencoder.dtype)
        mean, std = self._statistics(latents)
        frame = self.autoencoder.post_quant_conv((latents * std + mean)[:, :, None])
        return self.autoencoder.decoder(frame)[:, :, 0]

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        batch, channels, height, width = x_t.shape
        with exact_time(self.network.time_text_embed, t):
            patches = self.network(
                hidden_states=self.pipeline._pack_latents(x_t, batch, channels, height, width),
                encoder_hidden_states=cond.tokens,
                encoder_hidden_states_mask=cond.mask,
                timestep=t,
                img_shapes=[[(1, height // 2, width // 2)]] * batch,
                guidance=None,
                return_dict=False,
            )[0]
        return self.pipeline._unpack_latents(patches, height, width, 1)[:, :, 0]
