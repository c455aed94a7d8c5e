"""`clip@sana`: the CLIP score of Sana's toolkit, 100 times the cosine of picture and whole prompt, averaged over pairs.

OpenAI's ViT-L/14, no prefix, nothing cut at 0, no factor 2.5; 77 tokens. torchmetrics' CLIPScore is none of this.
Published on MJHQ-30K, whose prompts are drawn where no other suite brings any.
Sana runs the weights in fp16 on a GPU; here they run in fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from apex_cli.evaluation import resizing
from apex_cli.evaluation.assets import Asset, Found
from apex_cli.evaluation.catalog import CLIP, MJHQ
from apex_cli.evaluation.clip import Clip, require_quick_gelu
from apex_cli.evaluation.pairs import PairConfig, PairProtocol, PairScorer


class Hundredfold(Clip):
    def forward(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        return 100 * super().forward(pixels, prompts)


class ClipSanaConfig(PairConfig):
    prompts: Path | None = None
    """MJHQ-30K's meta_data.json or its folder, where it is not in a cache."""


class ClipSana(PairProtocol):
    Config = ClipSanaConfig
    name = "clip@sana"
    asset = CLIP

    @property
    def usual(self) -> Asset | None:
        return MJHQ.at(self.config.prompts)

    def scorer(self, found: Found) -> PairScorer:
        from transformers import CLIPConfig

        config: Any = CLIPConfig.from_pretrained(found.folder)
        require_quick_gelu(config)
        side = config.vision_config.image_size
        identity = {"network": "clip", "weights": found.sha256, "resize": f"clip-{side}", "activation": "quick_gelu"}
        return PairScorer(identity, lambda pixels: resizing.clip(pixels, side), lambda: Hundredfold(found.folder))
