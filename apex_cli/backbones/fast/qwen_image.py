"""Qwen-Image folded: modulation, projections, the 2-D autoencoder, and the text behind the chat template."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apex_cli.backbones.fast import frame, modulation, projections
from apex_cli.backbones.fast.reader import PrefixedReader
from apex_cli.backbones.fast.twin import Fast
from apex_cli.backbones.pipelines import exact_time
from apex_cli.backbones.qwen_image import QwenImage
from apex_cli.flow.condition import Cond


class FastQwenImage(Fast, QwenImage):
    """The twin of a `QwenImage`."""

    def fold(self, times: tuple[float, ...]) -> list[str]:
        modulation.fold_qwen(self.network, times)
        projections.fuse_qwen(self.network)
        frame.fold(self.autoencoder)
        language_model = self.text_encoder.model.language_model
        prefix = self.pipeline.tokenizer.encode(self.pipeline.prompt_template_encode.partition("{}")[0])
        self.text_encoder = PrefixedReader(language_model, prefix)
        like = self.autoencoder.post_quant_conv.weight
        for name, values in zip(("mean", "std"), self._statistics(like), strict=True):
            self.autoencoder.register_buffer(name, values, persistent=False)
        self.times = times
        return ["modulation", "projections", "frame", "prefix"]

    def real(self, tokens: Any) -> list[int]:
        return (tokens.attention_mask.sum(1) - self.head).tolist()

    def embed(self, tokens: Any) -> Cond:
        """Qwen2.5-VL's last hidden state behind the template."""
        reader, ids = self.text_encoder, tokens.input_ids
        follows, device = reader.follows(ids), reader.device
        mask = tokens.attention_mask[:, self.head :].bool().to(device)
        if follows:
            return Cond(reader.after(ids[:, self.head :].to(device)), mask)
        return Cond(reader.whole(ids.to(device))[:, self.head :], mask)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Those on the device; made anew, they would be copied there for every picture."""
        if hasattr(self.autoencoder, "mean"):
            return self.autoencoder.mean, self.autoencoder.std
        return super()._statistics(like)

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """As the plain one, with the mask of text and image made once for all blocks."""
        batch, channels, height, width = x_t.shape
        image = cond.mask.new_ones(batch, height * width // 4)
        mask = torch.cat([cond.mask, image], dim=1)[:, None, None]
        with exact_time(self.network.time_text_embed, t):
            patches = self.network(
                hidden_states=self.pipeline._pack_latents(x_t, batch, channels, height, width),
                encoder_hidden_states=cond.tokens,
                timestep=t,
                img_shapes=[[(1, height // 2, width // 2)]] * batch,
                attention_kwargs={"joint_mask": mask},
                return_dict=False,
            )[0]
        return self.pipeline._unpack_latents(patches, height, width, 1)[:, :, 0]
