"""`clip@sana`: the CLIP score of Sana's toolkit, 100 times the cosine of picture and whole prompt, averaged over pairs.

OpenAI's ViT-L/14, no prefix, nothing cut at 0, no factor 2.5; 77 tokens. torchmetrics' CLIPScore is none of this.
Sana runs the weights in fp16 on a GPU; here they run in fp32.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from apex_cli.evaluation import resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import CLIP
from apex_cli.evaluation.clip import Clip, require_quick_gelu
from apex_cli.evaluation.pairs import PairProtocol, PairScorer


class Hundredfold(Clip):
    def forward(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        return 100 * super().forward(pixels, prompts)


class ClipSana(PairProtocol):
    name = "clip@sana"
    asset = CLIP

    def scorer(self, found: Found) -> PairScorer:
        from transformers import CLIPConfig

        config: Any = CLIPConfig.from_pretrained(found.folder)
        require_quick_gelu(config)
        side = config.vision_config.image_size
        identity = {"network": "clip", "weights": found.sha256, "resize": f"clip-{side}", "activation": "quick_gelu"}
        return PairScorer(identity, lambda pixels: resizing.clip(pixels, side), lambda: Hundredfold(found.folder))
