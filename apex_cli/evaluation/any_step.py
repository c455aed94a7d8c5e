"""Qwen-Image with a second time, as TwinFlow publishes it (arXiv:2512.05150): stock but for one more embedding.

    time embedding = e1(t) + t e2(r),    r the time that the step leads to

Its sampler always asks for the end, r = 0, and renoises; with that the network runs in the stock pipeline.
"""

from __future__ import annotations

from functools import wraps
from typing import Any


def qwen_image() -> type:
    """A class for `from_pretrained`: `QwenImageTransformer2DModel` with `time_text_embed_2`, asked for r = 0."""
    import torch
    from diffusers import QwenImageTransformer2DModel
    from diffusers.models.transformers.transformer_qwenimage import QwenTimestepProjEmbeddings

    class AnyStepQwenImage(QwenImageTransformer2DModel):
        @wraps(QwenImageTransformer2DModel.__init__)  # diffusers reads the names of the settings off the signature
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.time_text_embed_2 = QwenTimestepProjEmbeddings(self.inner_dim)
            self.time_text_embed.register_forward_hook(self._to_the_end)

        def _to_the_end(self, module: Any, asked: tuple, made: Any) -> Any:
            t, hidden = asked[:2]
            return made + self.time_text_embed_2(torch.zeros_like(t), hidden) * t[:, None].to(made)

    return AnyStepQwenImage
