"""`fd-dinov2`: the Frechet distance on DINOv2 ViT-L/14 (Stein et al. 2023, arXiv:2306.04675), as in edm2.

The class token after the last norm, at 224. transformers resamples the position embedding to 16 x 16 in its own way.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from apex_cli.evaluation import resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import DINOV2
from apex_cli.evaluation.distances import FrechetDistance
from apex_cli.evaluation.features import Extractor

SIDE = 224


class ClassToken(nn.Module):
    """[B, 3, 224, 224] -> [B, d]."""

    def __init__(self, folder: Any):
        super().__init__()
        from transformers import Dinov2Model

        self.model = Dinov2Model.from_pretrained(folder, use_safetensors=True).eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).pooler_output


class FdDinov2(FrechetDistance):
    base = "fd-dinov2"
    asset = DINOV2

    def extractor(self, found: Found) -> Extractor:
        identity = {"network": "dinov2", "weights": found.sha256, "resize": f"edm2-{SIDE}"}
        return Extractor(identity, lambda pixels: resizing.dinov2(pixels, SIDE), lambda: ClassToken(found.folder))
