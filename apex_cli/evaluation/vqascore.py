"""`vqascore@instructblip-flan-t5-xl`: VQAScore (Lin et al. 2024, arXiv:2404.01291), the probability of "Yes" to

    Does this figure show "PROMPT"? Please answer yes or no.

by InstructBLIP on FLAN-T5-XL, one of the models of the paper. The paper's main one, CLIP-FlanT5, has no class in
transformers; its numbers are others. The probability is that of the first token of the answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import VQASCORE
from apex_cli.evaluation.pairs import PairProtocol, PairScorer
from apex_cli.evaluation.resizing import CLIP_MEAN, CLIP_STD, normalise, unit

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'


class Yes(nn.Module):
    def __init__(self, folder: Path):
        super().__init__()
        from transformers import AutoTokenizer, InstructBlipForConditionalGeneration

        self.model: Any = InstructBlipForConditionalGeneration.from_pretrained(folder).eval().requires_grad_(False)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.qformer_tokenizer: Any = AutoTokenizer.from_pretrained(folder / "qformer_tokenizer")
        config = self.model.config
        self.image = [config.image_token_index] * config.num_query_tokens
        self.yes = self.tokenizer("Yes", add_special_tokens=False).input_ids[0]

    def forward(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """P("Yes") for each picture [B, 3, 224, 224] and its prompt: [B]."""
        questions = [QUESTION.format(prompt) for prompt in prompts]
        words = self.tokenizer(questions, padding=True, return_tensors="pt").to(pixels.device)
        lead = torch.tensor([self.image] * len(prompts), device=pixels.device)
        asked = self.qformer_tokenizer(questions, padding=True, return_tensors="pt").to(pixels.device)
        start = torch.full(
            (len(prompts), 1), self.model.config.text_config.decoder_start_token_id, device=pixels.device
        )
        said = self.model(
            pixel_values=pixels,
            input_ids=torch.cat([lead, words.input_ids], 1),
            attention_mask=torch.cat([torch.ones_like(lead), words.attention_mask], 1),
            qformer_input_ids=asked.input_ids,
            qformer_attention_mask=asked.attention_mask,
            decoder_input_ids=start,
        )
        return said.logits[:, 0].float().softmax(-1)[:, self.yes]


def prepare(pixels: np.ndarray, side: int) -> Tensor:
    """BLIP's processor: Pillow's bicubic to side x side."""
    from PIL import Image

    squashed = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    return normalise(unit(np.asarray(squashed)), CLIP_MEAN, CLIP_STD)


class VqaScore(PairProtocol):
    name = "vqascore@instructblip-flan-t5-xl"
    asset = VQASCORE
    digits = 3

    def scorer(self, found: Found) -> PairScorer:
        from transformers import InstructBlipConfig

        config: Any = InstructBlipConfig.from_pretrained(found.folder)
        side = config.vision_config.image_size
        identity = {"network": "instructblip", "weights": found.sha256, "question": QUESTION}
        return PairScorer(identity, lambda pixels: prepare(pixels, side), lambda: Yes(found.folder))
