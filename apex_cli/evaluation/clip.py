"""CLIP through transformers: prompts cut to the model's length with the end token kept, and the cosine of a pair.

A tokenizer that cuts after adding the end token loses it, pools the text on its start, and gives every long prompt the
same features; here the end token is always last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from apex_cli.errors import SetupError


class Clip(nn.Module):
    """A `CLIPModel` with its tokenizer, from a folder or a hub id; weights of safetensors only. `SetupError` where they
    cannot be read."""

    def __init__(self, source: str | Path):
        super().__init__()
        from safetensors import SafetensorError
        from transformers import CLIPModel, CLIPTokenizer

        try:
            self.model: Any = CLIPModel.from_pretrained(source, use_safetensors=True).eval().requires_grad_(False)
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(source)
        except (OSError, ValueError, SafetensorError) as error:
            told = f"The CLIP model '{source}' could not be read: {str(error).splitlines()[0]}"
            remedy = "Name a folder that has it, get the weights again (apex eval prepare clip), or check the network."
            raise SetupError(told, remedy) from error

    @property
    def side(self) -> int:
        return self.model.config.vision_config.image_size

    def tokens(self, prompts: list[str]) -> Any:
        """`input_ids` and `attention_mask` [B, L], L at most what the model reads."""
        length = self.model.config.text_config.max_position_embeddings
        return self.tokenizer(prompts, padding=True, truncation=True, max_length=length, return_tensors="pt")

    def forward(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """Cosine of each picture [B, 3, side, side] with its prompt: [B]."""
        made = self.model(pixel_values=pixels, **self.tokens(prompts).to(pixels.device))
        return cosine_similarity(made.image_embeds, made.text_embeds)

    @property
    def scale(self) -> float:
        """The learned factor of its logits."""
        return float(self.model.logit_scale.exp())


def require_quick_gelu(config: Any) -> None:
    """OpenAI's CLIP was trained with x sigmoid(1.702 x); with another activation its scores are silently wrong."""
    for tower in (config.text_config, config.vision_config):
        if tower.hidden_act != "quick_gelu":
            told = f"These CLIP weights are set up with {tower.hidden_act} instead of quick_gelu."
            raise SetupError(told, "Take config.json of openai/clip-vit-large-patch14.")
