"""What FLUX and Stable Diffusion 3 share: CLIP and T5 read the prompt, and text and image meet in joint attention.

Prompts are padded to a fixed length and the network attends to the padding: every position of `Cond` is real, and a
condition shift acts on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from apex_cli.backbones.pipelines import PipelineBackbone
from apex_cli.flow.condition import Cond


class ClipT5Backbone(PipelineBackbone):
    """`text_encoder` holds every text encoder of the pipeline."""

    t5: ClassVar[str]
    """Number of the one that is T5, as in the names of the pipeline's components."""
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    masks_text = False

    def __init__(self, config: Any, transformer: nn.Module | None = None):
        super().__init__(config, transformer)
        parts = self.pipeline.components
        self.text_encoder = nn.ModuleDict(
            {name: part for name, part in parts.items() if name.startswith("text_encoder") and part is not None}
        )

    def _measure(self) -> None:
        super()._measure()
        self.pooled_dim = self.network.config.pooled_projection_dim

    def lengths(self) -> dict[str, int]:
        """Tokens that each text encoder reads, by its number: "" for the first, "_2"..."""
        clip: int = self.pipeline.tokenizer_max_length
        numbers = [name.removeprefix("text_encoder") for name in self.text_encoder]
        return {number: self.config.max_tokens if number == self.t5 else clip for number in numbers}

    def tokenise(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids [B, length] for every text encoder."""
        return {
            number: getattr(self.pipeline, f"tokenizer{number}")(
                list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
            ).input_ids
            for number, length in self.lengths().items()
        }

    def read(self, number: str, tokens: dict[str, Tensor]) -> Any:
        """What the text encoder `number` answers."""
        encoder = getattr(self.pipeline, f"text_encoder{number}")
        return encoder(tokens[number].to(encoder.device), output_hidden_states=True)

    @staticmethod
    def whole(tokens: Tensor, pooled: Tensor) -> Cond:
        """A condition without padding: `tokens` [B, L, D], `pooled` [B, P]."""
        return Cond(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), pooled)
