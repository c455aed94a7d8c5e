"""`cmmd`: kernel distance of CLIP embeddings (Jayasumana et al. 2024, arXiv:2401.09603), x 1000.

CLIP ViT-L/14 at 336, unit vectors, Gaussian kernel with sigma 10, the biased estimator, as its authors' code.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from apex_cli.evaluation import mmd, resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import CLIP_336
from apex_cli.evaluation.distances import KernelDistance
from apex_cli.evaluation.features import Extractor


class ImageTower(nn.Module):
    """[B, 3, side, side] -> unit vectors [B, d]."""

    def __init__(self, folder: Any):
        super().__init__()
        from transformers import CLIPVisionModelWithProjection

        self.model = CLIPVisionModelWithProjection.from_pretrained(folder).eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return normalize(self.model(pixel_values=pixels).image_embeds, dim=-1)


class Cmmd(KernelDistance):
    base = "cmmd"
    asset = CLIP_336
    kernel = staticmethod(mmd.gaussian)
    unbiased = False

    def extractor(self, found: Found) -> Extractor:
        from transformers import CLIPVisionConfig

        config: Any = CLIPVisionConfig.from_pretrained(found.folder)
        side = config.image_size
        identity = {"network": "clip-vision", "weights": found.sha256, "resize": f"cmmd-{side}"}
        return Extractor(identity, lambda pixels: resizing.cmmd(pixels, side), lambda: ImageTower(found.folder))
