"""`pickscore`: PickScore v1 (Kirstain et al. 2023, arXiv:2305.01569), the cosine of a tuned CLIP-H times its scale."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from apex_cli.evaluation import resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import PICKSCORE
from apex_cli.evaluation.clip import Clip
from apex_cli.evaluation.pairs import PairProtocol, PairScorer


class Scaled(Clip):
    def forward(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        return self.scale * super().forward(pixels, prompts)


class PickScore(PairProtocol):
    name = "pickscore"
    asset = PICKSCORE

    def scorer(self, found: Found) -> PairScorer:
        from transformers import CLIPConfig

        config: Any = CLIPConfig.from_pretrained(found.folder)
        side = config.vision_config.image_size
        identity = {"network": "clip", "weights": found.sha256, "resize": f"clip-{side}", "scale": "learned"}
        return PairScorer(identity, lambda pixels: resizing.clip(pixels, side), lambda: Scaled(found.folder))
